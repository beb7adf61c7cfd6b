//! Which instances of a function have room: the one table that HTTP workers and the function's actor share.
//!
//! A warm request takes its slot and gives it back right here, under a short lock and without a message, because waking
//! another thread twice per request costs a third of the throughput. Everything that is not "take a free slot of a
//! ready instance" is decided by the actors: they add instances, retire them and serve the queue; the table tells its
//! caller when one of them has to be woken.
//!
//! Pure: no clock, no lock, no actor. `handle.rs` wraps it.
//!
//! Invariants: an instance is in `ready` exactly when it may take one more request; `in_flight` never exceeds the
//! capacity; a retired instance never takes a request again; while anybody waits, newcomers wait too.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use super::{endpoint::Endpoint, refusal::Refusal};
use crate::{admission::IdleInstance, id::InstanceId};

#[derive(Debug)]
pub(crate) struct Slots {
    intake: Intake,
    /// The version of the spec in force: newcomers get no older instance.
    revision: u64,
    /// Requests that may wait at once.
    queue: usize,
    /// Requests that wait or are on their way to the actor's queue.
    waiting: usize,
    instances: HashMap<InstanceId, InstanceSlots>,
    /// Instances with room; the most recently used one is last and is taken first, so that the others may idle out.
    ready: Vec<InstanceId>,
}

/// Whether requests are taken at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Intake {
    Open { max_body: Option<u64> },
    Misconfigured(Arc<str>),
    Draining,
}

#[derive(Debug)]
struct InstanceSlots {
    endpoint: Arc<Endpoint>,
    capacity: usize,
    in_flight: usize,
    served: u64,
    /// When `in_flight` last became zero or stopped being zero.
    since: Instant,
    /// Takes no more requests and ends when the last one is done.
    retired: bool,
    /// The instance wants to know when it is idle: its keepalive alarm found it busy.
    tell_when_idle: bool,
}

/// The answer to somebody who wants a slot.
#[derive(Debug)]
pub(crate) enum Acquired {
    /// A slot of this instance; `fresh` if it never served before.
    Slot { endpoint: Arc<Endpoint>, fresh: bool },
    /// None is free: the caller is counted as waiting and must ask the actor.
    Queued,
    /// No.
    Refused(Refusal),
}

/// What the return of a slot means to the actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// Nothing: the slot is free for the next caller.
    Free,
    /// Somebody waits for it.
    HasWaiters,
    /// The instance is retired and has now served its last request.
    Drained,
    /// The instance is idle and asked to be told; somebody may wait for it as well.
    Idle,
}

/// Whether an instance may be ended for having had nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idleness {
    /// It has been retired: nobody will get a slot of it any more.
    Retired,
    /// It has not been idle for long enough: ask again then.
    Until(Instant),
    /// It is serving; [`Released::Idle`] will tell when it is not.
    Busy,
    /// Somebody waits and is about to get it, or the function wants that many instances kept ready.
    Needed,
}

impl Slots {
    pub fn new(intake: Intake, queue: usize) -> Self {
        Self { intake, revision: 0, queue, waiting: 0, instances: HashMap::new(), ready: Vec::new() }
    }

    /// From now on newcomers meet this intake, may wait in a queue of this length, and get instances at least as new as
    /// `revision`.
    pub fn open(&mut self, intake: Intake, queue: usize, revision: u64) {
        self.intake = intake;
        self.queue = queue;
        self.revision = revision;
    }

    /// The largest request body that is let in, in bytes.
    pub fn max_body(&self) -> Option<u64> {
        match self.intake {
            Intake::Open { max_body } => max_body,
            Intake::Misconfigured(_) | Intake::Draining => None,
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a slot for a newcomer, or counts it as waiting.
    pub fn take(&mut self, now: Instant, saturated: impl FnOnce(&Self) -> Refusal) -> Acquired {
        match &self.intake {
            Intake::Open { .. } => {}
            Intake::Misconfigured(reason) => {
                return Acquired::Refused(Refusal::Misconfigured { reason: reason.clone() });
            }
            Intake::Draining => return Acquired::Refused(Refusal::Draining),
        }
        if self.waiting == 0
            && let Some((endpoint, fresh)) = self.take_ready(self.revision, now)
        {
            return Acquired::Slot { endpoint, fresh };
        }
        if self.waiting >= self.queue {
            return Acquired::Refused(saturated(self));
        }
        self.waiting += 1;
        Acquired::Queued
    }

    /// Takes a slot for the head of the queue, of an instance at least as new as `revision`.
    pub fn take_ready(&mut self, revision: u64, now: Instant) -> Option<(Arc<Endpoint>, bool)> {
        let position = self
            .ready
            .iter()
            .rposition(|id| self.instances.get(id).is_some_and(|entry| entry.endpoint.revision >= revision))?;
        let id = self.ready[position];
        let entry = self.instances.get_mut(&id)?;
        if entry.in_flight == 0 {
            entry.since = now;
        }
        let fresh = entry.served == 0;
        entry.in_flight += 1;
        entry.served += 1;
        if entry.endpoint.spec.single_use {
            entry.retired = true;
        }
        if entry.retired || entry.in_flight == entry.capacity {
            self.ready.remove(position);
        }
        Some((entry.endpoint.clone(), fresh))
    }

    /// One caller less in the queue: it was served, refused, or left.
    pub fn left_queue(&mut self) {
        debug_assert!(self.waiting > 0, "more callers left the queue than entered it");
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Gives a slot back. An instance that is not `reusable` gets no further request.
    pub fn release(&mut self, id: InstanceId, reusable: bool, now: Instant) -> Released {
        // The instance may be gone: it died, and its requests learn of that later than its actor.
        let Some(entry) = self.instances.get_mut(&id) else { return Released::Free };
        let was_full = entry.in_flight == entry.capacity;
        entry.in_flight = entry.in_flight.saturating_sub(1);
        if entry.in_flight == 0 {
            entry.since = now;
        }
        if !reusable && !entry.retired {
            entry.retired = true;
            self.ready.retain(|ready| *ready != id);
        }
        if entry.retired {
            return if entry.in_flight == 0 { Released::Drained } else { Released::Free };
        }
        if was_full {
            self.ready.push(id);
        }
        // Idle goes first: whoever handles it serves the queue as well.
        if entry.in_flight == 0 && std::mem::take(&mut entry.tell_when_idle) {
            return Released::Idle;
        }
        if self.waiting > 0 {
            return Released::HasWaiters;
        }
        Released::Free
    }

    /// Adds an instance that has just become ready.
    pub fn add(&mut self, endpoint: Arc<Endpoint>, now: Instant) {
        let id = endpoint.instance;
        let capacity = endpoint.spec.concurrent_requests.get();
        let entry = InstanceSlots {
            endpoint,
            capacity,
            in_flight: 0,
            served: 0,
            since: now,
            retired: false,
            tell_when_idle: false,
        };
        self.instances.insert(id, entry);
        self.ready.push(id);
    }

    /// Lets an instance take no more requests. Returns how many it still serves.
    pub fn retire(&mut self, id: InstanceId) -> usize {
        let Some(entry) = self.instances.get_mut(&id) else { return 0 };
        entry.retired = true;
        self.ready.retain(|ready| *ready != id);
        entry.in_flight
    }

    /// Forgets an instance.
    pub fn remove(&mut self, id: InstanceId) {
        self.retire(id);
        self.instances.remove(&id);
    }

    /// Retires the instance if it has been idle for `keepalive` and is not needed.
    pub fn idleness(&mut self, id: InstanceId, keepalive: Duration, minimum: usize, now: Instant) -> Idleness {
        let revision = self.instances.get(&id).map_or(0, |entry| entry.endpoint.revision);
        let kept = self.usable(revision);
        let Some(entry) = self.instances.get_mut(&id) else { return Idleness::Retired };
        if entry.in_flight > 0 {
            entry.tell_when_idle = true;
            return Idleness::Busy;
        }
        if entry.since + keepalive > now {
            return Idleness::Until(entry.since + keepalive);
        }
        if self.waiting > 0 || kept <= minimum {
            return Idleness::Needed;
        }
        self.retire(id);
        Idleness::Retired
    }

    /// The instances that the function could do without: they have nothing to do, nobody waits for them, and its minimum
    /// is kept. All others tell when they have nothing to do ([`Released::Idle`]).
    pub fn idle_instances(&mut self) -> Vec<IdleInstance> {
        let mut idle = Vec::new();
        for (id, entry) in self.instances.iter_mut().filter(|(_, entry)| !entry.retired) {
            if entry.in_flight == 0 && self.waiting == 0 {
                let minimum =
                    if entry.endpoint.revision < self.revision { 0 } else { entry.endpoint.spec.min_instances };
                idle.push((entry.since, *id, minimum));
            } else {
                entry.tell_when_idle = true;
            }
        }
        idle.sort_unstable();
        let mut kept = self.usable(self.revision);
        idle.retain(|(.., minimum)| {
            let spare = *minimum == 0 || kept > *minimum;
            kept -= usize::from(spare && *minimum > 0);
            spare
        });
        idle.into_iter().map(|(idle_since, instance, _)| IdleInstance { instance, idle_since }).collect()
    }

    /// Retires an instance if the function can still do without it.
    pub fn retire_idle(&mut self, id: InstanceId) -> bool {
        let spare = self.idle_instances().iter().any(|spare| spare.instance == id);
        if spare {
            self.retire(id);
        }
        spare
    }

    /// Instances of `revision` or newer that may still take requests, now or later.
    pub fn usable(&self, revision: u64) -> usize {
        self.instances.values().filter(|entry| !entry.retired && entry.endpoint.revision >= revision).count()
    }

    /// What `/debug` shows of an instance that is seated.
    pub fn occupancy(&self, id: InstanceId) -> Option<Occupancy> {
        let entry = self.instances.get(&id)?;
        Some(Occupancy { in_flight: entry.in_flight, served: entry.served, since: entry.since })
    }

    /// Slots of all instances that may still take requests.
    pub fn capacity(&self) -> usize {
        self.instances.values().filter(|entry| !entry.retired).map(|entry| entry.capacity).sum()
    }
}

/// How busy an instance is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupancy {
    pub in_flight: usize,
    pub served: u64,
    /// When it last became busy or idle.
    pub since: Instant,
}
