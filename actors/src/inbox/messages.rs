//! The messages of the InboxActor, and what runs its attempts.

use std::sync::Arc;

use actix::{Message, Recipient};
use serde::Serialize;

use super::{
    record::{Entry, RecordedResponse, Seq},
    settle::Outcome,
    time::UnixMillis,
    writer::StoreFact,
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

/// Starts no further attempts. Resolves when none is under way.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopStarting(pub tokio::sync::oneshot::Sender<()>);

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
