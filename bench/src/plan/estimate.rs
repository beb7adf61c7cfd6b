//! How long an experiment takes with a function, from start times that are usual for its kind.

use super::Plan;
use crate::{
    options::{Experiment, PageCache},
    registry::Source,
};

/// Seconds of a round's share that are no measurement: ends of instances, looks at the machine.
const OVERHEAD: f64 = 0.4;

/// Returns about how many seconds an experiment takes with a function.
pub fn seconds(plan: &Plan, experiment: Experiment, source: &Source) -> f64 {
    let start = usual_start(source);
    // An emulated processor takes many times as long for work.
    let slow = if source.sandbox.emulated { 12.0 } else { 1.0 };
    let is_counted = |round: &u32| plan.has_round(experiment, *round, source.sandbox.emulated);
    let rounds = plan.rounds(experiment).filter(is_counted).count() as f64;
    let caches = if plan.page_cache == PageCache::Both { 2.0 } else { 1.0 };
    let one = match experiment {
        Experiment::Cold => {
            let restored = if source.can_restore() { 1.0 } else { 0.0 };
            caches * (start + OVERHEAD) + 0.6 + restored
        }
        Experiment::Warm => {
            let (busy, paused) = plan.pairs;
            start + OVERHEAD + f64::from(busy) * 0.001 + f64::from(paused) * 0.024
        }
        // Starts share the processors.
        Experiment::Burst => {
            let requests: u32 = plan.bursts.iter().sum();
            f64::from(requests) * start * 0.5 + plan.bursts.len() as f64 * OVERHEAD
        }
        Experiment::Cpu => caches * (3.0 * (start + OVERHEAD) + 3.0 * slow),
        Experiment::Alloc => caches * (start + OVERHEAD + 0.1 * slow),
        Experiment::Read | Experiment::Unzip => caches * (start + OVERHEAD + 0.3 * slow),
        Experiment::Throughput => start + OVERHEAD + 2.0 * plan.connections.len() as f64 * (plan.windows.0 * 1.4 + 0.1),
        Experiment::Load => plan.loads.len() as f64 * (start + OVERHEAD + plan.windows.1 + 0.3),
        Experiment::Transfer => start + OVERHEAD + 0.6 * slow,
        Experiment::Memory => {
            let most = plan.steps.last().copied().unwrap_or(0);
            f64::from(most) * start * 0.5 + plan.steps.len() as f64 * 3.0
        }
        Experiment::Replay => plan.policies.len() as f64 * (plan.replay + 10.0 * start + 3.0),
        Experiment::Idle => f64::from(plan.idle.0) * start * 0.5 + f64::from(plan.idle.1 + plan.idle.2) + 1.0,
    };
    rounds * one
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
