//! The instances of a function that hold anything of the host: what each was made from, and how far it has come. How many
//! there should be is `fleet.rs`'s business, what each of them serves now is known to `slots.rs` alone.

use std::sync::Arc;

use actix::Addr;
use indexmap::IndexMap;

use crate::{id::InstanceId, instance::InstanceActor, spec::FunctionSpec};

pub(super) struct Member {
    pub address: Addr<InstanceActor>,
    pub revision: u64,
    pub spec: Arc<FunctionSpec>,
    pub stage: Stage,
    /// Of the [`Backoff`](super::backoff::Backoff).
    pub round: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Booting,
    Serving,
    /// Takes no requests any more, but still holds resources.
    Ending,
}

impl Member {
    /// Requests that it serves at a time.
    pub fn capacity(&self) -> usize {
        self.spec.concurrent_requests.get()
    }
}

/// All of them, in an order that does not change from run to run.
#[derive(Default)]
pub(super) struct Roster(IndexMap<InstanceId, Member>);

impl Roster {
    pub fn enter(&mut self, instance: InstanceId, member: Member) {
        self.0.insert(instance, member);
    }

    pub fn get(&self, instance: InstanceId) -> Option<&Member> {
        self.0.get(&instance)
    }

    /// Notes how far it has come; how far it had come before.
    pub fn advance(&mut self, instance: InstanceId, stage: Stage) -> Option<Stage> {
        self.0.get_mut(&instance).map(|member| std::mem::replace(&mut member.stage, stage))
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

    pub fn iter(&self) -> impl Iterator<Item = (InstanceId, &Member)> {
        self.0.iter().map(|(id, member)| (*id, member))
    }

    /// Those on their way.
    pub fn booting(&self) -> impl Iterator<Item = &Member> {
        self.0.values().filter(|member| member.stage == Stage::Booting)
    }

    /// Callers whom those on their way will serve.
    pub fn promised_slots(&self) -> usize {
        self.booting().map(Member::capacity).sum()
    }

    /// Those of specs before `revision` that nobody wants: they serve, or are on their way and even the one who is content
    /// with `wanted` would not be served by them.
    pub fn outdated(&self, revision: u64, wanted: u64) -> impl Iterator<Item = InstanceId> {
        let is_wanted = move |member: &Member| match member.stage {
            Stage::Booting => member.revision >= wanted,
            Stage::Serving => false,
            // It goes as it is.
            Stage::Ending => true,
        };
        self.iter().filter(move |(_, member)| member.revision < revision && !is_wanted(member)).map(|(id, _)| id)
    }
}
