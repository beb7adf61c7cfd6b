//! What makes attempts: `invocation/` serves them, which this module does not know.

use futures::future::LocalBoxFuture;
use unifaas_actors::inbox::{Begun, Outcome, RecordedResponse, StoredRequest};

/// Names the invocation to the function.
pub const INVOCATION: &str = "x-unifaas-invocation";
/// Counts the attempts of the invocation, from 1.
pub const ATTEMPT: &str = "x-unifaas-attempt";
/// The client's name for the request, or the invocation's id.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How an attempt ended, and the function's response if it gave one.
pub type Ended = (Outcome, Option<RecordedResponse>);

/// Has functions answer stored requests.
pub trait Invoker: Send + Sync {
    /// Has a function answer a request. A response body larger than `max_response` bytes is read and dropped.
    ///
    /// # Panics
    /// The future panics outside of a `LocalSet`.
    fn invoke(&self, function: &str, request: StoredRequest, max_response: u64) -> LocalBoxFuture<'static, Ended>;
}

/// Makes the request of an attempt, with the headers that tell the function which attempt it is.
pub fn attempt_request(Begun { record, request }: Begun) -> StoredRequest {
    let id = record.id.to_string();
    let key = record.key.as_deref().unwrap_or(&id).to_owned();
    request.header(INVOCATION, id).header(ATTEMPT, record.attempts.to_string()).header(IDEMPOTENCY_KEY, key)
}
