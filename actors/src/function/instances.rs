//! The instances of a function that hold anything of the host: what each was made from, and how far it has come. How many
//! there should be is `scaling.rs`'s business, what each of them serves now is known to `slots.rs` alone.

use std::sync::Arc;

use actix::Addr;
use indexmap::IndexMap;

use crate::{id::InstanceId, instance::InstanceActor, spec::FunctionSpec};

pub(super) struct Instance {
    pub address: Addr<InstanceActor>,
    pub revision: u64,
    pub spec: Arc<FunctionSpec>,
    pub phase: InstancePhase,
    /// Of the [`Backoff`](super::backoff::Backoff).
    pub generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstancePhase {
    Booting,
    Serving,
    /// Takes no requests any more, but still holds resources.
    Ending,
}

impl Instance {
    /// Requests that it serves at a time.
    pub fn capacity(&self) -> usize {
        self.spec.concurrent_requests.get()
    }
}

/// All of them, in an order that does not change from run to run.
#[derive(Default)]
pub(super) struct Instances(IndexMap<InstanceId, Instance>);

impl Instances {
    pub fn enter(&mut self, id: InstanceId, instance: Instance) {
        self.0.insert(id, instance);
    }

    pub fn get(&self, instance: InstanceId) -> Option<&Instance> {
        self.0.get(&instance)
    }

    /// Notes how far it has come; how far it had come before.
    pub fn advance(&mut self, instance: InstanceId, phase: InstancePhase) -> Option<InstancePhase> {
        self.0.get_mut(&instance).map(|instance| std::mem::replace(&mut instance.phase, phase))
    }

    pub fn leave(&mut self, instance: InstanceId) {
        self.0.swap_remove(&instance);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (InstanceId, &Instance)> {
        self.0.iter().map(|(id, instance)| (*id, instance))
    }

    /// Those on their way.
    pub fn booting(&self) -> impl Iterator<Item = &Instance> {
        self.0.values().filter(|instance| instance.phase == InstancePhase::Booting)
    }

    /// Callers whom those on their way will serve.
    pub fn promised_slots(&self) -> usize {
        self.booting().map(Instance::capacity).sum()
    }

    /// Those of specs before `revision` that nobody wants: they serve, or are on their way and even the one who is content
    /// with `wanted` would not be served by them.
    pub fn outdated(&self, revision: u64, wanted: u64) -> impl Iterator<Item = InstanceId> {
        let is_wanted = move |instance: &Instance| match instance.phase {
            InstancePhase::Booting => instance.revision >= wanted,
            InstancePhase::Serving => false,
            // It goes as it is.
            InstancePhase::Ending => true,
        };
        self.iter().filter(move |(_, instance)| instance.revision < revision && !is_wanted(instance)).map(|(id, _)| id)
    }
}
