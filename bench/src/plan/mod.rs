//! The plan of a run: how many rounds of what, in which order. `estimate.rs` says how long that takes, `budget.rs` what fits
//! into a time limit, and `schedule.rs` follows both while a run goes on.

mod budget;
mod estimate;
mod schedule;
#[cfg(test)]
mod whole;

use std::path::PathBuf;

use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

pub use budget::Item;
pub use estimate::{Speed, item};
pub use schedule::{Reduction, Schedule};

use crate::{
    options::{Experiment, PageCache, Preset, RunArgs},
    stats::generator,
    trace::{Policy, policy},
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
    /// The time limit in seconds, which fewer rounds and smaller sizes keep.
    #[serde(default)]
    pub budget: Option<f64>,
    /// Simultaneous requests of `burst`.
    pub bursts: Vec<u32>,
    /// Pairs of a round of `warm`, without a pause and with one.
    pub pairs: (u32, u32),
    /// Connections of `throughput`.
    pub connections: Vec<u32>,
    /// How many requests per second `load` sends.
    pub loads: Vec<Load>,
    /// Seconds of a measurement of `throughput` and of `load`.
    pub windows: (f64, f64),
    /// Instances of `memory` at each step.
    pub steps: Vec<u32>,
    /// Instances of `idle`, seconds of rest, and windows of a second.
    pub idle: (u32, u32, u32),
    /// Keep-alive policies of `replay`.
    pub policies: Vec<Policy>,
    /// Its trace. `None`: a synthetic one.
    pub trace: Option<PathBuf>,
    /// How many seconds of the trace are sent.
    pub replay: f64,
    /// Whether policies are also applied to the whole trace in virtual time.
    pub simulate: bool,
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
    /// The build that takes part beside this one.
    pub baseline: Option<PathBuf>,
    /// The daemon that is measured instead of an own one.
    pub daemon: Option<String>,
}

/// Requests per second of an open loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// A share of what the function can answer, in percent.
    Share(u32),
    /// A number.
    Rate(u32),
}

/// Simultaneous requests of `burst`.
const BURSTS: [u32; 6] = [1, 2, 5, 10, 20, 50];
const QUICK_BURSTS: [u32; 3] = [1, 5, 20];
const PAPER_BURSTS: [u32; 10] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
/// Pairs of `warm` in a round, without a pause and with one.
const PAIRS: (u32, u32) = (500, 200);
const QUICK_PAIRS: (u32, u32) = (500, 50);
/// Connections of `throughput`.
const CONNECTIONS: [u32; 6] = [1, 4, 16, 64, 256, 1024];
const QUICK_CONNECTIONS: [u32; 3] = [1, 16, 64];
/// Shares of `load`, in percent.
const SHARES: [u32; 4] = [10, 50, 80, 95];
/// Seconds of a measurement of `throughput` and of `load`.
const WINDOWS: (f64, f64) = (3.0, 10.0);
const QUICK_WINDOWS: (f64, f64) = (1.0, 2.0);
/// Instances of `memory`.
const STEPS: [u32; 11] = [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50];
const QUICK_STEPS: [u32; 3] = [0, 5, 10];
/// Instances, rest and windows of `idle`.
const IDLE: (u32, u32, u32) = (10, 10, 30);
const QUICK_IDLE: (u32, u32, u32) = (10, 3, 8);

/// Policies of `replay`, and seconds of the trace.
const POLICIES: [&str; 2] = ["keepalive=10", "keepalive=600"];
const QUICK_POLICIES: [&str; 2] = ["keepalive=2", "keepalive=600"];
const REPLAY: f64 = 90.0;
const QUICK_REPLAY: f64 = 20.0;

/// The time limit of quick runs, in minutes.
const QUICK_BUDGET: f64 = 20.0;
/// Share of a time limit for the pairs of a function in a round of `warm`, and the fewest pairs that have a median.
const PAIRS_SHARE: f64 = 0.01;
const MIN_PAIRS: u32 = 50;
/// Sizes that are kept of an experiment: a slope needs three.
const MIN_SIZES: usize = 2;
const MIN_STEPS: usize = 3;

/// Returns the policies that were given, or the default.
fn policies(given: &[Policy], is_quick: bool) -> Vec<Policy> {
    let default = if is_quick { QUICK_POLICIES } else { POLICIES };
    let mut policies = given.to_vec();
    if policies.is_empty() {
        // A test reads them.
        policies.extend(default.iter().filter_map(|text| policy(text).ok()));
    }
    policies.dedup_by(|one, other| one.name == other.name);
    policies
}

/// Returns what was given in ascending order, or the default.
fn list(given: &[u32], default: &[u32]) -> Vec<u32> {
    let mut list = if given.is_empty() { default.to_vec() } else { given.to_vec() };
    list.sort_unstable();
    list.dedup();
    list
}

/// Leaves out the larger half of sizes. Returns those that stay, unless there would be too few.
fn thin<T>(sizes: &mut Vec<T>, least: usize, text: impl Fn(&T) -> String) -> Option<String> {
    let count = sizes.len().div_ceil(2).max(least);
    if count >= sizes.len() {
        return None;
    }
    sizes.truncate(count);
    Some(sizes.iter().map(text).collect::<Vec<_>>().join(", "))
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(percent) => write!(f, "{percent} %"),
            Self::Rate(rate) => write!(f, "{rate}/s"),
        }
    }
}

impl Plan {
    /// Returns the plan of a command line. `seed` is used if none was given.
    pub fn of(arguments: &RunArgs, seed: u64) -> Self {
        let preset = if arguments.quick { Preset::Quick } else { arguments.preset };
        let (is_quick, is_paper) = (preset == Preset::Quick, preset == Preset::Paper);
        let mut experiments = arguments.experiments.clone();
        if experiments.is_empty() {
            experiments = Experiment::ALL.to_vec();
        }
        experiments.sort_unstable();
        experiments.dedup();
        let bursts: &[u32] = match preset {
            Preset::Quick => &QUICK_BURSTS,
            Preset::Default => &BURSTS,
            Preset::Paper => &PAPER_BURSTS,
        };
        let windows = if is_quick { QUICK_WINDOWS } else { WINDOWS };
        let idle = if is_quick { QUICK_IDLE } else { IDLE };
        let window = arguments.window;
        let rates = list(&arguments.rates, &[]).into_iter().map(Load::Rate);
        Self {
            preset,
            seed: arguments.seed.unwrap_or(seed),
            experiments,
            rounds: arguments.rounds,
            budget: arguments.budget.or_else(|| is_quick.then_some(QUICK_BUDGET)).map(|minutes| minutes * 60.0),
            bursts: list(&arguments.bursts, bursts),
            pairs: match arguments.pairs {
                Some(pairs) => (pairs, (pairs / 10).max(1)),
                None if is_quick => QUICK_PAIRS,
                None => PAIRS,
            },
            connections: list(&arguments.connections, if is_quick { &QUICK_CONNECTIONS } else { &CONNECTIONS }),
            loads: if rates.len() == 0 { SHARES.map(Load::Share).to_vec() } else { rates.collect() },
            windows: window.map_or(windows, |seconds| (seconds.into(), seconds.into())),
            steps: list(&arguments.instances, if is_quick { &QUICK_STEPS } else { &STEPS }),
            idle: (arguments.instances.iter().copied().max().unwrap_or(idle.0), idle.1, window.unwrap_or(idle.2)),
            policies: policies(&arguments.policies, is_quick),
            trace: arguments.trace.clone(),
            replay: window.map_or(if is_quick { QUICK_REPLAY } else { REPLAY }, f64::from),
            simulate: arguments.simulate,
            precision: arguments.precision,
            memory: arguments.memory.or_else(|| is_paper.then_some(512)),
            cpus: arguments.cpus.or_else(|| is_paper.then_some(1)),
            page_cache: arguments.page_cache,
            path: arguments.path.clone(),
            settle: arguments.settle.unwrap_or(if is_quick { 3 } else { 30 }),
            baseline: arguments.baseline.clone(),
            daemon: arguments.daemon.clone(),
        }
    }

    /// Returns the rounds of an experiment that count.
    pub fn rounds_of(&self, experiment: Experiment) -> u32 {
        let (default, quick) = match experiment {
            Experiment::Cold => (100, 10),
            Experiment::Warm => (20, 3),
            Experiment::Burst => (10, 3),
            Experiment::Cpu | Experiment::Alloc | Experiment::Read | Experiment::Unzip => (30, 3),
            Experiment::Throughput | Experiment::Load | Experiment::Idle => (6, 1),
            Experiment::Transfer => (10, 2),
            Experiment::Memory => (6, 2),
            Experiment::Replay => (3, 1),
        };
        self.rounds.unwrap_or(if self.preset == Preset::Quick { quick } else { default })
    }

    /// Returns the rounds of a function that count. Quick runs have a single round of bursts and of computing with an emulated
    /// processor, as these take minutes there.
    pub fn rounds_with(&self, experiment: Experiment, is_emulated: bool) -> u32 {
        let is_long = is_emulated && matches!(experiment, Experiment::Burst | Experiment::Cpu);
        if is_long && self.preset == Preset::Quick { 1 } else { self.rounds_of(experiment) }
    }

    /// Returns the pairs of `warm` in a round of a function whose requests take so many seconds: within a time limit, not more
    /// than fit into a part of it. The first of the two is without pauses.
    pub fn pairs_with(&self, request_s: f64) -> (u32, u32) {
        let Some(budget) = self.budget else { return self.pairs };
        let most = (budget * PAIRS_SHARE / (2.0 * request_s.max(1e-6))) as u32;
        let fitted = |pairs: u32, least: u32| pairs.min(most.max(least));
        (fitted(self.pairs.0, MIN_PAIRS), fitted(self.pairs.1, MIN_PAIRS / 2))
    }

    /// Returns whether rates of `load` depend on what a function can answer.
    pub fn has_shares(&self) -> bool {
        self.loads.iter().any(|load| matches!(load, Load::Share(_)))
    }

    /// Leaves out the larger half of an experiment's sizes. Returns those that stay, unless there are too few.
    pub fn thin(&mut self, experiment: Experiment) -> Option<String> {
        match experiment {
            Experiment::Burst => thin(&mut self.bursts, MIN_SIZES, u32::to_string),
            Experiment::Throughput => thin(&mut self.connections, MIN_SIZES, u32::to_string),
            Experiment::Load => thin(&mut self.loads, MIN_SIZES, Load::to_string),
            Experiment::Memory => thin(&mut self.steps, MIN_STEPS, u32::to_string),
            _ => None,
        }
    }

    /// Returns the order of a round: `0..count`, shuffled. The same for the same seed.
    pub fn order(&self, experiment: Experiment, round: u32, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut generator(self.seed, &format!("order of {} {round}", experiment.name())));
        order
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
        let of_emulated = |plan: &Plan, experiment| plan.rounds_with(experiment, true);
        assert_eq!((of_emulated(&quick, Experiment::Cpu), of_emulated(&quick, Experiment::Cold)), (1, 10));
        assert_eq!((of_emulated(&paper, Experiment::Cpu), quick.rounds_with(Experiment::Cpu, false)), (30, 3));
        assert_eq!((quick.budget, paper.budget, plan(&["--budget", "0.5"]).budget), (Some(1200.0), None, Some(30.0)));
        assert_eq!(quick.experiments, [Experiment::Cold, Experiment::Burst]);
        assert_eq!((paper.memory, paper.cpus, paper.bursts[9]), (Some(512), Some(1), 100));
        assert_eq!(plan(&["--bursts", "8,2,8"]).bursts, [2, 8]);
        assert_eq!(plan(&["--precision", "2%"]).precision, Some(0.02));
        assert_eq!(plan(&["--rates", "100"]).loads, [Load::Rate(100)]);
        let names = |plan: &Plan| plan.policies.iter().map(|policy| policy.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&quick), QUICK_POLICIES);
        assert_eq!(names(&plan(&["--policy", "keepalive=1,budget=64"])), ["keepalive=1", "budget=64"]);
        assert_eq!(plan(&["--instances", "0,4", "--window", "2"]).idle, (4, 10, 2));
    }

    #[test]
    fn slow_requests_have_fewer_pairs_within_a_time_limit() {
        let (quick, default) = (plan(&["--quick"]), plan(&[]));
        assert_eq!([0.001, 0.04, 1.0].map(|seconds| quick.pairs_with(seconds)), [(500, 50), (150, 50), (50, 25)]);
        assert_eq!(default.pairs_with(1.0), (500, 200));
    }

    #[test]
    fn the_larger_half_of_sizes_is_left_out() {
        let mut plan = plan(&[]);
        assert_eq!(plan.thin(Experiment::Burst).as_deref(), Some("1, 2, 5"));
        assert_eq!(plan.thin(Experiment::Load).as_deref(), Some("10 %, 50 %"));
        assert_eq!(plan.thin(Experiment::Load), None);
        assert_eq!((plan.thin(Experiment::Memory).as_deref(), plan.steps.len()), (Some("0, 5, 10, 15, 20, 25"), 6));
        assert_eq!(plan.thin(Experiment::Cold), None);
    }
}
