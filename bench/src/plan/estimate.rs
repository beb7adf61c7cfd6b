//! How long a round takes with a function: from what the survey has measured of it, or what is usual for its sandbox.

use std::collections::BTreeMap;

use super::{Item, Plan};
use crate::{
    options::{Experiment, PageCache},
    registry::Source,
};

/// Seconds of a turn that are no measurement: ends of instances, rests, looks at the machine.
const OVERHEAD: f64 = 0.5;
/// Seconds in which the daemon of an experiment starts and ends.
const DAEMON: f64 = 3.0;
/// Seconds in which a load finds what a function can answer.
const CAPACITY: f64 = 1.5;
/// The transfers of a round, directly and through the daemon.
const TRANSFERS: f64 = 11.0;

/// How fast a function is.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Seconds until a request without an instance is answered.
    pub start_s: f64,
    /// Seconds of a request to an instance.
    pub request_s: f64,
    /// Seconds of an experiment's work, done once.
    pub work_s: BTreeMap<Experiment, f64>,
}

impl Speed {
    /// Returns what is usual for a sandbox.
    pub fn usual(source: &Source) -> Self {
        let start_s = match (source.sandbox.name.as_str(), source.sandbox.emulated) {
            (_, true) => 2.5,
            ("process", _) => 0.02,
            ("firecracker", _) => 0.2,
            _ => 0.6,
        };
        // An emulated processor takes many times as long for work.
        let slow = if source.sandbox.emulated { 12.0 } else { 1.0 };
        let work = [
            (Experiment::Cpu, 1.5),
            (Experiment::Alloc, 0.05),
            (Experiment::Read, 0.15),
            (Experiment::Unzip, 0.15),
            (Experiment::Transfer, 0.05),
        ];
        Self { start_s, request_s: 0.0005, work_s: work.map(|(experiment, s)| (experiment, s * slow)).into() }
    }
}

/// Returns what a function does in an experiment in which it takes part `times` times.
pub fn item(plan: &Plan, experiment: Experiment, source: &Source, speed: &Speed, times: u32) -> Item {
    let mut thin = plan.clone();
    let is_thinner = thin.thin(experiment).is_some();
    Item {
        experiment,
        function: source.name.clone(),
        wanted: plan.rounds_with(experiment, source.sandbox.emulated),
        had: None,
        counted: 0,
        round_s: round_seconds(plan, experiment, source, speed, times),
        thin_s: is_thinner.then(|| round_seconds(&thin, experiment, source, speed, times)),
        fixed_s: fixed_seconds(plan, experiment, source, speed, times),
    }
}

/// Returns about how many seconds a round of an experiment takes with a function that takes part `times` times.
fn round_seconds(plan: &Plan, experiment: Experiment, source: &Source, speed: &Speed, times: u32) -> f64 {
    let Speed { start_s: start, request_s: request, work_s } = speed;
    let work = work_s.get(&experiment).copied().unwrap_or(0.0);
    let (caches, times) = (if plan.page_cache == PageCache::Both { 2.0 } else { 1.0 }, f64::from(times));
    // A function is paused and restored once, however often it takes part.
    let once = match experiment {
        Experiment::Cold => 0.6 + if source.can_restore() { 1.0 } else { 0.0 },
        _ => 0.0,
    };
    let each = match experiment {
        Experiment::Cold => caches * (start + OVERHEAD),
        Experiment::Warm => {
            let (busy, paused) = plan.pairs_with(*request);
            start + OVERHEAD + f64::from(busy) * 2.0 * request + f64::from(paused) * (0.024 + 2.0 * request)
        }
        // Starts share the processors.
        Experiment::Burst => {
            let requests: u32 = plan.bursts.iter().sum();
            f64::from(requests) * start * 0.5 + plan.bursts.len() as f64 * OVERHEAD
        }
        Experiment::Cpu => caches * (3.0 * (start + OVERHEAD) + 2.0 * work),
        Experiment::Alloc | Experiment::Read | Experiment::Unzip => caches * (start + OVERHEAD + 2.0 * work),
        Experiment::Throughput => start + OVERHEAD + 2.0 * plan.connections.len() as f64 * (plan.windows.0 * 1.4 + 0.1),
        Experiment::Load => plan.loads.len() as f64 * (start + OVERHEAD + plan.windows.1 + 0.3),
        Experiment::Transfer => start + OVERHEAD + TRANSFERS * work,
        Experiment::Memory => {
            let most = plan.steps.last().copied().unwrap_or(0);
            f64::from(most) * start * 0.5 + plan.steps.len() as f64 * 3.0
        }
        Experiment::Replay => plan.policies.len() as f64 * (plan.replay + 10.0 * start + DAEMON),
        Experiment::Idle => f64::from(plan.idle.0) * start * 0.5 + f64::from(plan.idle.1 + plan.idle.2) + 1.0,
    };
    once + times * each
}

/// Returns about how many seconds an experiment takes before its first round with a function that takes part `times` times.
fn fixed_seconds(plan: &Plan, experiment: Experiment, source: &Source, speed: &Speed, times: u32) -> f64 {
    let daemon = DAEMON / 3.0;
    match experiment {
        // The template of its snapshots.
        Experiment::Cold if source.can_restore() => daemon + 3.0 * speed.start_s,
        Experiment::Load if plan.has_shares() => daemon + f64::from(times) * (speed.start_s + CAPACITY),
        _ => daemon,
    }
}
