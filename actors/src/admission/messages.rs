//! Messages of the AdmissionActor: what it receives, and the facts that it sends to functions and to the registry.

use std::sync::Arc;

use actix::{Message, Recipient};
use serde::Serialize;

use super::{
    ledger::WaitReason,
    permit::Permit,
    request::{IdleInstance, StartRequest, WakeRequest},
};
use crate::{
    id::{FunctionKey, InstanceId},
    warmth::Rung,
};

// === Received ===

/// Registers a function before its first request.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Register {
    pub function: FunctionKey,
    pub events: Recipient<AdmissionEvent>,
}

/// Removes a function that has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Unregister {
    pub function: FunctionKey,
}

/// Requests one instance, or updates the request of the same serial. Answered by [`AdmissionEvent::Granted`] or
/// [`AdmissionEvent::Denied`], perhaps much later.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RequestStart {
    pub function: FunctionKey,
    /// Increases with each instance that is requested.
    pub serial: u64,
    pub request: StartRequest,
}

/// Withdraws the function's request.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Withdraw {
    pub function: FunctionKey,
}

/// A paused instance holds no more than this until it is woken. An instance that runs on is charged all its memory.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SetFootprint {
    pub instance: InstanceId,
    /// In MiB.
    pub memory: u64,
}

/// Requests the memory with which a paused instance can run. Answered by [`AdmissionEvent::Woken`], unless it ends before.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RequestWake(pub WakeRequest);

/// Withdraws the request for an instance. It may have been granted already.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WithdrawWake {
    pub instance: InstanceId,
}

/// Asks why the function's request waits. Answered by [`AdmissionEvent::WaitExplained`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ExplainWait {
    pub function: FunctionKey,
}

/// Answers [`AdmissionEvent::FindIdle`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct IdleFound {
    pub function: FunctionKey,
    pub idle: Vec<IdleInstance>,
}

/// A function can do without an instance that it did not report in its last [`IdleFound`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct IdleAvailable;

/// Answers [`AdmissionEvent::Evict`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EvictionDone {
    pub instance: InstanceId,
    /// The name of the function that answers.
    pub function: Arc<str>,
    pub outcome: EvictionOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EvictionOutcome {
    /// It is being ended.
    Ending,
    /// It is being paused, and is expected to hold so many MiB then.
    Pausing { footprint: u64 },
    /// It continues as it was: a caller got a slot of it meanwhile, or it has been paused already.
    Refused,
}

/// Reports what happened to an instance that holds a permit. Sent by the [`Permit`] alone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct HoldingChanged {
    pub instance: InstanceId,
    pub change: HoldingChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldingChange {
    /// Ready, or starting for so long that it does not count as starting.
    Started,
    /// Being ended: its memory is released soon.
    Stopping,
    /// It could not be ended.
    Stuck,
    /// Nothing is left of it.
    Released,
}

/// Requests one [`AllReleased`] as soon as no instance holds anything.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct NotifyWhenReleased {
    pub listener: Recipient<AllReleased>,
}

/// Reports how much of the budget the instances of another daemon take, in MiB.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ForeignMemory(pub u64);

/// Asks for the figures at `/debug`.
#[derive(Debug)]
pub struct AdmissionQuestion;

impl Message for AdmissionQuestion {
    type Result = AdmissionReport;
}

/// The figures of the host at `/debug`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AdmissionReport {
    /// Memory that all instances are charged: what they declare, and paused ones what they hold. In MiB.
    pub memory_taken: u64,
    /// The rest of the memory budget, in MiB.
    pub memory_free: u64,
    /// Instances that are starting.
    pub starting: usize,
    /// Of these, the processes. The others are containers and virtual machines.
    #[serde(skip)]
    pub starting_processes: usize,
    /// Functions that wait for memory or for permission to start an instance.
    pub functions_waiting: usize,
}

// === Sent ===

/// What the AdmissionActor sends to a registered function.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum AdmissionEvent {
    /// The request of that serial was granted. A function that does not want the instance any more drops the permit.
    Granted { serial: u64, permit: Permit },
    /// The request of that serial exceeds the host's limits and can never be granted.
    Denied { serial: u64, reason: String },
    /// The paused instance has the memory with which it can run.
    Woken { instance: InstanceId },
    /// Answers [`ExplainWait`]. `None`: the function has no request in the queue.
    WaitExplained(Option<WaitReason>),
    /// Memory is short: the function answers with [`IdleFound`], and sends [`IdleAvailable`] when it has more later.
    FindIdle,
    /// The function pauses or stops this instance if it is still idle, and answers with [`EvictionDone`].
    Evict { instance: InstanceId, to: Rung },
}

/// No instance holds anything of the host any more, stuck instances aside.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AllReleased;
