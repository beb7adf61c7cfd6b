//! What `/debug` shows of an instance. The lifecycle knows the state, the function's slot table what it serves.

use std::sync::Arc;

use actix::{Handler, MessageResult};
use serde::Serialize;

use super::{InstanceActor, InstanceQuestion, lifecycle::State};
use crate::{boot::Origin, id::InstanceId, output::OutputLine, wall_time::rounded_seconds};

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
    /// How it last came to serve, or what it is being started from.
    pub origin: Origin,
    /// Process id on the host.
    pub pid: Option<u32>,
    /// The engine's id for it.
    pub engine_id: Option<String>,
    /// Where it listens.
    pub address: Option<String>,
    /// Memory that it is charged, in MiB: what it declares, or what it holds while it is paused.
    pub memory_charged: u64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests so far.
    pub served: u64,
    /// The last lines that it printed.
    pub output: Vec<Arc<OutputLine>>,
    /// The host resources that it holds.
    pub resources: Vec<String>,
}

impl Handler<InstanceQuestion> for InstanceActor {
    type Result = MessageResult<InstanceQuestion>;

    fn handle(
        &mut self,
        InstanceQuestion { occupancy, lines }: InstanceQuestion,
        _: &mut Self::Context,
    ) -> Self::Result {
        let in_flight = occupancy.map_or(0, |occupancy| occupancy.in_flight);
        let state = match self.lifecycle.state() {
            State::Launching(_) => "launching",
            State::Booting { .. } | State::Connecting | State::Explaining => "booting",
            State::Verifying => "restoring",
            State::Capturing => "capturing",
            State::Serving if in_flight > 0 => "busy",
            State::Serving => "idle",
            State::Pausing { .. } => "pausing",
            State::Paused => "paused",
            State::Resuming => "resuming",
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
            since_seconds: rounded_seconds(since.elapsed()),
            epoch: self.lifecycle.epoch(),
            revision: self.args.revision,
            origin: self.endpoint().map_or(self.entry.record.boot.clock.started_from(), |endpoint| endpoint.origin()),
            pid: info.and_then(|info| info.pid),
            engine_id: info.and_then(|info| info.engine_id.clone()),
            address: info.and_then(|info| info.address).map(|address| address.to_string()),
            memory_charged: self.entry.record.charged(),
            in_flight,
            served: occupancy.map_or(0, |occupancy| occupancy.served),
            output: self.output.tail(lines),
            resources: info.map_or_else(Vec::new, |info| info.resources.clone()),
        })
    }
}
