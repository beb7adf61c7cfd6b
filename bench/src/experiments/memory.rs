//! `memory`: what more and more idle instances hold. The slope over their number is the memory of one.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::sleep;

use super::{
    Prepared, Session, Turn,
    idle_instances::{IdleInstances, enrol},
};
use crate::{
    clock,
    error::BenchError,
    host::{available_mib, cgroup_mib, proportional_mib, with_descendants},
    options::Experiment,
    registry::DerivedRegistry,
    sample::Sample,
};

/// The quantities, in MiB: memory that is no longer available, proportional set size, and what cgroups count.
pub const AVAILABLE: &str = "available-mib";
pub const PROPORTIONAL: &str = "pss-mib";
pub const CGROUP: &str = "cgroup-mib";
/// Share of the host's memory that is left.
const MIN_LEFT: f64 = 0.15;
/// Memory is stable if it changes by less than this in a window, in MiB.
const STABLE_MIB: f64 = 1.0;
const STABLE_WINDOW: Duration = Duration::from_secs(2);
const STABLE_LOOKS: u32 = 7;
/// The options of a daemon that may use the whole memory.
pub const OPTIONS: &[(&str, &str)] = &[("--memory-budget", "95%")];

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    Ok((enrol(session, Experiment::Memory, registries)?, OPTIONS))
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let mut instances = IdleInstances::new(turn);
    let samples = series(turn, &mut instances).await;
    let ended = instances.end().await;
    let samples = samples?;
    ended.map(|()| samples)
}

async fn series(turn: &Turn<'_>, instances: &mut IdleInstances<'_>) -> Result<Vec<Sample>, BenchError> {
    let mut samples = Vec::new();
    let Some((start, all)) = stable().await else {
        return Ok(vec![turn.failed("the machine does not say how much memory is available")]);
    };
    for step in &turn.session.plan.steps {
        turn.session.interrupt.check()?;
        let missing = step.saturating_sub(instances.count());
        if missing > 0 {
            if available_mib().is_none_or(|(left, _)| left < MIN_LEFT * all) {
                break;
            }
            if let Err(obstacle) = instances.add(missing).await? {
                samples.push(turn.failed(obstacle));
                break;
            }
        }
        let Some((left, _)) = stable().await else { break };
        let pids = instances.pids().await?;
        let model = Sample { n: *step, ..turn.sample() };
        samples.push(model.quantity(AVAILABLE, start - left));
        let trees: BTreeSet<i32> = with_descendants(&pids);
        let empty = pids.is_empty().then_some(0.0);
        samples.extend(empty.or_else(|| proportional_mib(&trees)).map(|size| model.quantity(PROPORTIONAL, size)));
        samples.extend(empty.or_else(|| cgroup_mib(&pids)).map(|size| model.quantity(CGROUP, size)));
    }
    Ok(samples)
}

/// Waits until the available memory is stable, for a limited time, and returns it, and all memory.
async fn stable() -> Option<(f64, f64)> {
    let mut last = available_mib()?;
    let began = clock::now();
    for _ in 0..STABLE_LOOKS {
        sleep(STABLE_WINDOW).await;
        let now = available_mib()?;
        let is_stable = (now.0 - last.0).abs() < STABLE_MIB;
        last = now;
        if is_stable || clock::now().saturating_sub(began) > 15_000_000_000 {
            break;
        }
    }
    Some(last)
}
