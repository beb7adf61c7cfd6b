//! `burst`: simultaneous requests, each of which needs a new instance, over connections that are open already.

use std::time::Duration;

use futures::future::join_all;
use hyper::Method;
use tokio::time::sleep;

use super::{Contestant, Measurement, REQUEST_TIMEOUT, Session, until_instances};
use crate::{
    client::Connection,
    daemon::{Daemon, invocation},
    error::BenchError,
    options::{Experiment, Preset},
    sample::Sample,
};

const SELF: Experiment = Experiment::Burst;
/// Pause before each burst.
const REST: Duration = Duration::from_millis(300);
/// Time limit of the end of all instances of a burst.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// The variant.
pub const BURST: &str = "burst";

pub async fn run(session: &mut Session) -> Result<(), BenchError> {
    let registry = session.registry(SELF)?;
    let wait = REQUEST_TIMEOUT.as_secs() as i64;
    let keys = [
        ("single-use", Some(toml::Value::Boolean(true))),
        ("concurrent-requests", None),
        ("min-instances", None),
        ("max-instances", None),
        ("keep-paused", Some(toml::Value::Integer(0))),
        ("queue", Some(toml::Value::Integer(1000))),
        ("queue-timeout", Some(toml::Value::Integer(wait))),
    ];
    let contestants = session.register(&registry, BURST, &keys)?;
    let unlimited = [("--max-starts", "10000"), ("--memory-budget", "95%")];
    let is_paper = session.plan.preset == Preset::Paper;
    let mut daemon = session.daemon(registry.path(), if is_paper { &unlimited } else { &[] }).await?;
    let result = rounds(session, &mut daemon, &contestants).await;
    let ended = daemon.stop().await;
    result.and(ended.map(drop))
}

async fn rounds(session: &mut Session, daemon: &mut Daemon, contestants: &[Contestant]) -> Result<(), BenchError> {
    let (rounds, seconds) = (session.plan.rounds_of(SELF), session.seconds_of_round(SELF));
    let sizes = session.plan.bursts.clone();
    let mut measurement = Measurement::new(session, SELF)?;
    for round in 0..=rounds {
        measurement.session.progress.round(SELF.name(), round, rounds, seconds);
        let order = measurement.session.plan.order(SELF, round, contestants.len() * sizes.len());
        for (position, index) in order.into_iter().enumerate() {
            measurement.session.interrupt.check()?;
            let (contestant, size) = (&contestants[index / sizes.len()], sizes[index % sizes.len()]);
            // The largest bursts may fail where small ones do not.
            let key = Contestant { registered: format!("{} {size}", contestant.registered), ..contestant.clone() };
            if measurement.is_dropped(&key.registered) {
                continue;
            }
            measurement.session.progress.sample(
                SELF.name(),
                round,
                rounds,
                &format!("{size} × {}", contestant.function),
            );
            let model = Sample {
                experiment: SELF.name().to_owned(),
                function: contestant.function.clone(),
                variant: BURST.to_owned(),
                n: size,
                round,
                position: position as u32,
                warmup: round == 0,
                ..Sample::default()
            };
            let mut samples = take(daemon, contestant, size, &model, measurement.session.begin).await?;
            measurement.note(SELF, &key, &samples);
            measurement.write(&mut samples)?;
            daemon.check()?;
        }
        measurement.writer.flush()?;
    }
    Ok(())
}

/// Takes a burst of samples.
async fn take(
    daemon: &Daemon,
    contestant: &Contestant,
    size: u32,
    model: &Sample,
    begin: u64,
) -> Result<Vec<Sample>, BenchError> {
    let failed = |error: String| vec![Sample { error: Some(error), ..model.clone() }; size as usize];
    let name = &contestant.registered;
    if !until_instances(daemon, name, END_TIMEOUT, <[_]>::is_empty).await? {
        return Ok(failed(format!("instances are left after {} s", END_TIMEOUT.as_secs())));
    }
    sleep(REST).await;
    let mut connections = Vec::new();
    for _ in 0..size {
        match Connection::open(daemon.front).await {
            Ok(connection) => connections.push(connection),
            Err(error) => return Ok(failed(error.to_string())),
        }
    }
    let target = invocation(name, &contestant.path);
    let requests = connections.iter_mut().map(|connection| connection.send(Method::GET, &target, REQUEST_TIMEOUT));
    let responses = join_all(requests).await;
    let sample = |response| {
        let mut sample = model.clone();
        match response {
            Ok(response) => {
                sample.fill(&response, begin);
                (sample.c0, sample.c1) = (None, None);
                sample.valid = sample.cold;
            }
            Err(error) => sample.error = Some(crate::client::ClientError::to_string(&error)),
        }
        sample
    };
    Ok(responses.into_iter().map(sample).collect())
}
