//! What fits into a time: pure arithmetic over the functions of each experiment.
//!
//! First rounds are left out, always of what takes longest, but not below what statistics need. A function that still takes
//! more than a share of the time for an experiment has a single round of it, or is left out of it, so that a slow one does not
//! cost the others theirs. Then the larger half of an experiment's sizes is left out, for all functions. At last, more
//! functions have a single round of experiments, or are left out of them: those that take longest for what they are worth.

use std::collections::BTreeSet;

use crate::{options::Experiment, stats::MIN_ROUNDS};

/// A function in an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The experiment.
    pub experiment: Experiment,
    /// The function.
    pub function: String,
    /// The most rounds that it may have.
    pub wanted: u32,
    /// Rounds that it had, with the one to warm up. `None`: its experiment has not begun.
    pub had: Option<u32>,
    /// Those of them that count, without the one to warm up.
    pub counted: u32,
    /// Seconds of a round.
    pub round_s: f64,
    /// Seconds of a round with the smaller half of the sizes. `None`: they cannot be left out.
    pub thin_s: Option<f64>,
    /// Seconds before its first round.
    pub fixed_s: f64,
}

/// What fits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fit {
    /// Rounds of each item, without the one to warm up. 0: none, or no more than it had.
    pub rounds: Vec<u32>,
    /// Experiments that have only the smaller half of their sizes.
    pub thinned: BTreeSet<Experiment>,
    /// Seconds of all that is left to do.
    pub seconds: f64,
}

/// Returns the rounds that an item runs for so many that count: one more to warm up, but a single one does without.
pub const fn run_rounds(experiment: Experiment, rounds: u32) -> u32 {
    if experiment.has_warmup() && rounds > 1 { rounds + 1 } else { rounds }
}

/// Returns the fewest rounds that are worth their time: as many as an interval needs, if as many were wanted.
pub fn least_rounds(wanted: u32) -> u32 {
    let needed = MIN_ROUNDS as u32;
    if wanted >= needed { needed } else { wanted.min(1) }
}

/// How many times as much as another the rest of an item is worth that has begun: without it, its rounds so far are in vain.
const BEGUN: f64 = 5.0;

/// Returns what the figures of an experiment are worth beside those of others.
const fn worth(experiment: Experiment) -> f64 {
    match experiment {
        Experiment::Cold => 8.0,
        Experiment::Warm => 6.0,
        Experiment::Burst | Experiment::Memory => 5.0,
        Experiment::Cpu | Experiment::Idle | Experiment::Throughput => 4.0,
        Experiment::Load => 3.0,
        Experiment::Alloc | Experiment::Read | Experiment::Unzip | Experiment::Transfer => 2.0,
        Experiment::Replay => 1.0,
    }
}

impl Item {
    /// Returns the seconds of what is left to do for so many rounds.
    fn cost(&self, rounds: u32, thinned: &BTreeSet<Experiment>) -> f64 {
        let left = run_rounds(self.experiment, rounds).saturating_sub(self.had.unwrap_or(0));
        // A single round follows the one to warm up, if that was run already.
        let left = left.max(rounds.saturating_sub(self.counted));
        if left == 0 {
            return 0.0;
        }
        let thin = self.thin_s.filter(|_| thinned.contains(&self.experiment));
        let fixed = if self.had.is_none() { self.fixed_s } else { 0.0 };
        fixed + f64::from(left) * thin.unwrap_or(self.round_s)
    }
}

/// Returns what fits into so many seconds. `share` is how many of them a function may have for an experiment, if not all fits.
pub fn fit(items: &[Item], available: f64, share: f64) -> Fit {
    let mut least: Vec<u32> = items.iter().map(|item| least_rounds(item.wanted)).collect();
    let (mut thinned, mut dropped) = (BTreeSet::new(), Vec::new());
    let cost = |rounds: &[u32], thinned: &BTreeSet<Experiment>| -> f64 {
        items.iter().zip(rounds).map(|(item, rounds)| item.cost(*rounds, thinned)).sum()
    };
    while cost(&least, &thinned) > available {
        let longest = dearest(items, &least, &thinned, share);
        let thinnest = thinnest(items, &least, &thinned).filter(|_| longest.is_none());
        if let Some(experiment) = thinnest {
            thinned.insert(experiment);
        } else if let Some(place) = longest.or_else(|| dearest(items, &least, &thinned, 0.0)) {
            // A median without an interval is more than nothing.
            let fewer = if least[place] > 1 { 1 } else { 0 };
            dropped.push((place, std::mem::replace(&mut least[place], fewer)));
        } else {
            break;
        }
    }
    // What was left out before something longer may fit now.
    for (place, rounds) in dropped.into_iter().rev() {
        let fewer = std::mem::replace(&mut least[place], rounds);
        if cost(&least, &thinned) > available {
            least[place] = fewer;
        }
    }
    let mut rounds: Vec<u32> =
        items.iter().zip(&least).map(|(item, least)| if *least > 0 { item.wanted } else { 0 }).collect();
    let mut seconds = cost(&rounds, &thinned);
    while seconds > available {
        let costs =
            items.iter().zip(&rounds).zip(&least).enumerate().filter(|(_, ((_, rounds), least))| rounds > least);
        let longest = costs.map(|(place, ((item, rounds), _))| (place, item.cost(*rounds, &thinned)));
        let Some((place, _)) = longest.max_by(|one, other| one.1.total_cmp(&other.1)) else { break };
        rounds[place] -= 1;
        seconds = cost(&rounds, &thinned);
    }
    Fit { rounds, thinned, seconds }
}

/// Returns the experiment whose larger sizes take longest, of those that still have them.
fn thinnest(items: &[Item], rounds: &[u32], thinned: &BTreeSet<Experiment>) -> Option<Experiment> {
    let saved = |experiment: Experiment| -> f64 {
        let both = BTreeSet::from([experiment]);
        let of = items.iter().zip(rounds).filter(|(item, _)| item.experiment == experiment);
        of.map(|(item, rounds)| item.cost(*rounds, &BTreeSet::new()) - item.cost(*rounds, &both)).sum()
    };
    let left = Experiment::ALL.into_iter().filter(|experiment| !thinned.contains(experiment));
    let most = left.map(|experiment| (experiment, saved(experiment))).filter(|(_, seconds)| *seconds > 0.0);
    most.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(experiment, _)| experiment)
}

/// Returns the item that takes longest for what it is worth, of those that take more than so many seconds.
fn dearest(items: &[Item], rounds: &[u32], thinned: &BTreeSet<Experiment>, seconds: f64) -> Option<usize> {
    let price = |(place, (item, rounds)): (usize, (&Item, &u32))| {
        let cost = item.cost(*rounds, thinned);
        let begun = if item.had.is_some() { BEGUN } else { 1.0 };
        (cost > seconds).then_some((place, cost / (worth(item.experiment) * begun)))
    };
    let prices = items.iter().zip(rounds).enumerate().filter_map(price);
    prices.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(experiment: Experiment, function: &str, wanted: u32, round_s: f64) -> Item {
        let function = function.to_owned();
        Item { experiment, function, wanted, had: None, counted: 0, round_s, thin_s: None, fixed_s: 0.0 }
    }

    #[test]
    fn all_fits_into_enough_time() {
        let items = [item(Experiment::Cold, "a", 10, 1.0), item(Experiment::Load, "a", 1, 5.0)];
        let fit = fit(&items, 16.0, f64::INFINITY);
        assert_eq!((fit.rounds, fit.seconds), (vec![10, 1], 16.0), "the round to warm up costs as well");
    }

    #[test]
    fn rounds_of_what_takes_longest_are_left_out_first() {
        let items = [item(Experiment::Cold, "fast", 10, 1.0), item(Experiment::Cold, "slow", 10, 20.0)];
        let fit = fit(&items, 200.0, f64::INFINITY);
        assert_eq!(fit.rounds, [10, 8], "{fit:?}");
        assert!(fit.seconds <= 200.0);
    }

    #[test]
    fn rounds_stay_as_many_as_an_interval_needs() {
        let items = [item(Experiment::Cold, "slow", 10, 20.0), item(Experiment::Warm, "slow", 3, 10.0)];
        assert_eq!(fit(&items, 150.0, f64::INFINITY).rounds, [6, 1]);
        assert_eq!([0, 1, 3, 6, 100].map(least_rounds), [0, 1, 1, 6, 6]);
    }

    #[test]
    fn sizes_are_left_out_before_experiments_and_for_all_functions() {
        let burst =
            |function, round_s| Item { thin_s: Some(round_s / 4.0), ..item(Experiment::Burst, function, 3, round_s) };
        let items = [burst("a", 8.0), burst("b", 40.0), item(Experiment::Replay, "a", 1, 10.0)];
        let fit = fit(&items, 30.0, f64::INFINITY);
        assert_eq!(fit.thinned, BTreeSet::from([Experiment::Burst]));
        assert_eq!(fit.rounds, [3, 1, 1], "what the larger sizes took is spent on rounds");
    }

    #[test]
    fn a_slow_function_is_left_out_before_others_lose_sizes() {
        let burst = |function, round_s| Item { thin_s: Some(1.0), ..item(Experiment::Burst, function, 3, round_s) };
        let items = [burst("a", 8.0), burst("b", 8.0), item(Experiment::Replay, "slow", 1, 60.0)];
        let fit = fit(&items, 70.0, 20.0);
        assert_eq!((fit.rounds, fit.thinned), (vec![3, 3, 0], BTreeSet::new()));
    }

    #[test]
    fn what_is_worth_least_for_its_time_is_left_out_last() {
        let items = [item(Experiment::Cold, "slow", 10, 20.0), item(Experiment::Replay, "a", 1, 40.0)];
        assert_eq!(fit(&items, 145.0, f64::INFINITY).rounds, [6, 0]);
        assert_eq!(fit(&items, 60.0, f64::INFINITY).rounds, [1, 1], "a round is more than nothing");
        assert_eq!(fit(&items, 30.0, f64::INFINITY).rounds, [1, 0]);
        let fit = fit(&items, 0.0, f64::INFINITY);
        assert_eq!((fit.rounds, fit.seconds), (vec![0, 0], 0.0));
    }

    #[test]
    fn what_has_begun_is_rather_ended_than_something_else_begun() {
        let begun = Item { had: Some(1), ..item(Experiment::Cold, "a", 6, 10.0) };
        let items = [begun, item(Experiment::Warm, "a", 1, 40.0)];
        assert_eq!(fit(&items, 70.0, f64::INFINITY).rounds, [6, 0]);
        let items = [Item { had: None, ..items[0].clone() }, items[1].clone()];
        assert_eq!(fit(&items, 70.0, f64::INFINITY).rounds, [2, 1]);
    }

    #[test]
    fn what_has_begun_costs_only_its_rest() {
        let begun = Item { had: Some(8), counted: 7, fixed_s: 100.0, ..item(Experiment::Cold, "a", 10, 10.0) };
        assert_eq!(fit(std::slice::from_ref(&begun), 30.0, f64::INFINITY).rounds, [10]);
        assert_eq!(fit(std::slice::from_ref(&begun), 29.0, f64::INFINITY).rounds, [9]);
        assert_eq!(fit(&[begun], 0.0, f64::INFINITY).rounds, [7], "seven and the one to warm up are there");
    }

    #[test]
    fn a_single_round_after_the_one_to_warm_up_costs_a_round() {
        let warm = Item { had: Some(1), ..item(Experiment::Cold, "a", 10, 10.0) };
        assert_eq!(fit(std::slice::from_ref(&warm), 9.0, f64::INFINITY).rounds, [0]);
        let fit = fit(&[warm], 10.0, f64::INFINITY);
        assert_eq!((fit.rounds, fit.seconds), (vec![1], 10.0));
    }
}
