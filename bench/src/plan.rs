//! The plan of a run: how many rounds of what, in which order, and how long that takes.

use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

use crate::{
    options::{Experiment, PageCache, Preset, RunArgs},
    registry::Source,
    stats::generator,
};

/// Everything that was decided before the first measurement. Written to the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How much effort.
    pub preset: Preset,
    /// Determines orders and resamples.
    pub seed: u64,
    /// The experiments, in their order.
    pub experiments: Vec<Experiment>,
    /// Rounds, if they were given.
    pub rounds: Option<u32>,
    /// Simultaneous requests of `burst`.
    pub bursts: Vec<u32>,
    /// Pairs of a round of `warm`, without a pause and with one.
    pub pairs: (u32, u32),
    /// Half the width of an interval at which measuring ends early, relative to the median.
    pub precision: Option<f64>,
    /// Memory of each instance, if it was given.
    pub memory: Option<u32>,
    /// Processors of each instance, if they were given.
    pub cpus: Option<u32>,
    /// The host's page cache.
    pub page_cache: PageCache,
    /// The request, if it was given.
    pub path: Option<String>,
    /// Seconds to wait for a quiet machine.
    pub settle: u64,
}

/// Simultaneous requests of `burst`.
const BURSTS: [u32; 6] = [1, 2, 5, 10, 20, 50];
const PAPER_BURSTS: [u32; 10] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
/// Pairs of `warm` in a round, without a pause and with one.
const PAIRS: (u32, u32) = (500, 200);
const QUICK_PAIRS: (u32, u32) = (500, 50);

impl Plan {
    /// Returns the plan of a command line. `seed` is used if none was given.
    pub fn of(arguments: &RunArgs, seed: u64) -> Self {
        let preset = if arguments.quick { Preset::Quick } else { arguments.preset };
        let mut experiments = arguments.experiments.clone();
        if experiments.is_empty() {
            experiments = Experiment::ALL.to_vec();
        }
        experiments.sort_unstable();
        experiments.dedup();
        let is_paper = preset == Preset::Paper;
        let mut bursts = arguments.bursts.clone();
        if bursts.is_empty() {
            bursts = if is_paper { PAPER_BURSTS.to_vec() } else { BURSTS.to_vec() };
        }
        bursts.sort_unstable();
        bursts.dedup();
        Self {
            preset,
            seed: arguments.seed.unwrap_or(seed),
            experiments,
            rounds: arguments.rounds,
            bursts,
            pairs: match (arguments.pairs, preset) {
                (Some(pairs), _) => (pairs, (pairs / 10).max(1)),
                (None, Preset::Quick) => QUICK_PAIRS,
                (None, _) => PAIRS,
            },
            precision: arguments.precision,
            memory: arguments.memory.or_else(|| is_paper.then_some(512)),
            cpus: arguments.cpus.or_else(|| is_paper.then_some(1)),
            page_cache: arguments.page_cache,
            path: arguments.path.clone(),
            settle: arguments.settle.unwrap_or(if preset == Preset::Quick { 3 } else { 30 }),
        }
    }

    /// Returns the rounds of an experiment that count. One more warms up.
    pub fn rounds_of(&self, experiment: Experiment) -> u32 {
        self.rounds.unwrap_or(match (experiment, self.preset) {
            (Experiment::Cold, Preset::Quick) => 10,
            (Experiment::Cold, _) => 100,
            (Experiment::Warm, Preset::Quick) | (Experiment::Burst, Preset::Quick) => 3,
            (Experiment::Warm, _) => 20,
            (Experiment::Burst, _) => 10,
        })
    }

    /// Returns the order of a round: `0..count`, shuffled. The same for the same seed.
    pub fn order(&self, experiment: Experiment, round: u32, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut generator(self.seed, &format!("order of {} {round}", experiment.name())));
        order
    }

    /// Returns about how many seconds an experiment takes with a function, from start times that are usual for its kind.
    pub fn seconds(&self, experiment: Experiment, source: &Source) -> f64 {
        let start = usual_start(source);
        let rounds = f64::from(self.rounds_of(experiment) + 1);
        let caches = if self.page_cache == PageCache::Both { 2.0 } else { 1.0 };
        match experiment {
            Experiment::Cold => {
                let paused = if can_pause(source) { 0.6 } else { 0.0 };
                rounds * (caches * (start + 0.4) + paused)
            }
            Experiment::Warm => {
                let (busy, paused) = self.pairs;
                rounds * (start + 0.3 + f64::from(busy) * 0.001 + f64::from(paused) * 0.024)
            }
            Experiment::Burst => {
                let requests: u32 = self.bursts.iter().sum();
                // Starts share the processors.
                rounds * (f64::from(requests) * start * 0.5 + self.bursts.len() as f64 * 0.4)
            }
        }
    }
}

/// Returns whether instances of a function can be paused.
pub fn can_pause(source: &Source) -> bool {
    !source.has("container")
}

/// Returns how many seconds a start takes, roughly.
fn usual_start(source: &Source) -> f64 {
    match (source.sandbox.name.as_str(), source.sandbox.emulated) {
        (_, true) => 2.5,
        ("process", _) => 0.02,
        ("firecracker", _) => 0.2,
        _ => 0.6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Plan {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            run: RunArgs,
        }
        let command = <Command as clap::Parser>::try_parse_from([&["bench"], arguments].concat()).unwrap();
        Plan::of(&command.run, 42)
    }

    #[test]
    fn orders_are_permutations_that_the_seed_determines() {
        let plan = plan(&["--seed", "1"]);
        let mut order = plan.order(Experiment::Cold, 3, 20);
        assert_eq!(order, plan.order(Experiment::Cold, 3, 20));
        assert_ne!(order, plan.order(Experiment::Cold, 4, 20));
        assert_ne!(order, plan.order(Experiment::Warm, 3, 20));
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn presets_have_their_effort() {
        let (quick, paper) = (plan(&["--quick", "burst", "cold", "cold"]), plan(&["--preset", "paper"]));
        assert_eq!((quick.rounds_of(Experiment::Cold), quick.settle, quick.seed), (10, 3, 42));
        assert_eq!(quick.experiments, [Experiment::Cold, Experiment::Burst]);
        assert_eq!((paper.memory, paper.cpus, paper.bursts[9]), (Some(512), Some(1), 100));
        assert_eq!(plan(&["--bursts", "8,2,8"]).bursts, [2, 8]);
        assert_eq!(plan(&["--rounds", "7"]).rounds_of(Experiment::Burst), 7);
        assert_eq!(plan(&["--precision", "2%"]).precision, Some(0.02));
    }
}
