//! Asynchronous invocations over HTTP. They are stored, tried again and delivered by `inbox/`.
//!
//! | file | content |
//! | --- | --- |
//! | `requests.rs`, `answers.rs` | requests that store, show and remove invocations, and what clients see of these |
//! | `enqueue_trace.rs` | the span of their acceptance |
//! | `stored_request.rs` | an attempt, served as any request |

mod answers;
mod enqueue_trace;
mod requests;
mod stored_request;

pub use answers::Shown;
pub use requests::serve_asynchronous;
pub use stored_request::StoredInvoker;
