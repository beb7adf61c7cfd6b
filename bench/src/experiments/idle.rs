//! `idle`: the processor time and the context switches of instances without requests.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Prepared, Session, Turn,
    idle_instances::{IdleInstances, enrol},
    memory::OPTIONS,
};
use crate::{
    clock,
    error::BenchError,
    host::{Usage, with_descendants},
    options::Experiment,
    registry::DerivedRegistry,
    sample::Sample,
};

/// The quantities, for each instance and second: processor time in microseconds, and context switches.
pub const CPU: &str = "cpu-us-per-s";
pub const SWITCHES: &str = "switches-per-s";
const WINDOW: Duration = Duration::from_secs(1);

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    let mut contestants = enrol(session, Experiment::Idle, registries)?;
    contestants.iter_mut().for_each(|contestant| contestant.n = session.plan.idle.0);
    Ok((contestants, OPTIONS))
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let mut instances = IdleInstances::new(turn);
    let samples = windows(turn, &mut instances).await;
    let ended = instances.end().await;
    let samples = samples?;
    ended.map(|()| samples)
}

async fn windows(turn: &Turn<'_>, instances: &mut IdleInstances<'_>) -> Result<Vec<Sample>, BenchError> {
    let (count, rest, windows) = turn.session.plan.idle;
    if let Err(obstacle) = instances.add(count.max(1)).await? {
        return Ok(vec![turn.failed(obstacle)]);
    }
    sleep(Duration::from_secs(rest.into())).await;
    let first = instances.pids().await?;
    let pids = with_descendants(&first);
    if pids.is_empty() {
        return Ok(vec![turn.failed("the processes of its instances are not known")]);
    }
    let mut samples = Vec::new();
    let mut last = (Usage::of(&pids), clock::now());
    for _ in 0..windows {
        turn.session.interrupt.check()?;
        sleep(WINDOW).await;
        let now = (Usage::of(&pids), clock::now());
        let used = now.0.since(last.0);
        let instance_seconds = now.1.saturating_sub(last.1).max(1) as f64 / 1e9 * f64::from(count.max(1));
        let model = turn.sample();
        samples.push(model.quantity(CPU, used.cpu_ns as f64 / 1000.0 / instance_seconds));
        samples.push(model.quantity(SWITCHES, used.switches as f64 / instance_seconds));
        last = now;
    }
    Ok(samples)
}
