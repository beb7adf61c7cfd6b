//! What a store of invocations does. The daemon's is a database; `memory.rs` is the model of it.

use std::{sync::Arc, time::Duration};

use super::{
    delivery::DeliveryRecord,
    record::{Entry, InvocationId, NewInvocation, Record, RecordedResponse, Seq, StoredRequest, TriggerRecord},
    settle::Settlement,
    time::UnixMillis,
};

/// A change could not be made. Nothing of its transaction is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file system is full.
    #[error("there is no space: {0}")]
    Full(String),
    /// It may work later.
    #[error("{0}")]
    Failed(String),
    /// The store is damaged. Nothing can be changed any more.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// An invocation that has been stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub id: InvocationId,
    /// The same request was stored before, under this id.
    pub is_duplicate: bool,
}

/// Why an invocation is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueRefusal {
    /// The key belongs to another request.
    #[error("this idempotency key was used for another method, target or body")]
    KeyReused,
    /// The function has as many as it may.
    #[error("{queued} invocations of the function have not ended")]
    Full {
        /// How many it has.
        queued: usize,
    },
    /// The firing was recorded before, or a newer one was.
    #[error("this instant, or a later one, has fired before")]
    AlreadyFired,
    /// Nothing can be stored at the moment.
    #[error("{why}")]
    Unavailable {
        /// Why not.
        why: String,
    },
}

/// An attempt that has been recorded as begun.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The invocation, with the epoch of the attempt.
    pub record: Record,
    /// What the function gets.
    pub request: StoredRequest,
}

/// An invocation and its recorded response.
#[derive(Debug, Clone)]
pub struct Found {
    /// The invocation.
    pub record: Record,
    /// The function's last answer, if there was one and its head is kept.
    pub response: Option<RecordedResponse>,
}

/// A dead letter of the site, which the node keeps that gave it up.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The invocation, with the function's last answer.
    pub found: Found,
    /// What the function got.
    pub request: StoredRequest,
    /// How long it is kept.
    pub keep: Duration,
}

/// What became of a request to remove an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It had not begun.
    Cancelled(Entry),
    /// It had ended.
    Forgotten {
        /// The function whose dead letter it was, if it was any.
        dead_of: Option<Name>,
    },
    /// It is running.
    Running,
    /// There is none.
    Unknown,
}

/// How an attempt, or a wait, is recorded as ended.
#[derive(Debug, Clone)]
pub struct Settle {
    /// The invocation.
    pub seq: Seq,
    /// The record changes only if it has this epoch.
    pub epoch: u32,
    /// The record changes only if it is running, or only if it is queued.
    pub was_running: bool,
    /// What is recorded.
    pub settlement: Settlement,
    /// The function's answer, if there is one.
    pub response: Option<RecordedResponse>,
    /// How long the record is kept if that ends it.
    pub keep: Duration,
}

/// Records that were removed because their time had come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many.
    pub count: usize,
    /// The function of each dead letter among them.
    pub dead_of: Vec<Name>,
}

/// Stores invocations. Each call but those of [`begin`](Self::begin), [`commit`](Self::commit) and
/// [`rollback`](Self::rollback) is made between the former two.
pub trait Store {
    /// Begins a transaction.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn begin(&mut self) -> Result<(), StoreError>;

    /// Makes all changes since [`begin`](Self::begin) durable.
    ///
    /// # Errors
    /// Nothing has changed.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Drops all changes since [`begin`](Self::begin).
    fn rollback(&mut self);

    /// Returns whether there is space for new invocations, and if not, what lacks it.
    fn has_space(&mut self) -> Result<(), String>;

    /// Stores an invocation as queued. `unended`: how many its function has. An invocation that waits to be handed over
    /// is due here when it expires.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn enqueue(
        &mut self,
        new: &NewInvocation,
        unended: usize,
        now: UnixMillis,
    ) -> Result<Result<(Stored, Option<Entry>), EnqueueRefusal>, StoreError>;

    /// Records the beginning of an attempt. `None`: the invocation is not queued with that epoch.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn start(&mut self, seq: Seq, epoch: u32) -> Result<Option<Begun>, StoreError>;

    /// Records the end of an attempt, or that a queued invocation has ended. `None`: it has another epoch, or has ended.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn settle(&mut self, settle: &Settle, now: UnixMillis) -> Result<Option<Record>, StoreError>;

    /// Cancels what has not started, and forgets what has ended.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn remove(&mut self, id: InvocationId) -> Result<Removal, StoreError>;

    /// Queues a dead letter again, without attempts and with its full age. `None`: it is none.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn redrive(&mut self, id: InvocationId, now: UnixMillis) -> Result<Option<Record>, StoreError>;

    /// Returns an invocation.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn find(&mut self, id: InvocationId) -> Result<Option<Record>, StoreError>;

    /// Returns an invocation with its recorded response, and the bodies of both.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn response(&mut self, id: InvocationId) -> Result<Option<Found>, StoreError>;

    /// Returns the request of an invocation, unless it has been dropped.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn request(&mut self, id: InvocationId) -> Result<Option<StoredRequest>, StoreError>;

    /// Returns a queued invocation that waits to be handed over, with its request. It is due as its client wishes.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn handover(&mut self, id: InvocationId) -> Result<Option<Begun>, StoreError>;

    /// Returns the oldest invocations that wait to be handed over, `limit` at most.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn handovers(&mut self, limit: usize) -> Result<Vec<InvocationId>, StoreError>;

    /// Has an invocation run here that waits to be handed over. Returns its entries before and after. `None`: there is none.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn keep_here(&mut self, id: InvocationId) -> Result<Option<(Entry, Entry)>, StoreError>;

    /// Stores a dead letter of the site, unless it is here. Returns whether it is new.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn import(&mut self, letter: &DeadLetter, now: UnixMillis) -> Result<bool, StoreError>;

    /// Returns dead letters, of one function or of all, the oldest first: at most `limit` with a number above `after`.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn dead(&mut self, function: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Returns the results that are to be delivered: see [`Record::delivery`].
    ///
    /// # Errors
    /// When the store cannot be used.
    fn undelivered(&mut self) -> Result<Vec<Entry>, StoreError>;

    /// Returns a result that is to be delivered. `None`: its record has another epoch, was removed, or its result was
    /// delivered.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn result(&mut self, seq: Seq, epoch: u32) -> Result<Option<Found>, StoreError>;

    /// Records an attempt to deliver a result. Does nothing if the record has another epoch.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn record_delivery(&mut self, seq: Seq, epoch: u32, delivery: DeliveryRecord) -> Result<(), StoreError>;

    /// Removes records whose time has come and whose result does not wait for its delivery, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn purge(&mut self, now: UnixMillis, limit: usize) -> Result<Purged, StoreError>;

    /// Queues what was running, as the daemon has ended meanwhile, and returns all that is queued.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn recover(&mut self, now: UnixMillis) -> Result<Vec<Entry>, StoreError>;

    /// Returns what a trigger has settled. A trigger without firings is recorded as seen at `seen`, unless it was seen before
    /// that.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn open_trigger(&mut self, trigger: &str, seen: UnixMillis) -> Result<TriggerRecord, StoreError>;

    /// Returns how many dead letters each function has that has any.
    ///
    /// # Errors
    /// When the store cannot be used.
    fn count_dead(&mut self) -> Result<Vec<(Name, usize)>, StoreError>;

    /// Returns the bytes in use.
    fn bytes(&mut self) -> u64;
}

/// A function's name.
pub type Name = Arc<str>;
