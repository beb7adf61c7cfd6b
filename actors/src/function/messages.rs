//! Messages of the FunctionActor: what it receives, and the fact that it sends to the registry. Requests are imperative,
//! facts are in the past tense, questions are nouns. What admission and instances send it is theirs.

use std::time::Duration;

use actix::Message;
use tokio::{sync::oneshot, time::Instant};

use super::{FunctionSnapshot, Lease, slots::Released};
use crate::{
    id::{FunctionKey, InstanceId},
    refusal::Refusal,
    spec::LoadedSpec,
};

/// Where a waiting caller receives its slot or its refusal.
pub(super) type ReplySender = oneshot::Sender<Result<Lease, Refusal>>;

/// Requests a slot for a caller that found none. The sender has counted it as waiting in the slot table.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Acquire {
    pub ticket: u64,
    pub since: Instant,
    pub reply: ReplySender,
}

/// The caller of that ticket does not wait any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Abandon {
    pub ticket: u64,
}

/// A slot was released, and that concerns more than the slot table.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct SlotReleased {
    pub instance: InstanceId,
    pub released: Released,
    /// The instance failed the request.
    pub failed: bool,
}

/// A single-use instance was taken, so the minimum may need another one.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Replenish;

/// The function's file has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Configure(pub LoadedSpec);

/// Refuses new requests, finishes those in flight within `grace`, stops every instance and then ends.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub grace: Duration,
}

/// Replaces every instance by a new one. Returns how many there are to replace.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub(super) struct Restart;

/// Stops every instance. Returns how many.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub(super) struct StopAll;

/// Stops one instance. Returns whether there is such an instance that has not ended.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct StopInstance(pub InstanceId);

/// Orders a snapshot. Returns whether the function wants snapshots.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct TakeSnapshot;

/// Removes the snapshot. Returns whether there was one.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct RemoveSnapshot;

/// Asks for what `/debug` shows of the function.
#[derive(Debug)]
pub(crate) struct FunctionQuestion;

impl Message for FunctionQuestion {
    type Result = FunctionSnapshot;
}

/// A FunctionActor has ended. Sent to the registry.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct FunctionGone {
    pub name: String,
    pub key: FunctionKey,
    /// The actor panicked.
    pub bug: bool,
}
