//! The part of a contestant in a round: its samples, its instances, and the way to them.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use super::{Contestant, Lane, REQUEST_TIMEOUT, Session};
use crate::{
    client::Response,
    clock,
    daemon::{Daemon, invocation},
    error::BenchError,
    options::Experiment,
    sample::Sample,
};

/// Pause between the looks for a state.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Time limit of the end of an instance.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A contestant in a round.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    pub session: &'a Session,
    pub lane: &'a Lane,
    pub contestant: &'a Contestant,
    pub experiment: Experiment,
    pub round: u32,
    pub position: u32,
}

impl Turn<'_> {
    /// Returns its daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.lane.daemon
    }

    /// Returns the target of a request through the daemon.
    pub fn target(&self, path: &str) -> String {
        invocation(&self.contestant.registered, path)
    }

    /// Returns a sample without a measurement.
    pub fn sample(&self) -> Sample {
        Sample {
            experiment: self.experiment.name().to_owned(),
            function: self.contestant.function.clone(),
            variant: self.contestant.variant.clone(),
            n: self.contestant.n,
            round: self.round,
            position: self.position,
            warmup: self.round == 0,
            ..Sample::default()
        }
    }

    /// Returns the sample of a failure.
    pub fn failed(&self, error: impl ToString) -> Sample {
        Sample { error: Some(error.to_string()), ..self.sample() }
    }

    /// Returns the sample of a request to an instance that was there.
    pub fn warm(&self, variant: &str, response: &Response) -> Sample {
        let mut sample = Sample { variant: variant.to_owned(), ..self.sample() };
        sample.fill(response, self.session.begin);
        // Its connection has served other requests before.
        (sample.c0, sample.c1) = (None, None);
        sample.valid = !sample.cold;
        sample
    }

    /// Starts an instance by a request, and returns why there is none.
    pub async fn start(&self) -> Result<(), Sample> {
        let Contestant { registered, path, .. } = self.contestant;
        match self.daemon().invoke(registered, path, REQUEST_TIMEOUT).await {
            Ok(response) if response.status == 200 => Ok(()),
            Ok(response) => {
                let mut sample = self.sample();
                sample.fill(&response, self.session.begin);
                Err(sample)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Returns the address of its instance. `None`: the daemon is another's, so instances may be out of reach.
    pub async fn direct(&self) -> Option<Result<SocketAddr, String>> {
        if !self.daemon().is_own() {
            return None;
        }
        let instances = self.daemon().instances(&self.contestant.registered).await;
        Some(instances.map_err(|error| error.to_string()).and_then(|instances| {
            let address = instances.first().and_then(|instance| instance["address"].as_str()?.parse().ok());
            address.ok_or_else(|| "its address is not known".to_owned())
        }))
    }

    /// Ends all of its instances, and waits for that.
    pub async fn end(&self) -> Result<(), BenchError> {
        self.daemon().stop_instances(&self.contestant.registered).await?;
        if self.daemon().is_own() {
            self.until(END_TIMEOUT, <[Value]>::is_empty).await?;
        }
        Ok(())
    }

    /// Waits until it has no instance; returns whether that is so within a limit. Functions of a daemon that is another's
    /// may keep instances, so these are ended if that is allowed.
    pub async fn is_gone(&self, limit: Duration) -> Result<bool, BenchError> {
        if !self.daemon().is_own() {
            self.daemon().stop_instances(&self.contestant.registered).await?;
        }
        self.until(limit, <[Value]>::is_empty).await
    }

    /// Waits until its instances satisfy a condition; returns whether they do within a limit.
    pub async fn until(&self, limit: Duration, is_there: impl Fn(&[Value]) -> bool) -> Result<bool, BenchError> {
        until_instances(self.daemon(), &self.contestant.registered, limit, is_there).await
    }
}

/// Waits until the instances of a function satisfy a condition; returns whether they do within a limit.
pub async fn until_instances(
    daemon: &Daemon,
    function: &str,
    limit: Duration,
    is_there: impl Fn(&[Value]) -> bool,
) -> Result<bool, BenchError> {
    let began = clock::now();
    loop {
        if is_there(&daemon.instances(function).await?) {
            return Ok(true);
        }
        if u128::from(clock::now().saturating_sub(began)) > limit.as_nanos() {
            return Ok(false);
        }
        sleep(LOOK_INTERVAL).await;
    }
}
