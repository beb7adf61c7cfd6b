//! What a function tells of itself when it is asked.

use std::sync::Arc;

use actix::{Context, Handler, MessageResult};
use serde::Serialize;
use tokio::time::Instant;

use super::{FunctionActor, Phase, backoff::FailingReport};
use crate::{
    messages::{FunctionQuestion, InstanceAddrs},
    spec::FunctionSpec,
    stats::StatsReport,
};

/// What `/debug` shows of a function, its instances apart.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionSnapshot {
    /// `serving`, `failing`, `misconfigured` or `draining`.
    pub state: &'static str,
    /// What is wrong with its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// How its starts fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<FailingReport>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<Arc<FunctionSpec>>,
    /// Versions of the spec seen so far.
    pub revision: u64,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// What became of requests and boots.
    #[serde(flatten)]
    pub stats: StatsReport,
    /// Its instances, to be asked themselves.
    #[serde(skip)]
    pub instance_addrs: InstanceAddrs,
}

impl Handler<FunctionQuestion> for FunctionActor {
    type Result = MessageResult<FunctionQuestion>;

    fn handle(&mut self, _: FunctionQuestion, _: &mut Context<Self>) -> Self::Result {
        let failing = self.backoff.report(Instant::now()).filter(|_| self.phase == Phase::Serving);
        let state = match (self.phase, &self.loaded) {
            (Phase::Draining, _) => "draining",
            (Phase::Serving, Ok(_)) if failing.is_some() => "failing",
            (Phase::Serving, Ok(_)) => "serving",
            (Phase::Serving, Err(_)) => "misconfigured",
        };
        MessageResult(FunctionSnapshot {
            state,
            reason: self.loaded.as_ref().err().cloned(),
            failing,
            spec: self.loaded.as_ref().ok().cloned(),
            revision: self.revision,
            waiting: self.handle.slots().waiting(),
            stats: self.handle.stats().report(),
            instance_addrs: self.instances.iter().map(|(id, instance)| (id, instance.address.clone())).collect(),
        })
    }
}
