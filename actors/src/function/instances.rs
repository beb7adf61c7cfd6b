//! The instances of a function that hold anything of the host: what each was started from, and its phase.
//!
//! `scaling.rs` decides how many there should be. Only `slots.rs` knows what each of them serves now.

use std::sync::Arc;

use actix::Addr;
use indexmap::IndexMap;

use crate::{
    history::InstanceRecord, id::InstanceId, instance::InstanceActor, spec::FunctionSpec, start_tracker::TrackedStart,
};

pub(super) struct Instance {
    pub address: Addr<InstanceActor>,
    pub record: Arc<InstanceRecord>,
    pub revision: u64,
    pub spec: Arc<FunctionSpec>,
    pub phase: InstancePhase,
    /// Until it is ready or lost.
    pub start: Option<TrackedStart>,
    /// The [`Backoff`](super::backoff::Backoff) generation of its start.
    pub generation: u64,
    /// It may have been restored from a snapshot.
    pub may_restore: bool,
    /// Its snapshot is to be taken, and it never serves.
    pub is_template: bool,
    /// It was started ahead of requests, and has got none yet.
    pub is_prewarmed: bool,
    /// The function has retired it, so it must not get requests even if it becomes ready.
    pub retired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstancePhase {
    Booting,
    /// It is a template.
    Capturing,
    Serving,
    /// Gets no requests any more, but still holds resources.
    Ending,
}

impl Instance {
    /// Returns how many requests it serves at a time.
    pub fn capacity(&self) -> usize {
        self.spec.concurrent_requests.get()
    }
}

/// The instances by id, in an order that is the same in every run.
#[derive(Default)]
pub(super) struct Instances(IndexMap<InstanceId, Instance>);

impl Instances {
    pub fn insert(&mut self, id: InstanceId, instance: Instance) {
        self.0.insert(id, instance);
    }

    pub fn get(&self, id: InstanceId) -> Option<&Instance> {
        self.0.get(&id)
    }

    /// Sets the phase of an instance and returns its previous phase.
    pub fn set_phase(&mut self, id: InstanceId, phase: InstancePhase) -> Option<InstancePhase> {
        self.0.get_mut(&id).map(|instance| std::mem::replace(&mut instance.phase, phase))
    }

    /// Ends the start of an instance.
    pub fn take_start(&mut self, id: InstanceId) -> Option<TrackedStart> {
        self.0.get_mut(&id)?.start.take()
    }

    /// Returns whether an instance was started ahead of requests and got none, and notes that this has been counted.
    pub fn take_prewarmed(&mut self, id: InstanceId) -> bool {
        self.0.get_mut(&id).is_some_and(|instance| std::mem::take(&mut instance.is_prewarmed))
    }

    pub fn set_retired(&mut self, id: InstanceId) {
        if let Some(instance) = self.0.get_mut(&id) {
            instance.retired = true;
        }
    }

    pub fn remove(&mut self, id: InstanceId) {
        self.0.swap_remove(&id);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns how many count for `max-instances`.
    pub fn limited(&self) -> usize {
        self.0.values().filter(|instance| !instance.is_template).count()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (InstanceId, &Instance)> {
        self.0.iter().map(|(id, instance)| (*id, instance))
    }

    pub fn booting(&self) -> impl Iterator<Item = &Instance> {
        self.0.values().filter(|instance| instance.phase == InstancePhase::Booting)
    }

    /// Returns how many callers the booting instances will serve.
    pub fn promised_slots(&self) -> usize {
        self.booting().map(Instance::capacity).sum()
    }

    /// Returns the instances of specs before `revision` to retire: those that serve, and those that boot although no
    /// waiting caller accepts them. The most tolerant caller accepts instances of `accepted` or newer.
    pub fn outdated(&self, revision: u64, accepted: u64) -> Vec<InstanceId> {
        let is_needed = |instance: &Instance| match instance.phase {
            InstancePhase::Booting => instance.revision >= accepted,
            InstancePhase::Capturing | InstancePhase::Serving => false,
            // Already on its way.
            InstancePhase::Ending => true,
        };
        let outdated = self.iter().filter(|(_, instance)| instance.revision < revision && !is_needed(instance));
        outdated.map(|(id, _)| id).collect()
    }
}
