//! What a FunctionActor does about its snapshot: when it starts a template, and what follows from failures. `cloning.rs`
//! decides.

use actix::{Context, Handler};
use slog::{info, warn};
use tokio::time::{Instant, timeout};

use super::{
    FunctionActor, FunctionHandle, Phase,
    actions::ANSWER_TIMEOUT,
    messages::{RemoveSnapshot, TakeSnapshot},
};
use crate::{
    admission::TEMPLATE_PATIENCE, id::InstanceId, sandbox::RestoreError, spec::LoadedSpec, stop_reason::StopReason,
};

/// Returns whether a spec wants its instances to be clones.
pub(super) fn wants_snapshot(loaded: &LoadedSpec) -> bool {
    loaded.as_ref().is_ok_and(|spec| spec.snapshot().is_some())
}

impl FunctionHandle {
    /// Orders a snapshot, which is taken as soon as no caller waits. Returns false if the function wants no snapshots. `None`:
    /// the function's actor has ended, or does not answer in time.
    pub async fn take_snapshot(&self) -> Option<bool> {
        timeout(ANSWER_TIMEOUT, self.actor().send(TakeSnapshot)).await.ok()?.ok()
    }

    /// Removes the function's snapshot. Returns whether there was one. `None`: as above.
    pub async fn remove_snapshot(&self) -> Option<bool> {
        timeout(ANSWER_TIMEOUT, self.actor().send(RemoveSnapshot)).await.ok()?.ok()
    }
}

impl Handler<TakeSnapshot> for FunctionActor {
    type Result = bool;

    fn handle(&mut self, _: TakeSnapshot, ctx: &mut Context<Self>) -> bool {
        let is_ordered = self.phase == Phase::Serving && self.cloning.order(Instant::now());
        self.settle(ctx);
        is_ordered
    }
}

impl Handler<RemoveSnapshot> for FunctionActor {
    type Result = bool;

    fn handle(&mut self, _: RemoveSnapshot, ctx: &mut Context<Self>) -> bool {
        self.services.sandboxes.remove_snapshots(&self.name);
        let was_there = self.cloning.removed();
        info!(self.log, "the snapshot of the function was removed"; "was_there" => was_there);
        self.settle(ctx);
        was_there
    }
}

impl FunctionActor {
    /// Begins anew with another spec. Snapshots that it cannot want are removed.
    pub(super) fn configure_cloning(&mut self) {
        let is_wanted = wants_snapshot(&self.loaded);
        if self.loaded.is_ok() && !is_wanted {
            self.services.sandboxes.remove_snapshots(&self.name);
        }
        let kept = self.services.sandboxes.snapshot(&self.name);
        self.cloning.configure(is_wanted, kept.filter(|_| is_wanted));
    }

    /// Returns since when a template is due, if one should be started now: no caller waits, and nothing else of the function
    /// starts. If there is no such moment, it does not wait for one any longer.
    pub(super) fn wants_template(&self, now: Instant) -> Option<Instant> {
        let is_quiet = self.waiters.len() == 0 && !self.is_booting();
        self.cloning.template_due(now).filter(|since| is_quiet || now - *since >= TEMPLATE_PATIENCE)
    }

    /// Notes the end of a template.
    pub(super) fn template_lost(&mut self, id: InstanceId, reason: &StopReason, now: Instant) {
        let why = match reason {
            StopReason::Captured(snapshot) => return self.cloning.captured(id, *snapshot, now),
            StopReason::CaptureFailed(why) => why.clone(),
            StopReason::LaunchFailed(error) => error.to_string(),
            StopReason::BootFailed(exit) => format!("the template ended before it was ready: {exit}"),
            StopReason::BootTimedOut(why) | StopReason::Unreachable(why) => {
                format!("the template was not ready: {why}")
            }
            _ => return self.cloning.interrupted(id, now),
        };
        self.cloning.capture_failed(id, &why, now);
    }

    /// Notes that a clone could not be restored. The callers that wait for it get a cold start.
    /// `alone`: nothing else of the host started meanwhile.
    pub(super) fn restore_failed(&mut self, id: InstanceId, error: &RestoreError, alone: bool, now: Instant) {
        self.handle.stats().count_failed_restore();
        let ordered = self.instances.get(id).map_or(now, |instance| now - instance.record.age());
        if self.cloning.restore_failed(error, alone, ordered, now) {
            warn!(self.log, "the snapshot of the function is discarded"; "why" => %error, "instance" => %id);
            self.services.sandboxes.remove_snapshots(&self.name);
        }
        if self.services.sandboxes.snapshot(&self.name).is_none() {
            // It was damaged.
            self.cloning.removed();
        }
    }
}
