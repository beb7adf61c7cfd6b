//! Idle instances in the slot table: which have outlived their keepalive, and which the function can do without.

use std::time::Duration;

use tokio::time::Instant;

use super::{InstanceSlots, Slots};
use crate::{admission::IdleInstance, id::InstanceId};

/// Pause before the next check of an instance that was needed; bounds a keepalive of zero.
const MIN_RECHECK: Duration = Duration::from_secs(1);

impl InstanceSlots {
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
    /// Returns when [`retire_expired`](Self::retire_expired) is due next.
    pub fn next_idle_check(&self) -> Option<Instant> {
        self.instances.values().filter(|it| !it.retired).filter_map(|it| it.idle_check).min()
    }

    /// Retires and returns the instances that have been idle for their keepalive, unless callers wait or the minimum needs
    /// them. A busy instance is checked again after it has become idle: the actor is notified then.
    pub fn retire_expired(&mut self, now: Instant) -> Vec<InstanceId> {
        let is_due = |it: &InstanceSlots| !it.retired && it.idle_check.is_some_and(|check| check <= now);
        let due = self.instances.iter().filter(|(_, it)| is_due(it));
        // The order of a hash map is random, and the longest idle instance goes first.
        let mut due: Vec<_> = due.map(|(id, it)| (it.since, *id)).collect();
        due.sort_unstable();
        let mut expired: Vec<_> = due.into_iter().map(|(_, id)| id).collect();
        expired.retain(|id| self.is_expired(*id, now));
        expired
    }

    /// Checks an instance whose check is due: retires it, or schedules the next check.
    fn is_expired(&mut self, id: InstanceId, now: Instant) -> bool {
        let revision = self.instances.get(&id).map_or(0, |it| it.endpoint.revision);
        let kept = self.usable(revision);
        let Some(instance) = self.instances.get_mut(&id) else { return false };
        let (keepalive, minimum) = (instance.endpoint.spec.keepalive, instance.endpoint.spec.min_instances);
        if instance.in_flight > 0 {
            instance.notify_when_idle = true;
            instance.idle_check = None;
        } else if instance.since + keepalive > now {
            instance.idle_check = Some(instance.since + keepalive);
        } else if self.waiting > 0 || kept <= minimum {
            instance.idle_check = Some(now + keepalive.max(MIN_RECHECK));
        } else {
            self.retire(id);
            return true;
        }
        false
    }

    /// Returns the instances that the function can do without, the longest idle one first: no request is in flight, no
    /// caller waits, and the minimum is kept without them.
    pub fn idle_instances(&self) -> Vec<IdleInstance> {
        if self.waiting > 0 {
            return Vec::new();
        }
        let minimum_of = |it: &InstanceSlots| {
            if it.endpoint.revision < self.revision { 0 } else { it.endpoint.spec.min_instances }
        };
        let idle = self.instances.iter().filter(|(_, it)| !it.retired && it.in_flight == 0);
        let mut idle: Vec<_> = idle.map(|(id, it)| (it.since, *id, minimum_of(it))).collect();
        idle.sort_unstable();
        let mut kept = self.usable(self.revision);
        idle.retain(|(.., minimum)| {
            let dispensable = *minimum == 0 || kept > *minimum;
            kept -= usize::from(dispensable && *minimum > 0);
            dispensable
        });
        idle.into_iter().map(|(idle_since, instance, _)| IdleInstance { instance, idle_since }).collect()
    }

    /// Makes every busy instance notify the actor when it becomes idle.
    pub fn notify_when_idle(&mut self) {
        let waiting = self.waiting > 0;
        for instance in self.instances.values_mut().filter(|it| !it.retired && (waiting || it.in_flight > 0)) {
            instance.notify_when_idle = true;
        }
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
