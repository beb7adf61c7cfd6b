//! What the store's writer is asked for. The answers go through reply channels, after the commit.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    delivery::DeliveryRecord,
    record::{InvocationId, NewInvocation, Record, Seq, StoredRequest, TriggerRecord},
    store::{Begun, DeadLetter, EnqueueRefusal, Found, Removal, Settle, Stored},
    time::UnixMillis,
};

/// Where an answer goes. Dropped, it says that the store is not available.
pub type Reply<T> = oneshot::Sender<T>;

/// A request to the store's writer.
#[derive(Debug)]
pub enum Command {
    /// Stores an invocation.
    Enqueue(Box<NewInvocation>, Reply<Result<Stored, EnqueueRefusal>>),
    /// Records the beginning of an attempt.
    Start {
        /// The invocation.
        seq: Seq,
        /// The epoch of its record.
        epoch: u32,
        /// `None`: the record has changed.
        reply: Reply<Option<Box<Begun>>>,
    },
    /// Records the end of an attempt. Kept until it can be written.
    Settle(Box<Settle>),
    /// Cancels what has not started, and forgets what has ended.
    Remove(InvocationId, Reply<Removal>),
    /// Queues a dead letter again.
    Redrive(InvocationId, Reply<Option<Record>>),
    /// Returns an invocation.
    Find {
        /// Its id.
        id: InvocationId,
        /// Whether the answer waits for its end.
        awaits_end: bool,
        /// `None`: there is none.
        reply: Reply<Option<Record>>,
    },
    /// Returns an invocation with its response.
    Response(InvocationId, Reply<Option<Box<Found>>>),
    /// Returns a stored request.
    Request(InvocationId, Reply<Option<Box<StoredRequest>>>),
    /// Returns dead letters.
    Dead {
        /// `None`: of all functions.
        function: Option<Arc<str>>,
        /// The oldest above this number are first.
        after: Seq,
        /// How many.
        limit: usize,
        /// The records.
        reply: Reply<Vec<Record>>,
    },
    /// Returns an invocation that waits to be handed over to the site, with its request.
    Handover(InvocationId, Reply<Option<Box<Begun>>>),
    /// Returns the oldest invocations that wait to be handed over, so many at most.
    Handovers(usize, Reply<Vec<InvocationId>>),
    /// Has an invocation run here that waited to be handed over.
    KeepHere(InvocationId, Reply<()>),
    /// Stores a dead letter of the site.
    Import(Box<DeadLetter>, Reply<()>),
    /// Returns a result that is to be delivered.
    Result {
        /// The invocation.
        seq: Seq,
        /// The epoch of its record.
        epoch: u32,
        /// `None`: the record has changed.
        reply: Reply<Option<Box<Found>>>,
    },
    /// Records an attempt to deliver a result.
    RecordDelivery {
        /// The invocation.
        seq: Seq,
        /// The epoch of its record.
        epoch: u32,
        /// What is recorded.
        delivery: DeliveryRecord,
        /// Answered once it is recorded.
        reply: Reply<()>,
    },
    /// Returns what a trigger has settled, and records a new one.
    OpenTrigger {
        /// Its name.
        trigger: String,
        /// When it was first seen, if it is new.
        seen: UnixMillis,
        /// What is recorded.
        reply: Reply<TriggerRecord>,
    },
}

impl Command {
    /// Returns whether the command needs a store, even if there is none yet.
    pub fn creates_store(&self) -> bool {
        matches!(self, Self::Enqueue(..) | Self::OpenTrigger { .. } | Self::Import(..))
    }

    /// Answers a command for a store that has nothing. Those that need a store and the end of an attempt are dropped.
    pub fn answer_empty(self) {
        // A receiver that has left does not matter.
        let _ = match self {
            Self::Enqueue(..) | Self::OpenTrigger { .. } | Self::Settle(_) | Self::Import(..) => Ok(()),
            Self::Start { reply, .. } => reply.send(None).map_err(drop),
            Self::Remove(_, reply) => reply.send(Removal::Unknown).map_err(drop),
            Self::Redrive(_, reply) | Self::Find { reply, .. } => reply.send(None).map_err(drop),
            Self::Response(_, reply) | Self::Result { reply, .. } => reply.send(None).map_err(drop),
            Self::Request(_, reply) => reply.send(None).map_err(drop),
            Self::Dead { reply, .. } => reply.send(Vec::new()).map_err(drop),
            Self::RecordDelivery { reply, .. } | Self::KeepHere(_, reply) => reply.send(()),
            Self::Handover(_, reply) => reply.send(None).map_err(drop),
            Self::Handovers(_, reply) => reply.send(Vec::new()).map_err(drop),
        };
    }
}

/// The store takes no commands: it cannot be opened, or the daemon ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreClosed(pub String);

/// Passes commands to the store's writer, from any thread. The first one may open the store.
pub trait CommandSender: Send + Sync {
    /// Passes a command on.
    ///
    /// # Errors
    /// The store takes none.
    fn send(&self, command: Command) -> Result<(), StoreClosed>;
}
