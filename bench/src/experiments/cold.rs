//! `cold`: a request that finds no instance, over a new connection. Where a function can pause, also a request to a paused
//! instance.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use super::{Contestant, Measurement, REQUEST_TIMEOUT, Session, is_precise, until_instances};
use crate::{
    client::ClientError,
    daemon::Daemon,
    error::BenchError,
    host,
    options::{Experiment, PageCache},
    plan::can_pause,
    registry::DerivedRegistry,
    sample::Sample,
};

const SELF: Experiment = Experiment::Cold;
/// Pause before each request, so that nothing of the sample before is still going on.
const REST: Duration = Duration::from_millis(300);
/// Time limit of the end of an instance, and of a pause.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The variants.
pub const COLD: &str = "cold";
pub const PAUSE: &str = "pause";
pub const UNCACHED: &str = "cold, page cache cold";

pub async fn run(session: &mut Session) -> Result<(), BenchError> {
    let registry = session.registry(SELF)?;
    let contestants = contestants(session, &registry)?;
    let mut daemon = session.daemon(registry.path(), &[]).await?;
    let result = rounds(session, &mut daemon, &contestants).await;
    let ended = daemon.stop().await;
    result.and(ended.map(drop))
}

fn contestants(session: &Session, registry: &DerivedRegistry) -> Result<Vec<Contestant>, BenchError> {
    let keys = [
        ("single-use", Some(toml::Value::Boolean(true))),
        ("concurrent-requests", None),
        ("min-instances", None),
        ("max-instances", None),
        ("keep-paused", Some(toml::Value::Integer(0))),
    ];
    let mut contestants = session.register(registry, COLD, &keys)?;
    match session.plan.page_cache {
        PageCache::Warm => {}
        PageCache::Cold => contestants.iter_mut().for_each(|contestant| contestant.variant = UNCACHED.to_owned()),
        PageCache::Both => {
            let uncached: Vec<_> = contestants
                .iter()
                .map(|contestant| Contestant { variant: UNCACHED.to_owned(), ..contestant.clone() })
                .collect();
            contestants.extend(uncached);
        }
    }
    for entrant in session.entrants.iter().filter(|entrant| can_pause(&entrant.source)) {
        let keys = vec![
            ("single-use", None),
            ("min-instances", None),
            ("max-instances", Some(toml::Value::Integer(1))),
            ("keepalive", Some(toml::Value::Float(0.1))),
            ("keep-paused", Some(toml::Value::Integer(86_400))),
        ];
        let registered = format!("{}.{PAUSE}", entrant.source.name);
        registry.add(&registered, &entrant.source, &session.overrides(keys))?;
        let (function, path) = (entrant.source.name.clone(), entrant.path.clone());
        contestants.push(Contestant { function, variant: PAUSE.to_owned(), registered, path });
    }
    Ok(contestants)
}

async fn rounds(session: &mut Session, daemon: &mut Daemon, contestants: &[Contestant]) -> Result<(), BenchError> {
    let (rounds, seconds) = (session.plan.rounds_of(SELF), session.seconds_of_round(SELF));
    let mut measurement = Measurement::new(session, SELF)?;
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        measurement.session.progress.round(SELF.name(), round, rounds, seconds);
        let order = measurement.session.plan.order(SELF, round, contestants.len());
        for (position, contestant) in order.into_iter().filter_map(|index| contestants.get(index)).enumerate() {
            measurement.session.interrupt.check()?;
            // Both page caches have the same function behind them.
            let key = Contestant {
                registered: format!("{} {}", contestant.registered, contestant.variant),
                ..contestant.clone()
            };
            if measurement.is_dropped(&key.registered) {
                continue;
            }
            measurement.session.progress.sample(SELF.name(), round, rounds, &contestant.function);
            let mut sample = Sample {
                experiment: SELF.name().to_owned(),
                function: contestant.function.clone(),
                variant: contestant.variant.clone(),
                n: 1,
                round,
                position: position as u32,
                warmup: round == 0,
                ..Sample::default()
            };
            take(daemon, contestant, &mut sample, measurement.session.begin).await?;
            measurement.note(SELF, &key, std::slice::from_ref(&sample));
            if let (true, Some(c0), Some(t1)) = (sample.is_counted(), sample.c0, sample.t1) {
                values.entry(key.registered).or_default().push(t1 - c0);
            }
            measurement.write(std::slice::from_mut(&mut sample))?;
            daemon.check()?;
        }
        measurement.writer.flush()?;
        if is_precise(&measurement.session.plan, &values) {
            let note = format!(
                "cold ended after {round} rounds, as all intervals are within the given precision. Stopping early makes \
                 intervals slightly too narrow."
            );
            measurement.session.warnings.push(note);
            break;
        }
    }
    Ok(())
}

/// Takes one sample.
async fn take(daemon: &Daemon, contestant: &Contestant, sample: &mut Sample, begin: u64) -> Result<(), BenchError> {
    let wants_paused = contestant.variant == PAUSE;
    let is_prepared = if wants_paused { pause(daemon, contestant).await? } else { is_gone(daemon, contestant).await? };
    if !is_prepared {
        let what = if wants_paused { "has no paused instance" } else { "still has an instance" };
        sample.error = Some(format!("the function {what} after {} s", SETTLE_TIMEOUT.as_secs()));
        return Ok(());
    }
    sleep(REST).await;
    if contestant.variant == UNCACHED
        && let Err(error) = host::drop_page_cache()
    {
        sample.error = Some(format!("the page cache cannot be dropped: {error}"));
        return Ok(());
    }
    match daemon.invoke(&contestant.registered, &contestant.path, REQUEST_TIMEOUT).await {
        Ok(response) => {
            sample.fill(&response, begin);
            let is_resumed = sample.origin.as_deref() == Some("resumed");
            sample.valid = if wants_paused { is_resumed } else { sample.cold && !is_resumed };
        }
        Err(error) => sample.error = Some(error.to_string()),
    }
    if !wants_paused {
        // Its end is no part of the next sample.
        is_gone(daemon, contestant).await?;
    }
    Ok(())
}

async fn is_gone(daemon: &Daemon, contestant: &Contestant) -> Result<bool, BenchError> {
    until_instances(daemon, &contestant.registered, SETTLE_TIMEOUT, <[Value]>::is_empty).await
}

/// Waits until there is a paused instance, and starts one if there is none.
async fn pause(daemon: &Daemon, contestant: &Contestant) -> Result<bool, BenchError> {
    let name = &contestant.registered;
    if daemon.instances(name).await?.is_empty() {
        let started = daemon.invoke(name, &contestant.path, REQUEST_TIMEOUT).await;
        if matches!(started, Err(ClientError::Connect(..))) {
            return Ok(false);
        }
    }
    let is_paused = |instances: &[Value]| instances.iter().any(|instance| instance["state"] == "paused");
    until_instances(daemon, name, SETTLE_TIMEOUT, is_paused).await
}
