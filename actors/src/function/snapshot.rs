//! What `/debug` shows of a function: from its actor, or without asking the actor while the function is inactive.

use std::sync::Arc;

use actix::{Addr, Context, Handler, MessageResult};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    FunctionActor, FunctionHandle, Phase, backoff::FailingReport, cloning::SnapshotReport, messages::FunctionQuestion,
    prewarming::PrewarmReport, slots::Intake,
};
use crate::{
    id::InstanceId,
    instance::{InstanceActor, Occupancy},
    spec::{FunctionSpec, LoadedSpec},
    stats::{FunctionStats, StatsReport},
};

/// What `/debug` shows of a function, without its instances.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionSnapshot {
    /// `serving`, `failing`, `misconfigured` or `draining`.
    pub state: &'static str,
    /// The problems of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// The failures of its starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<FailingReport>,
    /// The spec in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<Arc<FunctionSpec>>,
    /// Versions of its file so far, valid or not.
    pub revision: u64,
    /// The version in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serves_revision: Option<u64>,
    /// Its snapshot, if its spec wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotReport>,
    /// When its requests are expected, if its spec wants an instance ahead of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prewarm: Option<PrewarmReport>,
    /// Callers that wait for a slot.
    pub waiting: usize,
    /// The counters of its requests and boots.
    #[serde(flatten)]
    pub stats: StatsReport,
    /// Its instances, which are asked one by one.
    #[serde(skip)]
    pub(crate) instances: Vec<InstanceRef>,
}

/// An instance of a function, and what the slot table knows about it.
#[derive(Debug, Clone)]
pub(crate) struct InstanceRef {
    pub id: InstanceId,
    pub address: Addr<InstanceActor>,
    pub occupancy: Option<Occupancy>,
}

impl FunctionHandle {
    /// Returns whether the function has no instances and no waiters and is not failing.
    pub(crate) fn is_inactive(&self) -> bool {
        !self.slots().is_active()
    }

    /// Returns what is shown of the function's saved guest. `None`: its spec wants none.
    pub fn snapshot_report(&self) -> Option<SnapshotReport> {
        self.slots().activity().cloning.as_ref().map(SnapshotReport::from)
    }

    /// Returns the function's snapshot without asking its actor. `None`: the actor has to be asked, because the function has
    /// instances or waiters, keeps failing to start or is being drained.
    pub fn inactive_snapshot(&self) -> Option<FunctionSnapshot> {
        let slots = self.slots();
        if slots.is_active() {
            return None;
        }
        let (state, loaded) = match slots.intake() {
            Intake::Open(spec) => ("serving", Ok(spec.clone())),
            Intake::Misconfigured(reason) => ("misconfigured", Err(reason.clone())),
            Intake::Draining => return None,
        };
        let (revision, waiting, file) = (slots.revision(), slots.waiting(), slots.file());
        drop(slots);
        let state = if file.1.is_some() { "misconfigured" } else { state };
        Some(self.snapshot(state, &loaded, revision, file, waiting))
    }

    fn snapshot(
        &self,
        state: &'static str,
        loaded: &LoadedSpec,
        revision: u64,
        (versions, invalid): (u64, Option<Arc<str>>),
        waiting: usize,
    ) -> FunctionSnapshot {
        let (cloning, prewarm) = {
            let slots = self.slots();
            (slots.activity().cloning.clone(), slots.activity().prewarm)
        };
        FunctionSnapshot {
            state,
            reason: loaded.as_ref().err().cloned().or(invalid),
            failing: None,
            spec: loaded.as_ref().ok().cloned(),
            revision: versions,
            serves_revision: loaded.is_ok().then_some(revision),
            snapshot: cloning.as_ref().map(SnapshotReport::from),
            prewarm,
            waiting,
            stats: self.used_stats().map_or_else(StatsReport::unused, FunctionStats::report),
            instances: Vec::new(),
        }
    }
}

impl Handler<FunctionQuestion> for FunctionActor {
    type Result = MessageResult<FunctionQuestion>;

    fn handle(&mut self, _: FunctionQuestion, _: &mut Context<Self>) -> Self::Result {
        let failing = self.backoff.report(Instant::now()).filter(|_| self.phase == Phase::Serving);
        let state = match (self.phase, &self.loaded) {
            (Phase::Draining, _) => "draining",
            (Phase::Serving, Ok(_)) if self.invalid.is_some() => "misconfigured",
            (Phase::Serving, Ok(_)) if failing.is_some() => "failing",
            (Phase::Serving, Ok(_)) => "serving",
            (Phase::Serving, Err(_)) => "misconfigured",
        };
        let slots = self.handle.slots();
        let instances = self.instances.iter().map(|(id, instance)| {
            let (address, occupancy) = (instance.address.clone(), slots.occupancy(id));
            InstanceRef { id, address, occupancy }
        });
        let (instances, waiting) = (instances.collect(), slots.waiting());
        drop(slots);
        let file = (self.versions, self.invalid.clone());
        let snapshot = self.handle.snapshot(state, &self.loaded, self.revision, file, waiting);
        MessageResult(FunctionSnapshot { failing, instances, ..snapshot })
    }
}
