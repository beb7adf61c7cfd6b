//! What the store has committed, as it is reported to those who follow it.

use super::record::{Entry, Record, Seq};

/// What the store has committed, for the InboxActor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFact {
    /// The store is open.
    Opened {
        /// The invocations that are queued.
        queued: Vec<Entry>,
        /// The results that are to be delivered: see [`Record::delivery`].
        undelivered: Vec<Entry>,
        /// Whether any invocations wait to be handed over to the site.
        has_handovers: bool,
    },
    /// An invocation was stored, or redriven.
    Queued(Entry),
    /// An invocation was cancelled.
    Cancelled(Entry),
    /// An invocation that waited to be handed over runs here.
    Kept(Entry),
    /// The end of an attempt or of a wait was recorded.
    Settled(Box<Record>),
    /// The end of an attempt came too late: the record has another epoch, or is not there.
    Stale(Seq),
}
