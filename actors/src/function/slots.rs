//! The slot table of a function: which instances have free slots. Shared by HTTP workers and the FunctionActor.
//!
//! A warm request acquires and releases its slot here, under a short lock and without a message: waking another thread
//! twice per request costs a third of the throughput. Everything else is decided by the FunctionActor, which adds, retires
//! and removes instances and serves the queue. The table returns when the actor has to be notified.
//!
//! Only the FunctionActor and the [`Lease`](super::Lease) write it. Pure: no clock, no lock, no actor. `handle.rs` wraps
//! it; `idle.rs` has the part about idle instances, `paused.rs` that about paused ones.
//!
//! Invariants: an instance is in `ready` exactly if it may get one more request, as far as the FunctionActor knows;
//! `in_flight` never exceeds the capacity; a retired instance never gets a request again, and a paused one serves nothing; while callers wait, new callers
//! wait too.

mod idle;
mod paused;
#[cfg(test)]
mod tests;

pub(super) use idle::{Expired, IdleSlots};

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use super::summary::Activity;
use crate::{
    endpoint::Endpoint,
    id::InstanceId,
    instance::Occupancy,
    refusal::Refusal,
    spec::{FunctionSpec, LoadedSpec},
};

#[derive(Debug)]
pub(super) struct Slots {
    intake: Intake,
    /// The version of the spec in force: new callers get no older instance.
    revision: u64,
    /// Versions of the file so far.
    versions: u64,
    /// The problems of the file, while an earlier version of it is in force.
    invalid: Option<Arc<str>>,
    /// Callers that wait, including those whose `Acquire` has not arrived at the actor.
    waiting: usize,
    instances: HashMap<InstanceId, InstanceSlots>,
    /// When the last request ended that an instance served which has ended since.
    last_served: Option<Instant>,
    /// Instances with free slots. The most recently used one is last and is taken first, so that others become idle.
    ready: Vec<InstanceId>,
    /// What the actor publishes besides.
    activity: Activity,
}

/// Whether new requests are accepted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Intake {
    Open(Arc<FunctionSpec>),
    Misconfigured(Arc<str>),
    Draining,
}

impl From<&LoadedSpec> for Intake {
    fn from(loaded: &LoadedSpec) -> Self {
        match loaded {
            Ok(spec) => Intake::Open(spec.clone()),
            Err(reason) => Intake::Misconfigured(reason.clone()),
        }
    }
}

#[derive(Debug)]
struct InstanceSlots {
    endpoint: Arc<Endpoint>,
    capacity: usize,
    in_flight: usize,
    served: u64,
    /// When `in_flight` last became zero or non-zero.
    since: Instant,
    /// Gets no more requests and is stopped when the last one is done.
    retired: bool,
    /// The actor is notified when the instance becomes idle.
    notify_when_idle: bool,
    pause: PauseState,
    /// When to check whether the keepalive has elapsed, or the time of a paused instance. `None`: once the instance is idle.
    idle_check: Option<Instant>,
}

/// Whether an instance runs, as far as the FunctionActor has ordered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PauseState {
    Running,
    /// It runs, and cannot be paused.
    Unpausable,
    /// It is paused, or is being paused.
    Paused,
    /// It is wanted since then, and waits for memory in which to run.
    Waking {
        since: Instant,
    },
    /// It is to run again, and gets requests once it does.
    Resuming,
}

/// The result of a request for a slot.
#[derive(Debug)]
pub(super) enum Acquired {
    /// A slot of this instance. `fresh`: it has not served before.
    Slot { endpoint: Arc<Endpoint>, fresh: bool },
    /// None is free: the caller is counted as waiting and has to ask the actor.
    Queued,
    /// The caller gets no slot.
    Refused(Refusal),
}

/// The instances that have been ready and are not being removed, by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadyCounts {
    pub idle: usize,
    pub busy: usize,
    pub paused: usize,
}

/// What the release of a slot means to the actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Released {
    /// Nothing: the slot is free for the next caller.
    Free,
    /// Callers wait for it.
    HasWaiters,
    /// The instance is retired and has served its last request.
    Drained,
    /// The instance is idle, of which the actor wanted to be notified. Callers may wait as well.
    Idle,
}

impl Slots {
    /// Creates the table of a function with the first version of its spec.
    pub fn new(intake: Intake) -> Self {
        let (instances, last_served, ready, activity) = (HashMap::new(), None, Vec::new(), Activity::default());
        Self { intake, revision: 1, versions: 1, invalid: None, waiting: 0, instances, last_served, ready, activity }
    }

    /// Sets what new callers get: the intake, and instances not older than `revision`.
    pub fn configure(&mut self, intake: Intake, revision: u64) {
        self.intake = intake;
        self.revision = revision;
    }

    /// Notes a version of the file, and its problems if it is invalid and an earlier version stays in force.
    pub fn set_file(&mut self, versions: u64, invalid: Option<Arc<str>>) {
        self.versions = versions;
        self.invalid = invalid;
    }

    /// Returns the number of versions of the file, and the problems of the last one.
    pub fn file(&self) -> (u64, Option<Arc<str>>) {
        (self.versions, self.invalid.clone())
    }

    pub fn set_activity(&mut self, activity: Activity) {
        self.activity = activity;
    }

    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Returns how many instances are ready and serve nothing, how many serve requests, and how many are paused or being
    /// resumed.
    pub fn counts(&self) -> ReadyCounts {
        let busy = self.instances.values().filter(|instance| instance.in_flight > 0).count();
        let paused = self.instances.values().filter(|instance| !instance.runs()).count();
        ReadyCounts { idle: self.instances.len() - busy - paused, busy, paused }
    }

    /// Returns how many requests are being served.
    pub fn in_flight(&self) -> usize {
        self.instances.values().map(|instance| instance.in_flight).sum()
    }

    /// Returns whether the function has instances or waiters, or keeps failing to start.
    pub fn is_active(&self) -> bool {
        self.activity.active || self.waiting > 0
    }

    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Returns the version of the spec in force.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the largest request body that is accepted, in bytes.
    pub fn max_body(&self) -> Option<u64> {
        match &self.intake {
            Intake::Open(spec) => spec.max_body,
            Intake::Misconfigured(_) | Intake::Draining => None,
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Acquires a slot for a new caller, or counts the caller as waiting.
    pub fn acquire(&mut self, now: Instant, saturated: impl FnOnce(&Self) -> Refusal) -> Acquired {
        let queue = match &self.intake {
            Intake::Open(spec) => spec.queue.get(),
            Intake::Misconfigured(reason) => {
                return Acquired::Refused(Refusal::Misconfigured { reason: reason.clone() });
            }
            Intake::Draining => return Acquired::Refused(Refusal::Draining),
        };
        if self.waiting == 0
            && let Some((endpoint, fresh)) = self.take_ready(self.revision, now)
        {
            return Acquired::Slot { endpoint, fresh };
        }
        if self.waiting >= queue {
            return Acquired::Refused(saturated(self));
        }
        self.waiting += 1;
        Acquired::Queued
    }

    /// Acquires a slot for a new caller if one is free.
    pub fn acquire_free(&mut self, now: Instant) -> Option<(Arc<Endpoint>, bool)> {
        let is_open = matches!(self.intake, Intake::Open(_)) && self.waiting == 0;
        if is_open { self.take_ready(self.revision, now) } else { None }
    }

    /// Returns how many slots are free for new callers.
    pub fn free(&self) -> usize {
        if self.waiting > 0 || !matches!(self.intake, Intake::Open(_)) {
            return 0;
        }
        let ready = self.ready.iter().filter_map(|id| self.instances.get(id));
        let current = ready.filter(|it| it.endpoint.revision >= self.revision && it.endpoint.is_live());
        current.map(|it| it.capacity.saturating_sub(it.in_flight)).sum()
    }

    /// Returns how many instances have been ready and have not ended.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Takes a slot of an instance not older than `revision`, for the head of the queue.
    pub fn take_ready(&mut self, revision: u64, now: Instant) -> Option<(Arc<Endpoint>, bool)> {
        let position = self.ready.iter().rposition(|id| {
            // An instance that has just ended is not live before the actor removes it.
            self.instances.get(id).is_some_and(|it| it.endpoint.revision >= revision && it.endpoint.is_live())
        })?;
        let id = self.ready[position];
        let instance = self.instances.get_mut(&id)?;
        if instance.in_flight == 0 {
            instance.since = now;
        }
        let fresh = instance.served == 0;
        instance.in_flight += 1;
        instance.served += 1;
        if instance.endpoint.spec.single_use {
            instance.retired = true;
        }
        if instance.retired || instance.in_flight == instance.capacity {
            self.ready.remove(position);
        }
        Some((instance.endpoint.clone(), fresh))
    }

    /// Counts one waiting caller less: it was served or refused, or has given up.
    pub fn leave_queue(&mut self) {
        debug_assert!(self.waiting > 0, "more callers left the queue than entered it");
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Releases a slot. An instance that is not `reusable` gets no further request.
    pub fn release(&mut self, id: InstanceId, reusable: bool, now: Instant) -> Released {
        // The instance may have been removed: it exited, and its requests notice that later than its actor.
        let Some(instance) = self.instances.get_mut(&id) else { return Released::Free };
        let was_full = instance.in_flight == instance.capacity;
        instance.in_flight = instance.in_flight.saturating_sub(1);
        if instance.in_flight == 0 {
            instance.since = now;
        }
        if !reusable && !instance.retired {
            instance.retired = true;
            self.ready.retain(|ready| *ready != id);
        }
        if instance.retired {
            return if instance.in_flight == 0 { Released::Drained } else { Released::Free };
        }
        if was_full {
            self.ready.push(id);
        }
        // Before `HasWaiters`: the actor serves the queue in either case.
        if instance.note_idle(now) {
            return Released::Idle;
        }
        if self.waiting > 0 { Released::HasWaiters } else { Released::Free }
    }

    /// Adds an instance that has just become ready.
    pub fn add(&mut self, endpoint: Arc<Endpoint>, now: Instant) {
        let id = endpoint.instance;
        let slots = InstanceSlots {
            capacity: endpoint.spec.concurrent_requests.get(),
            in_flight: 0,
            served: 0,
            since: now,
            retired: false,
            notify_when_idle: false,
            pause: PauseState::Running,
            idle_check: Some(now + endpoint.spec.keepalive),
            endpoint,
        };
        self.instances.insert(id, slots);
        self.ready.push(id);
    }

    /// Retires an instance: it gets no more requests. Returns how many it still serves.
    pub fn retire(&mut self, id: InstanceId) -> usize {
        let Some(instance) = self.instances.get_mut(&id) else { return 0 };
        instance.retired = true;
        self.ready.retain(|ready| *ready != id);
        instance.in_flight
    }

    /// Removes an instance that has ended. Returns how many requests it got.
    pub fn remove(&mut self, id: InstanceId) -> u64 {
        self.retire(id);
        let Some(instance) = self.instances.remove(&id) else { return 0 };
        self.last_served = self.last_served.max(instance.served_until());
        instance.served
    }

    /// Returns how many instances of `revision` or newer may get requests, now or later. Paused ones get none before they
    /// are resumed.
    pub fn usable(&self, revision: u64) -> usize {
        let is_usable =
            |it: &&InstanceSlots| !it.retired && it.endpoint.revision >= revision && it.pause != PauseState::Paused;
        self.instances.values().filter(is_usable).count()
    }

    /// Returns how busy an instance is. `None`: it is not ready, or has ended.
    pub fn occupancy(&self, id: InstanceId) -> Option<Occupancy> {
        let instance = self.instances.get(&id)?;
        Some(Occupancy { in_flight: instance.in_flight, served: instance.served, since: instance.since })
    }

    /// Returns the slots of all instances that may still get requests.
    pub fn capacity(&self) -> usize {
        self.instances.values().filter(|it| !it.retired).map(|it| it.capacity).sum()
    }
}
