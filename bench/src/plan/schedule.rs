//! The rounds of each function in each experiment, fitted again and again into the time that is left.
//!
//! Durations are estimates at first. What turns take replaces them: those of the last round for the same experiment, and
//! their ratio to the estimates for the function's other experiments. Times are given, so that tests have a clock of their own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

use super::budget::{Item, fit, run_rounds};
use crate::options::Experiment;

/// How far the turns of a function change the estimates of its other experiments.
const FACTORS: RangeInclusive<f64> = 0.2..=50.0;
/// Share of a time limit that is kept for the end of the last daemon and for the report, and the most of it in seconds.
const CLOSING: (f64, f64) = (0.1, 45.0);

/// A function that has fewer rounds of an experiment than wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reduction {
    /// The experiment.
    pub experiment: Experiment,
    /// The function.
    pub function: String,
    /// Its rounds, without the one to warm up.
    pub rounds: u32,
    /// How many were wanted.
    pub wanted: u32,
    /// Seconds of one.
    pub round_s: f64,
}

/// A function in an experiment.
#[derive(Debug)]
struct Job {
    /// With what was estimated.
    item: Item,
    wanted: u32,
    /// The durations of its last turns, at most those of a round.
    turns: VecDeque<f64>,
    /// Its turns in a round.
    turns_per_round: usize,
    is_over: bool,
}

/// How many times as long as expected a turn may wait for instances, and the shortest round that counts, in seconds.
const WAIT_FACTOR: f64 = 2.0;
const MIN_ROUND: f64 = 10.0;
/// Share of the time limit that a function may have for an experiment, if not all fits.
const SHARE: f64 = 0.1;

/// What is left to do.
#[derive(Debug, Default)]
pub struct Schedule {
    /// Seconds since the begin of the run at which the last measurement has to end.
    end: Option<f64>,
    jobs: Vec<Job>,
    thinned: BTreeSet<Experiment>,
    /// What the turns of each function should have taken, and have taken.
    paces: BTreeMap<String, (f64, f64)>,
    /// Seconds of all that is left.
    left: f64,
}

impl Schedule {
    /// Returns a schedule that ends within a limit, in seconds since the begin of the run, and the seconds without it.
    /// [`Schedule::refit`] fits it into the limit.
    pub fn new(items: Vec<Item>, limit: Option<f64>) -> Self {
        let job =
            |item: Item| Job { wanted: item.wanted, item, turns: VecDeque::new(), turns_per_round: 1, is_over: false };
        let end = limit.map(|limit| limit - (limit * CLOSING.0).min(CLOSING.1));
        let mut schedule = Self { end, jobs: items.into_iter().map(job).collect(), ..Self::default() };
        schedule.left = fit(&schedule.items(), f64::INFINITY, f64::INFINITY).seconds;
        schedule
    }

    /// Returns the seconds since the begin of the run at which the last measurement has to end.
    pub const fn end(&self) -> Option<f64> {
        self.end
    }

    /// Returns about how many seconds are left.
    pub const fn left(&self) -> f64 {
        self.left
    }

    /// Fits what is left into the time that is left. An experiment that has begun gets no further rounds. Returns the
    /// experiments whose larger sizes are left out from now on.
    pub fn refit(&mut self, now: f64) -> Vec<Experiment> {
        let available = self.end.map_or(f64::INFINITY, |end| end - now);
        let share = self.end.map_or(f64::INFINITY, |end| end * SHARE);
        let fit = fit(&self.items(), available, share);
        for (job, rounds) in self.jobs.iter_mut().filter(|job| !job.is_over).zip(&fit.rounds) {
            job.item.wanted = if job.item.had.is_some() { job.item.wanted.min(*rounds) } else { *rounds };
        }
        self.left = fit.seconds;
        for job in self.jobs.iter_mut().filter(|job| fit.thinned.contains(&job.item.experiment)) {
            job.item.round_s = job.item.thin_s.take().unwrap_or(job.item.round_s);
        }
        let new = fit.thinned.difference(&self.thinned).copied().collect();
        self.thinned.extend(fit.thinned);
        new
    }

    /// Begins an experiment, in which each function has so many turns in a round.
    pub fn begin(&mut self, experiment: Experiment, turns: &BTreeMap<String, usize>) {
        for job in self.jobs.iter_mut().filter(|job| job.item.experiment == experiment) {
            job.item.had = Some(0);
            job.turns_per_round = turns.get(&job.item.function).copied().unwrap_or(1);
        }
    }

    /// Returns how many seconds a turn of a function may wait for instances: some times as long as all of its round takes by
    /// what is known, so that a function that does not come up leaves the others their time. `None`: without a time limit.
    pub fn wait_limit(&self, experiment: Experiment, function: &str) -> Option<f64> {
        let job = self.job(experiment, function).filter(|_| self.end.is_some())?;
        Some(WAIT_FACTOR * self.round_s(job).max(MIN_ROUND))
    }

    /// Returns whether a function has any round of an experiment.
    pub fn is_planned(&self, experiment: Experiment, function: &str) -> bool {
        self.job(experiment, function).is_some_and(|job| job.item.wanted > 0)
    }

    /// Returns whether a function takes part in a round. A single round does without one to warm up.
    pub fn has_round(&self, experiment: Experiment, function: &str, round: u32) -> bool {
        let rounds = self.job(experiment, function).map_or(0, |job| job.item.wanted);
        let first = if run_rounds(experiment, rounds) > rounds { 0 } else { 1 };
        (first..=rounds).contains(&round)
    }

    /// Notes the duration of a turn.
    pub fn note(&mut self, experiment: Experiment, function: &str, seconds: f64) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.is(experiment, function)) else { return };
        let pace = self.paces.entry(function.to_owned()).or_default();
        *pace = (pace.0 + job.item.round_s / job.turns_per_round as f64, pace.1 + seconds);
        if job.turns.len() >= job.turns_per_round {
            job.turns.pop_front();
        }
        job.turns.push_back(seconds);
    }

    /// Notes that a round of an experiment has ended.
    pub fn end_round(&mut self, experiment: Experiment, round: u32) {
        let functions: Vec<_> = self.jobs.iter().map(|job| job.item.function.clone()).collect();
        for (place, function) in functions.iter().enumerate() {
            if self.jobs[place].item.experiment == experiment && self.has_round(experiment, function, round) {
                let job = &mut self.jobs[place];
                job.item.had = job.item.had.map(|had| had + 1);
                job.item.counted += u32::from(round > 0);
            }
        }
    }

    /// Ends an experiment. What it has not done is not done.
    pub fn finish(&mut self, experiment: Experiment) {
        self.jobs.iter_mut().filter(|job| job.item.experiment == experiment).for_each(|job| job.is_over = true);
    }

    /// Returns what has fewer rounds than wanted: those that it had of experiments that are over, else those that it will
    /// have.
    pub fn reductions(&self) -> Vec<Reduction> {
        let reduction = |job: &Job| {
            let Item { experiment, function, .. } = &job.item;
            let rounds = if job.is_over { job.item.counted } else { job.item.wanted };
            let round_s = self.round_s(job);
            (rounds < job.wanted).then(|| Reduction {
                experiment: *experiment,
                function: function.clone(),
                rounds,
                wanted: job.wanted,
                round_s: (round_s * 10.0).round() / 10.0,
            })
        };
        self.jobs.iter().filter_map(reduction).collect()
    }

    fn job(&self, experiment: Experiment, function: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.is(experiment, function))
    }

    /// Returns what is left to do, with the durations that are known by now.
    fn items(&self) -> Vec<Item> {
        let item = |job: &Job| {
            let (round_s, factor) = (self.round_s(job), self.factor(&job.item.function));
            // What has not begun may have more rounds again.
            let wanted = if job.item.had.is_some() { job.item.wanted } else { job.wanted };
            let thin_s = job.item.thin_s.map(|seconds| seconds * factor).filter(|_| job.item.had.is_none());
            Item { wanted, round_s, thin_s, fixed_s: job.item.fixed_s * factor, ..job.item.clone() }
        };
        self.jobs.iter().filter(|job| !job.is_over).map(item).collect()
    }

    /// Returns how many times as long as estimated the turns of a function take.
    fn factor(&self, function: &str) -> f64 {
        let (estimated, taken) = self.paces.get(function).copied().unwrap_or_default();
        if estimated > 0.0 { (taken / estimated).clamp(*FACTORS.start(), *FACTORS.end()) } else { 1.0 }
    }

    fn round_s(&self, job: &Job) -> f64 {
        let missing = 1.0 - job.turns.len() as f64 / job.turns_per_round as f64;
        let estimated = if missing > 0.0 { missing * job.item.round_s * self.factor(&job.item.function) } else { 0.0 };
        job.turns.iter().sum::<f64>() + estimated
    }
}

impl Job {
    fn is(&self, experiment: Experiment, function: &str) -> bool {
        self.item.experiment == experiment && self.item.function == function
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Experiment::{Cold, Cpu, Idle, Replay};

    fn item(experiment: Experiment, function: &str, wanted: u32, round_s: f64) -> Item {
        let function = function.to_owned();
        Item { experiment, function, wanted, had: None, counted: 0, round_s, thin_s: None, fixed_s: 0.0 }
    }

    /// Runs experiments by a virtual clock, each turn of a function for so many seconds, and returns the end.
    fn run(schedule: &mut Schedule, experiments: &[Experiment], takes: impl Fn(&str, f64) -> f64) -> f64 {
        let mut now = 0.0;
        for experiment in experiments.iter().copied() {
            schedule.refit(now);
            schedule.begin(experiment, &BTreeMap::new());
            for round in 0..=100 {
                schedule.refit(now);
                for function in ["fast", "slow"] {
                    if schedule.has_round(experiment, function, round) {
                        let seconds = takes(function, now);
                        now += seconds;
                        schedule.note(experiment, function, seconds);
                    }
                }
                schedule.end_round(experiment, round);
            }
            schedule.finish(experiment);
        }
        now
    }

    fn rounds(schedule: &Schedule) -> Vec<(Experiment, &str, u32)> {
        schedule.jobs.iter().map(|job| (job.item.experiment, job.item.function.as_str(), job.item.counted)).collect()
    }

    #[test]
    fn without_a_limit_all_rounds_are_run() {
        let mut schedule = Schedule::new(vec![item(Cold, "fast", 10, 1.0), item(Cpu, "slow", 3, 1.0)], None);
        assert_eq!(schedule.left(), 15.0);
        assert_eq!(run(&mut schedule, &[Cold, Cpu], |_, _| 100.0), 1500.0);
        assert_eq!(rounds(&schedule), [(Cold, "fast", 10), (Cpu, "slow", 3)]);
        assert_eq!((schedule.reductions(), schedule.left()), (Vec::new(), 0.0));
    }

    #[test]
    fn a_slow_function_has_fewer_rounds_and_the_limit_is_kept() {
        let items = vec![item(Cold, "fast", 10, 1.0), item(Cold, "slow", 10, 20.0), item(Cpu, "slow", 3, 20.0)];
        let mut schedule = Schedule::new(items, Some(220.0));
        let end = run(&mut schedule, &[Cold, Cpu], |function, _| if function == "fast" { 1.0 } else { 20.0 });
        assert!(end <= schedule.end().unwrap(), "{end}");
        assert_eq!(rounds(&schedule), [(Cold, "fast", 10), (Cold, "slow", 6), (Cpu, "slow", 1)]);
        let reduced: Vec<_> =
            schedule.reductions().iter().map(|it| (it.experiment, it.rounds, it.wanted, it.round_s)).collect();
        assert_eq!(reduced, [(Cold, 6, 10, 20.0), (Cpu, 1, 3, 20.0)]);
    }

    #[test]
    fn a_function_that_gets_slower_leaves_the_others_their_time() {
        let wanted =
            [Cold, Cpu, Idle, Replay].map(|experiment| ["fast", "slow"].map(|name| item(experiment, name, 3, 1.0)));
        let mut schedule = Schedule::new(wanted.concat(), Some(90.0));
        // From the fifth second on, it takes nine times as long.
        let slower = |function: &str, now: f64| if function == "slow" && now > 5.0 { 9.0 } else { 1.0 };
        let end = run(&mut schedule, &[Cold, Cpu, Idle, Replay], slower);
        assert!(end <= schedule.end().unwrap(), "{end}");
        let of =
            |name: &str| rounds(&schedule).iter().filter(|(_, it, _)| *it == name).map(|it| it.2).collect::<Vec<_>>();
        assert_eq!(of("fast"), [3, 3, 3, 3]);
        assert!(of("slow").iter().all(|rounds| *rounds > 0) && of("slow")[3] < 3, "{:?}", of("slow"));
    }

    #[test]
    fn time_that_was_estimated_too_long_is_given_back() {
        let items = vec![item(Cold, "fast", 10, 30.0), item(Cpu, "fast", 3, 30.0)];
        let mut schedule = Schedule::new(items, Some(300.0));
        schedule.refit(0.0);
        assert!(!schedule.is_planned(Cpu, "fast") || !schedule.has_round(Cpu, "fast", 2));
        run(&mut schedule, &[Cold, Cpu], |_, _| 1.0);
        assert_eq!(rounds(&schedule)[1], (Cpu, "fast", 3));
    }

    #[test]
    fn sizes_that_were_left_out_stay_so() {
        let burst = |name: &str| Item { thin_s: Some(1.0), ..item(Experiment::Burst, name, 3, 4.0) };
        let mut schedule = Schedule::new("abcdefghijklm".split_inclusive(|_| true).map(burst).collect(), Some(50.0));
        assert_eq!(schedule.refit(0.0), [Experiment::Burst], "13 rounds of 4 s are too long");
        assert_eq!((schedule.refit(0.0), schedule.left() <= 45.0), (vec![], true));
    }

    #[test]
    fn rounds_of_a_function_follow_each_other() {
        let schedule = Schedule::new(vec![item(Cold, "a", 2, 1.0), item(Cold, "b", 1, 1.0)], None);
        let of = |name| (0..=4).filter(|round| schedule.has_round(Cold, name, *round)).collect::<Vec<_>>();
        assert_eq!((of("a"), of("b"), of("c")), (vec![0, 1, 2], vec![1], vec![]));
    }
}
