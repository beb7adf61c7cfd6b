//! What the server of a site does: records with revisions, keys of requests, a queue for each function, and one for results.

use std::time::Duration;

use super::call::Call;
use crate::inbox::{InvocationId, StoredRequest};

/// The queue of the results that are to be delivered. Each other queue has the name of its function; none has this one.
pub const RESULTS: &str = "=results";

/// The number of a change. A later change of a record has a larger one.
pub type Revision = u64;

/// The server did not do what was asked, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// It may have been done all the same.
    #[error("{0}")]
    Unavailable(String),
    /// It has no room for a message.
    #[error("{0}")]
    Full(String),
    /// The request is larger than the server takes.
    #[error("the request is larger than the server of the site takes")]
    TooLarge,
}

/// The idempotency key of a request, and what tells requests with the same key apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReservation {
    /// The function.
    pub function: String,
    /// The key.
    pub key: String,
    /// The invocation that has it.
    pub id: InvocationId,
    /// A digest of method, target and body.
    pub fingerprint: Vec<u8>,
    /// How long the key is kept.
    pub keep: Duration,
}

/// A message that was delivered, until it is acknowledged.
#[derive(Debug, Clone)]
pub struct Delivered<R> {
    /// What it is acknowledged with.
    pub receipt: R,
    /// The invocation.
    pub id: InvocationId,
    /// What the function gets. Empty if it is about a result.
    pub request: StoredRequest,
    /// How often it was delivered, this time included.
    pub count: u64,
}

/// The server of a site. Whatever it confirms outlives each node.
#[allow(async_fn_in_trait, reason = "nothing of it leaves its thread")]
pub trait SiteStore {
    /// What a message is acknowledged with.
    type Receipt;

    /// Reserves a key, unless it is. Returns what has it.
    ///
    /// # Errors
    /// Whether it is reserved is not known.
    async fn reserve(&self, key: &KeyReservation) -> Result<KeyReservation, SiteError>;

    /// Records a call, unless there is one of this id, which is returned then.
    ///
    /// # Errors
    /// Whether it is recorded is not known.
    async fn create(&self, call: &Call, keep: Duration) -> Result<Option<Call>, SiteError>;

    /// Queues a message of a call. Within an hour, the second message of the same call in a queue is none. The server may
    /// drop it after `keep`.
    ///
    /// # Errors
    /// Whether it is queued is not known, it is too large, or there is no room.
    async fn publish(&self, queue: &str, call: &Call, request: &StoredRequest, keep: Duration)
    -> Result<(), SiteError>;

    /// Waits for a message of a queue for a while. It is delivered again unless it is prolonged.
    ///
    /// # Errors
    /// A message may have been delivered to no node.
    async fn pull(&self, queue: &str) -> Result<Option<Delivered<Self::Receipt>>, SiteError>;

    /// Returns a call with its revision.
    ///
    /// # Errors
    /// It is not known.
    async fn find(&self, id: InvocationId) -> Result<Option<(Revision, Call)>, SiteError>;

    /// Changes a call that has this revision. `None`: it has another one.
    ///
    /// # Errors
    /// Whether it has changed is not known.
    async fn update(&self, call: &Call, revision: Revision, keep: Duration) -> Result<Option<Revision>, SiteError>;

    /// Removes a call that has this revision, and its key. Returns whether it had.
    ///
    /// # Errors
    /// Whether it is removed is not known.
    async fn remove(&self, call: &Call, revision: Revision) -> Result<bool, SiteError>;

    /// Removes a message for good.
    ///
    /// # Errors
    /// It may be delivered again.
    async fn acknowledge(&self, receipt: &Self::Receipt) -> Result<(), SiteError>;

    /// Has a message delivered again, not before `delay` is over. Without an answer: it is delivered again in any case.
    async fn give_back(&self, receipt: &Self::Receipt, delay: Duration);

    /// Keeps a message for this node.
    async fn prolong(&self, receipt: &Self::Receipt);

    /// Waits until the server may be asked again.
    async fn pause(&self);
}
