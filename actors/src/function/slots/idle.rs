//! Idle instances in the slot table: which have outlived their keepalive, and which the function can do without.
//! `paused.rs` pauses and resumes them.

use std::time::Duration;

use tokio::time::Instant;

use super::{InstanceSlots, PauseState, Slots};
use crate::id::InstanceId;

/// The instances that were idle for too long, the longest idle one first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::function) struct Expired {
    /// They are to be paused.
    pub paused: Vec<InstanceId>,
    /// They are to be stopped.
    pub retired: Vec<InstanceId>,
}

/// An instance that the function can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::function) struct IdleSlots {
    pub instance: InstanceId,
    pub idle_since: Instant,
    /// It runs, so it can be used without being resumed.
    pub runs: bool,
    /// It runs and can be paused.
    pub is_pausable: bool,
    /// Requests so far.
    pub served: u64,
}

/// Pause before the next check of an instance that was needed; bounds a keepalive of zero.
const MIN_RECHECK: Duration = Duration::from_secs(1);

impl InstanceSlots {
    pub(super) fn as_idle(&self, instance: InstanceId) -> IdleSlots {
        let is_pausable = self.pause == PauseState::Running && !self.endpoint.spec.keep_paused.is_zero();
        let (idle_since, runs, served) = (self.since, self.runs(), self.served);
        IdleSlots { instance, idle_since, runs, is_pausable, served }
    }

    /// Returns when its last request ended. `None`: it had none yet, or serves one.
    pub(super) fn served_until(&self) -> Option<Instant> {
        (self.served > 0 && self.in_flight == 0).then_some(self.since)
    }

    /// Returns whether the actor has to be notified that the instance is idle now, which it is once.
    pub(super) fn note_idle(&mut self, now: Instant) -> bool {
        let notify = self.in_flight == 0 && std::mem::take(&mut self.notify_when_idle);
        if notify {
            self.idle_check = Some(now + self.endpoint.spec.keepalive);
        }
        notify
    }
}

impl Slots {
    /// Returns since when the longest idle instance serves nothing. Paused ones count.
    pub fn idle_since(&self) -> Option<Instant> {
        self.instances.values().filter(|it| it.in_flight == 0).map(|it| it.since).min()
    }

    /// Returns when the last request ended, if none is being served.
    pub fn last_served(&self) -> Option<Instant> {
        self.instances.values().map(InstanceSlots::served_until).fold(self.last_served, Option::max)
    }

    /// Returns when [`expire`](Self::expire) is due next.
    pub fn next_idle_check(&self) -> Option<Instant> {
        self.instances.values().filter(|it| !it.retired).filter_map(|it| it.idle_check).min()
    }

    /// Pauses or retires the instances that have been idle for their keepalive, unless callers wait or the minimum needs
    /// them, and retires those that were paused for as long as their spec wants. A busy instance is checked again after it
    /// has become idle: the actor is notified then. `expected`: a request is expected until then, for which the last paused
    /// instance is kept.
    pub fn expire(&mut self, now: Instant, expected: Option<Instant>) -> Expired {
        let is_due = |it: &InstanceSlots| !it.retired && it.idle_check.is_some_and(|check| check <= now);
        let due = self.instances.iter().filter(|(_, it)| is_due(it));
        // The order of a hash map is random, and the longest idle instance goes first.
        let mut due: Vec<_> = due.map(|(id, it)| (it.since, *id)).collect();
        due.sort_unstable();
        let mut expired = Expired::default();
        for (_, id) in due {
            self.check(id, now, expected, &mut expired);
        }
        expired
    }

    /// Checks an instance whose check is due: pauses it, retires it, or schedules the next check.
    fn check(&mut self, id: InstanceId, now: Instant, expected: Option<Instant>, expired: &mut Expired) {
        let revision = self.instances.get(&id).map_or(0, |it| it.endpoint.revision);
        let (kept, waiting) = (self.usable(revision), self.waiting);
        let expected = expected.filter(|_| kept == 0 && self.paused(self.revision) == 1);
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let spec = &instance.endpoint.spec;
        let (keepalive, keep_paused, minimum) = (spec.keepalive, spec.keep_paused, spec.min_instances);
        if instance.pause == PauseState::Paused {
            if waiting > 0 {
                // It is about to be resumed, unless others suffice.
                instance.idle_check = Some(now + MIN_RECHECK);
            } else if let Some(until) = expected {
                instance.idle_check = Some(until);
            } else {
                self.retire(id);
                expired.retired.push(id);
            }
            return;
        }
        if instance.in_flight > 0 {
            instance.notify_when_idle = true;
            instance.idle_check = None;
        } else if instance.since + keepalive > now {
            instance.idle_check = Some(instance.since + keepalive);
        } else if waiting > 0 || kept <= minimum {
            instance.idle_check = Some(now + keepalive.max(MIN_RECHECK));
        } else if instance.pause == PauseState::Running && !keep_paused.is_zero() {
            self.pause(id, now + keep_paused);
            expired.paused.push(id);
        } else {
            self.retire(id);
            expired.retired.push(id);
        }
    }

    /// Returns the instances that the function can do without, the longest idle one first: no request is in flight, no
    /// caller waits, and the minimum is kept without them. While callers wait for the memory of a waking instance, these
    /// are the paused ones that they do not need.
    pub fn idle_instances(&self) -> Vec<IdleSlots> {
        if self.waiting > 0 {
            return self.spare_paused();
        }
        let minimum_of = |it: &InstanceSlots| {
            // Those that are paused do not count for the minimum.
            let counts = it.endpoint.revision >= self.revision && it.pause != PauseState::Paused;
            if counts { it.endpoint.spec.min_instances } else { 0 }
        };
        let is_idle = |it: &InstanceSlots| !it.retired && it.in_flight == 0 && !it.comes();
        let idle = self.instances.iter().filter(|(_, it)| is_idle(it));
        let mut idle: Vec<_> = idle.map(|(id, it)| (it.since, *id, minimum_of(it))).collect();
        idle.sort_unstable();
        let mut kept = self.usable(self.revision);
        idle.retain(|(.., minimum)| {
            let dispensable = *minimum == 0 || kept > *minimum;
            kept -= usize::from(dispensable && *minimum > 0);
            dispensable
        });
        idle.into_iter().filter_map(|(_, id, _)| Some(self.instances.get(&id)?.as_idle(id))).collect()
    }

    /// Makes every busy instance notify the actor when it becomes idle.
    pub fn notify_when_idle(&mut self) {
        let waiting = self.waiting > 0;
        for instance in self.instances.values_mut().filter(|it| !it.retired && (waiting || it.in_flight > 0)) {
            instance.notify_when_idle = true;
        }
    }

    /// Pauses an instance before its keepalive has elapsed, if the function can still do without it. Returns whether it does.
    pub fn pause_idle(&mut self, id: InstanceId, now: Instant) -> bool {
        let idle = self.idle_instances().into_iter().find(|idle| idle.instance == id && idle.is_pausable);
        let keep_paused = self.instances.get(&id).map(|it| it.endpoint.spec.keep_paused);
        let (Some(_), Some(keep_paused)) = (idle, keep_paused) else { return false };
        self.pause(id, now + keep_paused);
        true
    }

    /// Pauses an instance that has not served yet, unless a caller waits, and keeps it until a request is not expected any more.
    /// Returns whether it does.
    pub fn pause_unused(&mut self, id: InstanceId, until: Instant) -> bool {
        let is_unused = self.waiting == 0 && self.instances.get(&id).is_some_and(|it| it.in_flight == 0 && it.runs());
        if is_unused {
            self.pause(id, until);
        }
        is_unused
    }

    /// Retires an instance if the function can still do without it, and returns whether it can.
    pub fn retire_idle(&mut self, id: InstanceId) -> bool {
        let idle = self.idle_instances().iter().any(|idle| idle.instance == id);
        if idle {
            self.retire(id);
        }
        idle
    }
}
