//! Why a request fails, and what that says to its client. "Errors become HTTP" here and nowhere else.
//!
//! | file | content |
//! | --- | --- |
//! | `reasons.rs` | why the platform answers instead of the function, and what follows for the instance and the connection |
//! | `inbox_failure.rs` | the same for requests about asynchronous invocations |
//! | `status.rs` | statuses, codes, and the problem document that a client gets |
//! | `sayings.rs` | statuses and codes of what concerns asynchronous invocations and published functions |
//!
//! What can go wrong towards an instance is in `upstream/`, and is a part of a [`Failure`]. Which requests are logged and counted
//! as failed is decided in `invocation/`.

mod inbox_failure;
mod reasons;
mod sayings;
mod status;

pub use inbox_failure::InboxFailure;
pub use reasons::Failure;
pub use status::{ErrorDetail, Marks, Rejection, of_callback as callback_status};
