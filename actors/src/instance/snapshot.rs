//! What `/debug` shows of an instance. The lifecycle knows the state, the function's slot table what it serves.

use actix::{Handler, MessageResult};
use serde::Serialize;

use super::{InstanceActor, InstanceQuestion, lifecycle::State};
use crate::id::InstanceId;

/// Lines of output at `/debug` and in the error of a failed boot.
pub(super) const TAIL_LINES: usize = 20;

/// What `/debug` shows of an instance.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceSnapshot {
    /// Its public id.
    pub id: InstanceId,
    /// Its state.
    pub state: &'static str,
    /// How long it has been in that state.
    pub since_seconds: f64,
    /// Changes of state so far.
    pub epoch: u64,
    /// The version of the function's spec that it was started from.
    pub revision: u64,
    /// Process id on the host.
    pub pid: Option<u32>,
    /// The engine's id for it.
    pub engine_id: Option<String>,
    /// Where it listens.
    pub address: Option<String>,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests so far.
    pub served: u64,
    /// The last lines that it printed.
    pub output: Vec<String>,
    /// The host resources that it holds.
    pub resources: Vec<String>,
}

impl Handler<InstanceQuestion> for InstanceActor {
    type Result = MessageResult<InstanceQuestion>;

    fn handle(&mut self, InstanceQuestion { occupancy }: InstanceQuestion, _: &mut Self::Context) -> Self::Result {
        let in_flight = occupancy.map_or(0, |occupancy| occupancy.in_flight);
        let state = match self.lifecycle.state() {
            State::Launching(_) => "launching",
            State::Booting { .. } => "booting",
            State::Serving if in_flight > 0 => "busy",
            State::Serving => "idle",
            State::Stopping { .. } => "stopping",
            State::Reaping => "reaping",
            State::Gone => "gone",
        };
        let since = match (self.lifecycle.state(), occupancy) {
            (State::Serving, Some(occupancy)) => occupancy.since,
            _ => self.lifecycle.since(),
        };
        let info = self.sandbox.info();
        MessageResult(InstanceSnapshot {
            id: self.id,
            state,
            since_seconds: since.elapsed().as_secs_f64(),
            epoch: self.lifecycle.epoch(),
            revision: self.args.revision,
            pid: info.and_then(|info| info.pid),
            engine_id: info.and_then(|info| info.engine_id.clone()),
            address: info.map(|info| info.address.to_string()),
            in_flight,
            served: occupancy.map_or(0, |occupancy| occupancy.served),
            output: self.output.tail(TAIL_LINES),
            resources: info.map_or_else(Vec::new, |info| info.resources.clone()),
        })
    }
}
