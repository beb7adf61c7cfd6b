//! What an instance tells of itself when it is asked. Its lifecycle knows the state, its function's slots what it serves.

use actix::{Handler, MessageResult};
use serde::Serialize;

use super::{Body, InstanceActor, TAIL_LINES, lifecycle::State};
use crate::{id::InstanceId, messages::InstanceQuestion};

/// What `/debug` shows of an instance.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceSnapshot {
    /// Its public name.
    pub id: InstanceId,
    /// Where in its lifecycle it is.
    pub state: &'static str,
    /// How long it has been in that state.
    pub since_seconds: f64,
    /// Changes of state so far.
    pub epoch: u64,
    /// The version of the function's spec it was started from.
    pub revision: u64,
    /// Process id on the host.
    pub pid: Option<u32>,
    /// What the engine calls it.
    pub engine_id: Option<String>,
    /// Where it listens.
    pub address: Option<String>,
    /// Requests it serves now.
    pub in_flight: usize,
    /// Requests it was given so far.
    pub served: u64,
    /// The last lines it printed.
    pub output: Vec<String>,
    /// What the host lends it.
    pub resources: Vec<String>,
}

impl Handler<InstanceQuestion> for InstanceActor {
    type Result = MessageResult<InstanceQuestion>;

    fn handle(&mut self, _: InstanceQuestion, _: &mut Self::Context) -> Self::Result {
        let occupancy = self.args.function.slots().occupancy(self.id);
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
        let facts = match &self.body {
            Body::Running { facts, .. } | Body::Reclaiming { facts } => Some(facts),
            Body::None => None,
        };
        MessageResult(InstanceSnapshot {
            id: self.id,
            state,
            since_seconds: since.elapsed().as_secs_f64(),
            epoch: self.lifecycle.epoch(),
            revision: self.args.revision,
            pid: facts.and_then(|facts| facts.pid),
            engine_id: facts.and_then(|facts| facts.engine_id.clone()),
            address: facts.map(|facts| facts.address.to_string()),
            in_flight,
            served: occupancy.map_or(0, |occupancy| occupancy.served),
            output: self.output.tail(TAIL_LINES),
            resources: facts.map_or_else(Vec::new, |facts| facts.resources.clone()),
        })
    }
}
