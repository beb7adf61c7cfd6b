//! The messages of the InboxActor, and what runs its attempts.

use std::sync::Arc;

use actix::{Message, Recipient};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    fact::StoreFact,
    record::{Entry, RecordedResponse, Seq},
    settle::Outcome,
    time::UnixMillis,
};

impl Message for StoreFact {
    type Result = ();
}

/// An attempt that is to be made: its beginning is recorded first.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The invocation.
    pub entry: Entry,
    /// Larger response bodies are not kept, in bytes.
    pub max_response: u64,
}

/// Makes attempts. Each one is answered with [`Attempted`], whatever happens.
pub trait Attempts {
    /// Begins an attempt, without blocking. Its end goes to `report`.
    fn begin(&self, attempt: Attempt, report: Recipient<Attempted>);
}

/// An attempt has ended, or was not begun.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Attempted {
    /// The invocation.
    pub seq: Seq,
    /// How it ended.
    pub end: AttemptEnd,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum AttemptEnd {
    /// The record had changed: it was cancelled.
    Stale,
    /// Its beginning could not be recorded.
    NotRecorded,
    /// It was made.
    Made {
        /// The epoch of the attempt.
        epoch: u32,
        /// How it ended.
        outcome: Outcome,
        /// The function's answer, if there is one.
        response: Option<RecordedResponse>,
    },
}

/// Asks for room for an attempt of what any node of the site has accepted. It is answered when there is some, and dropped
/// when no attempts begin any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AskRoom {
    /// The function.
    pub function: Arc<str>,
    /// Gets the room.
    pub reply: oneshot::Sender<AttemptRoom>,
}

/// Room for an attempt, within the function's and the daemon's limits. Given back when this is dropped.
#[derive(Debug)]
pub struct AttemptRoom {
    pub(super) function: Arc<str>,
    pub(super) inbox: Recipient<RoomReturned>,
}

/// Room for an attempt was given back.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct RoomReturned(pub Arc<str>);

impl Drop for AttemptRoom {
    fn drop(&mut self) {
        self.inbox.do_send(RoomReturned(self.function.clone()));
    }
}

/// Starts no further attempts. Resolves when none is under way.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopStarting(pub oneshot::Sender<()>);

/// Asks what the inbox has.
#[derive(Debug, Message)]
#[rtype(result = "InboxReport")]
pub struct InboxQuestion;

/// What the inbox has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InboxReport {
    /// Invocations that wait.
    pub queued: usize,
    /// Attempts under way.
    pub running: usize,
    /// Functions that have any of both.
    pub functions: Vec<FunctionInbox>,
}

/// What the inbox has of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FunctionInbox {
    /// Its name.
    pub function: Arc<str>,
    /// Invocations that wait.
    pub queued: usize,
    /// Attempts under way.
    pub running: usize,
    /// When the first of those is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_due: Option<UnixMillis>,
}
