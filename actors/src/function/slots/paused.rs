//! Paused instances in the slot table: which get no requests, which wakes next, and which waits for memory.
//!
//! An instance leaves `ready` under the lock that callers take, with nothing in flight and no caller waiting. So a caller
//! either has got its slot before, or is counted as waiting and makes the FunctionActor resume an instance. What another program
//! has paused leaves it in the same way, unless it serves requests: then it is resumed at once.

use tokio::time::Instant;

use super::{IdleSlots, InstanceSlots, PauseState, Slots};
use crate::id::InstanceId;

impl InstanceSlots {
    /// Returns whether it runs, so that its free slots can be used.
    pub(super) fn runs(&self) -> bool {
        matches!(self.pause, PauseState::Running | PauseState::Unpausable)
    }

    /// Returns whether it is to run again.
    pub(super) fn comes(&self) -> bool {
        self.wakes() || self.pause == PauseState::Resuming
    }

    fn wakes(&self) -> bool {
        matches!(self.pause, PauseState::Waking { .. })
    }
}

impl Slots {
    /// Pauses an idle instance. It is checked again at `until`.
    pub(super) fn pause(&mut self, id: InstanceId, until: Instant) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        debug_assert!(instance.in_flight == 0, "an instance was paused during a request");
        instance.pause = PauseState::Paused;
        instance.idle_check = Some(until);
        self.ready.retain(|ready| *ready != id);
    }

    /// Notes that another program has paused an instance. Returns whether requests are in flight, which need it at once: it
    /// keeps its slots then. An idle one is kept as long as if it had been paused after its keepalive.
    pub fn paused_externally(&mut self, id: InstanceId, now: Instant) -> bool {
        let Some(instance) = self.instances.get(&id).filter(|instance| instance.runs()) else { return false };
        if instance.in_flight > 0 {
            return true;
        }
        let spec = &instance.endpoint.spec;
        let until = now.max(instance.since + spec.keepalive) + spec.keep_paused;
        self.pause(id, until);
        false
    }

    /// Returns how many instances of `revision` or newer are paused.
    pub fn paused(&self, revision: u64) -> usize {
        self.resumable(revision).count()
    }

    /// Returns whether an instance runs, or is to run again.
    pub fn is_running(&self) -> bool {
        self.instances.values().any(|it| it.pause != PauseState::Paused)
    }

    /// Returns the paused instances.
    pub fn paused_instances(&self) -> Vec<InstanceId> {
        self.resumable(0).map(|(id, _)| *id).collect()
    }

    fn resumable(&self, revision: u64) -> impl Iterator<Item = (&InstanceId, &InstanceSlots)> {
        let is_paused = move |it: &InstanceSlots| {
            !it.retired && it.pause == PauseState::Paused && it.endpoint.revision >= revision && it.endpoint.is_live()
        };
        self.instances.iter().filter(move |(_, it)| is_paused(it))
    }

    /// Returns whether an instance is paused, or is being paused.
    pub fn is_paused(&self, id: InstanceId) -> bool {
        self.instances.get(&id).is_some_and(|it| it.pause == PauseState::Paused)
    }

    /// Returns how many instances wait for memory in which to run.
    pub fn waking(&self) -> usize {
        self.instances.values().filter(|it| !it.retired && it.wakes()).count()
    }

    /// Returns how many instances are being resumed.
    pub fn resuming(&self) -> usize {
        self.instances.values().filter(|it| !it.retired && it.pause == PauseState::Resuming).count()
    }

    /// Selects the instance to wake next: of those of `revision` or newer, the most recently used one, as the most of it is
    /// in the caches.
    pub fn wake_next(&mut self, revision: u64, now: Instant) -> Option<InstanceId> {
        let id = self.resumable(revision).max_by_key(|(id, it)| (it.since, **id)).map(|(id, _)| *id)?;
        let instance = self.instances.get_mut(&id)?;
        instance.pause = PauseState::Waking { since: now };
        instance.idle_check = None;
        Some(id)
    }

    /// Notes that a waking instance has its memory and is being resumed. Returns since when it is wanted. `None`: it is not
    /// wanted any more.
    pub fn resume(&mut self, id: InstanceId) -> Option<Instant> {
        let instance = self.instances.get_mut(&id).filter(|it| !it.retired)?;
        let PauseState::Waking { since } = instance.pause else { return None };
        instance.pause = PauseState::Resuming;
        Some(since)
    }

    /// Leaves up to `count` waking instances paused, as no caller needs them any more. Returns which.
    pub fn stop_waking(&mut self, count: usize, now: Instant) -> Vec<InstanceId> {
        let waking = self.instances.iter().filter(|(_, it)| !it.retired && it.wakes());
        let mut waking: Vec<_> = waking.map(|(id, it)| (it.since, *id)).collect();
        waking.sort_unstable();
        waking.truncate(count);
        for (_, id) in &waking {
            if let Some(instance) = self.instances.get_mut(id) {
                instance.pause = PauseState::Paused;
                instance.idle_check = Some(now + instance.endpoint.spec.keep_paused);
            }
        }
        waking.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns the paused instances that are not wanted although callers wait: while an instance waits for memory, they are
    /// worth less than what wakes.
    pub(super) fn spare_paused(&self) -> Vec<IdleSlots> {
        if self.waking() == 0 {
            return Vec::new();
        }
        let mut spare: Vec<_> = self.resumable(0).map(|(id, it)| it.as_idle(*id)).collect();
        spare.sort_unstable_by_key(|idle| (idle.idle_since, idle.instance));
        spare
    }

    /// Adds an instance to `ready` again: it was resumed, or could not be paused. The latter is stopped rather than paused
    /// when its keepalive has elapsed.
    pub fn resumed(&mut self, id: InstanceId, is_pausable: bool, now: Instant) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if instance.runs() {
            return;
        }
        if is_pausable {
            instance.pause = PauseState::Running;
            instance.since = now;
        } else {
            instance.pause = PauseState::Unpausable;
        }
        instance.idle_check = Some(instance.since + instance.endpoint.spec.keepalive);
        if !instance.retired {
            self.ready.push(id);
        }
    }
}
