//! `burst`: simultaneous requests, each of which needs a new instance, over connections that are open already.

use std::time::Duration;

use futures::future::join_all;
use hyper::Method;
use tokio::time::sleep;

use super::{
    Prepared, REQUEST_TIMEOUT, Session, Turn,
    contestants::{Enrolment, with_numbers},
};
use crate::{
    client::Connection,
    error::BenchError,
    options::{Experiment, Preset},
    registry::DerivedRegistry,
    sample::Sample,
};

/// Pause before each burst.
const REST: Duration = Duration::from_millis(300);
/// Time limit of the end of all instances of a burst.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// The variant.
pub const BURST: &str = "burst";

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    let wait = REQUEST_TIMEOUT.as_secs() as i64;
    let mut enrolment = Enrolment::single_use(BURST);
    enrolment.keys.push(("queue", Some(toml::Value::Integer(1000))));
    enrolment.keys.push(("queue-timeout", Some(toml::Value::Integer(wait))));
    let contestants = session.enrol(Experiment::Burst, registries, enrolment, |_| true)?;
    let is_paper = session.plan.preset == Preset::Paper;
    let options: &[_] = if is_paper { &[("--max-starts", "10000"), ("--memory-budget", "95%")] } else { &[] };
    Ok((with_numbers(&contestants, &session.plan.bursts), options))
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let size = turn.contestant.n as usize;
    let failed = |error: String| vec![turn.failed(error); size];
    if !turn.is_gone(END_TIMEOUT).await? {
        return Ok(failed(format!("instances are left after {} s", END_TIMEOUT.as_secs())));
    }
    sleep(REST).await;
    let mut connections = Vec::new();
    for _ in 0..size {
        match Connection::open(turn.daemon().front).await {
            Ok(connection) => connections.push(connection),
            Err(error) => return Ok(failed(error.to_string())),
        }
    }
    let target = turn.target(&turn.contestant.path);
    let requests = connections.iter_mut().map(|connection| connection.send(Method::GET, &target, REQUEST_TIMEOUT));
    let samples = join_all(requests).await.into_iter().map(|response| match response {
        Ok(response) => {
            let mut sample = turn.sample();
            sample.fill(&response, turn.session.begin);
            (sample.c0, sample.c1) = (None, None);
            sample.valid = sample.cold;
            sample
        }
        Err(error) => turn.failed(error),
    });
    Ok(samples.collect())
}
