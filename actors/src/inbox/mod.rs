//! Asynchronous invocations: stored durably, run when a function has room, retried, and kept until their results expire.
//!
//! ```text
//!   HTTP worker, trigger ──► InboxHandle ──► StoreWriter ──► Store        commits groups of changes, and answers
//!                                               │ facts
//!                                               ▼
//!                                           InboxActor ──► Attempts       acquires a slot and dispatches, in the daemon
//! ```
//!
//! | file | content |
//! | --- | --- |
//! | `time.rs` | wall-clock time, as it is stored |
//! | `record.rs` | an invocation, its states and its request |
//! | `settle.rs`, `backoff.rs` | what follows from an attempt |
//! | `delivery.rs` | which result is delivered next, and what follows from an attempt |
//! | `pending.rs` | which invocation is next |
//! | `scheduler.rs` | what runs, and what happens at each fact |
//! | `store.rs`, `memory.rs` | what a store does, and the model of it |
//! | `writer.rs`, `commands.rs`, `fact.rs` | groups of commands, each one transaction, and what follows from them |
//! | `handle.rs` | the part of the inbox that any thread may use |
//! | `actor.rs`, `messages.rs` | the actor around the scheduler |
//!
//! Invariants: an invocation is answered with its id only after it is durable. Only the writer changes a record, and only
//! the InboxActor decides that it should. An attempt carries the epoch of its record; an outcome of an older epoch changes
//! nothing. At most one attempt of an invocation runs at a time, as far as one daemon knows.

mod actor;
mod backoff;
mod commands;
mod delivery;
mod fact;
mod handle;
mod memory;
mod messages;
mod pending;
mod record;
mod scheduler;
mod settle;
#[cfg(test)]
mod simulation;
mod store;
#[cfg(test)]
mod tests;
mod time;
mod writer;

pub use actor::InboxActor;
pub use commands::{Command, CommandSender, Reply, StoreClosed};
pub use delivery::{Deliveries, DeliveryAction, DeliveryEnd, DeliveryRecord};
pub(crate) use delivery::{IN_ALL, TO_ONE, pause_of_receiver, pause_of_result};
pub use fact::StoreFact;
pub use handle::{Enqueue, EnqueueError, InboxHandle, SiteLink};
pub use memory::MemoryStore;
pub use messages::{
    AskRoom, Attempt, AttemptEnd, AttemptRoom, Attempted, Attempts, FunctionInbox, InboxQuestion, InboxReport,
    StopStarting,
};
pub use record::{
    Callback, CallbackState, Entry, Firing, InvocationId, NewInvocation, Record, RecordedResponse, Seq, State,
    StoredRequest, TriggerRecord,
};
pub use settle::{DeadReason, Outcome, Settlement, Tried, settle};
pub use store::{Begun, DeadLetter, EnqueueRefusal, Found, Name, Purged, Removal, Settle, Store, StoreError, Stored};
pub use time::UnixMillis;
pub use writer::{MAX_GROUP, StoreWriter};
