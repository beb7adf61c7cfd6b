//! Actions on a function, which the admin pages request: restarts and stops.
//!
//! A restart starts a new instance for each old one, and retires an old one whenever a new one is ready. Where
//! `max-instances` leaves no room for another instance, old ones are retired one at a time instead; requests wait meanwhile.
//! A new instance that fails to start ends the restart, and the old ones serve on.

use std::time::Duration;

use actix::{Context, Handler};
use slog::{info, warn};
use tokio::time::{Instant, timeout};

use super::{
    FunctionActor, FunctionHandle, Phase,
    instances::InstancePhase,
    messages::{Restart, StopAll, StopInstance},
    replacement::{Replacement, Use},
};
use crate::{id::InstanceId, spec::FunctionSpec, stop_reason::StopReason};

/// How long the actor may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl FunctionHandle {
    /// Starts to replace every instance by a new one, and returns how many there are. Requests in flight are finished.
    /// `None`: the function's actor has ended, or does not answer in time.
    pub async fn restart(&self) -> Option<usize> {
        timeout(ANSWER_TIMEOUT, self.actor().send(Restart)).await.ok()?.ok()
    }

    /// Stops every instance, and returns how many. Requests in flight have the function's `stop-grace`, waiting ones get new
    /// instances. `None`: as above.
    pub async fn stop(&self) -> Option<usize> {
        timeout(ANSWER_TIMEOUT, self.actor().send(StopAll)).await.ok()?.ok()
    }

    /// Stops one instance like [`stop`](Self::stop). Returns false if it is not an instance of this function, or has ended.
    /// `None`: as above.
    pub async fn stop_instance(&self, id: InstanceId) -> Option<bool> {
        timeout(ANSWER_TIMEOUT, self.actor().send(StopInstance(id))).await.ok()?.ok()
    }
}

impl Handler<Restart> for FunctionActor {
    type Result = usize;

    fn handle(&mut self, _: Restart, ctx: &mut Context<Self>) -> usize {
        let Some(spec) = self.loaded.clone().ok().filter(|_| self.phase == Phase::Serving) else { return 0 };
        let serves = |phase| phase != InstancePhase::Ending;
        // A paused instance serves nothing, so nothing has to replace it.
        let paused = self.handle.slots().paused_instances();
        for id in &paused {
            self.retire(*id, StopReason::Outdated);
        }
        let old = self.instances.iter().filter(|(_, it)| serves(it.phase) && !it.retired && !it.is_template);
        let old: Vec<_> = old.map(|(id, _)| id).collect();
        let count = old.len() + paused.len();
        info!(self.log, "function is being restarted"; "replacing" => old.len(), "paused" => paused.len());
        // What failed before may have been corrected.
        self.backoff.reset();
        self.replacement = (!old.is_empty()).then(|| Replacement::new(old, spec.boot_timeout, Instant::now()));
        self.settle(ctx);
        count
    }
}

impl Handler<StopAll> for FunctionActor {
    type Result = usize;

    fn handle(&mut self, _: StopAll, ctx: &mut Context<Self>) -> usize {
        let ids: Vec<_> = self.instances.iter().map(|(id, _)| id).collect();
        let stopped = ids.into_iter().filter(|id| self.stop_by_action(*id)).count();
        self.settle(ctx);
        stopped
    }
}

impl Handler<StopInstance> for FunctionActor {
    type Result = bool;

    fn handle(&mut self, StopInstance(id): StopInstance, ctx: &mut Context<Self>) -> bool {
        let is_stopped = self.stop_by_action(id);
        self.settle(ctx);
        is_stopped
    }
}

impl FunctionActor {
    fn stop_by_action(&mut self, id: InstanceId) -> bool {
        let exists = self.instances.get(id).is_some_and(|instance| instance.phase != InstancePhase::Ending);
        if exists {
            self.instances.set_retired(id);
            self.handle.slots().retire(id);
            self.note_lost_in_restart(id, false);
            self.stop(id, StopReason::Stopped, false);
        }
        exists
    }

    /// Returns how many instances are booting that will replace an old one.
    pub(super) fn replacing(&self, replacement: &Replacement) -> usize {
        let is_new = |(id, instance): &(InstanceId, &super::instances::Instance)| {
            instance.phase == InstancePhase::Booting && instance.revision == self.revision && !replacement.is_old(*id)
        };
        self.instances.iter().filter(is_new).count()
    }

    /// Retires an old instance once a new one is ready.
    pub(super) fn replace_next(&mut self, ready: InstanceId) {
        if self.replacement.as_ref().is_some_and(|replacement| !replacement.is_old(ready)) {
            self.retire_next_old();
        }
    }

    /// Retires old instances for which there can be no replacement before they have ended: because of `max-instances`, or
    /// because the host has no room for both.
    pub(super) fn advance_restart(&mut self, spec: &FunctionSpec, now: Instant) {
        let Some(replacement) = &self.replacement else { return };
        if replacement.deadline() <= now {
            warn!(self.log, "the restart waits no longer for new instances"; "remaining" => replacement.remaining());
            while self.replacement.is_some() {
                self.retire_next_old();
            }
            return;
        }
        let is_full = spec.max_instances.is_some_and(|max| self.instances.limited() >= max.get());
        let is_ending = || self.instances.iter().any(|(_, it)| it.retired || it.phase == InstancePhase::Ending);
        if is_full && self.replacing(replacement) == 0 && !is_ending() {
            self.retire_next_old();
        }
    }

    fn retire_next_old(&mut self) {
        let Some(mut replacement) = self.replacement.take() else { return };
        let use_of = |id| match self.handle.slots().occupancy(id) {
            None => Use::Booting,
            Some(occupancy) if occupancy.in_flight > 0 => Use::Busy,
            Some(_) => Use::Idle,
        };
        if let Some(id) = replacement.next(Instant::now(), use_of) {
            self.retire(id, StopReason::Outdated);
        }
        self.keep_restart(replacement);
    }

    /// Notes that an instance has ended, not because of the restart. If it was a new one and could not be started, the
    /// restart is given up.
    pub(super) fn note_lost_in_restart(&mut self, id: InstanceId, is_failed_start: bool) {
        let Some(mut replacement) = self.replacement.take() else { return };
        if is_failed_start && !replacement.is_old(id) {
            warn!(self.log, "the restart is given up: a new instance could not be started, and the old ones serve on");
            return;
        }
        replacement.remove(id);
        self.keep_restart(replacement);
    }

    fn keep_restart(&mut self, replacement: Replacement) {
        if replacement.remaining() > 0 {
            self.replacement = Some(replacement);
        } else {
            info!(self.log, "function was restarted");
        }
    }
}
