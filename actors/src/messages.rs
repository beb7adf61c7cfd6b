//! Everything the actors say to each other. Requests are imperative, facts past tense, questions nouns.
//!
//! Bodies never travel in a message. Facts are sent with `do_send`; who wants an answer puts a reply port into the
//! message or asks for a snapshot.

use std::{net::IpAddr, time::Duration};

use actix::{Addr, Message};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    function::{FunctionSnapshot, Lease, Refusal, Released},
    id::InstanceId,
    instance::{CallbackOutcome, InstanceActor, InstanceSnapshot, StopReason},
    registry::{Changes, LoadedSpec},
};

// === To the RegistryActor ===

/// Files have changed, or may have.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FilesChanged(pub Changes);

/// What the functions in question look like now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Scanned {
    pub specs: Vec<(String, Option<LoadedSpec>)>,
    /// The specs are all there is: what is not among them does not exist.
    pub complete: bool,
}

/// A function's actor has ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct FunctionGone {
    pub name: String,
    /// Tells an actor from its predecessor of the same name.
    pub serial: u64,
    /// It panicked.
    pub bug: bool,
}

/// No instance holds anything of the host any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AllReleased;

/// End every function. Answered when the last instance is gone.
///
/// A second one shortens the grace of the first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DrainAll {
    /// How long requests that are being served may go on.
    pub grace: Duration,
    /// Told when nothing is left.
    pub done: oneshot::Sender<()>,
}

// === To a FunctionActor ===

/// Somebody wants a slot and there was none. Counted as waiting by the sender.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Acquire {
    pub ticket: u64,
    pub since: Instant,
    pub reply: oneshot::Sender<Result<Lease, Refusal>>,
}

/// The caller of that ticket does not wait any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Abandon {
    pub ticket: u64,
}

/// A slot was given back, and somebody has to know.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SlotReleased {
    pub instance: InstanceId,
    pub released: Released,
    /// The instance failed the request.
    pub failed: bool,
}

/// A single-use instance was taken: see whether a successor is due.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Replenish;

/// The host has room for the instance that the function asked for: it is to ask again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CapacityAvailable;

/// Somebody else needs the memory of an idle instance, which has been retired for that.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Evict {
    pub instance: InstanceId,
}

/// The function's file has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Configure(pub LoadedSpec);

/// Take no more requests, finish those that are being served, end every instance, then end.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub grace: Duration,
}

/// An instance takes requests from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct InstanceReady {
    pub instance: InstanceId,
}

/// An instance takes no more requests. It still holds resources.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct InstanceLost {
    pub instance: InstanceId,
    pub reason: StopReason,
    /// The last it printed.
    pub output: Vec<String>,
}

/// An instance is over and holds nothing any more.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct InstanceGone {
    pub instance: InstanceId,
    /// Its actor panicked.
    pub bug: bool,
}

/// What a function looks like now, for `/debug`.
#[derive(Debug)]
pub struct FunctionQuestion;

impl Message for FunctionQuestion {
    type Result = FunctionSnapshot;
}

// === To an InstanceActor ===

/// Somebody called the instance's callback URL.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CalledBack {
    /// The caller's address.
    pub from: IpAddr,
    /// Told once the instance's own address is known.
    pub reply: oneshot::Sender<CallbackOutcome>,
}

/// End the instance.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Stop {
    pub reason: StopReason,
    /// Without grace.
    pub now: bool,
}

/// The instance has become idle after its alarm had found it busy.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct BecameIdle;

/// What an instance looks like now, for `/debug`.
#[derive(Debug)]
pub struct InstanceQuestion;

impl Message for InstanceQuestion {
    type Result = InstanceSnapshot;
}

/// The instances of a function, to be asked one by one.
pub type InstanceAddrs = Vec<(InstanceId, Addr<InstanceActor>)>;
