//! Invocations over HTTP: a request is served by an instance of its function, or by another node.
//!
//! ```text
//!   invoke ──► exchange ──► forward ──► dispatch ──► upstream/        asynchronous ──► inbox/
//! ```
//!
//! | file | content |
//! | --- | --- |
//! | `invoke.rs`, `target.rs`, `function.rs` | the handler; the request's target; its function |
//! | `exchange.rs` | what is held of a request from its head to the last byte of its response |
//! | `dispatch.rs`, `forward.rs` | attempts with instances; another node that serves it instead |
//! | `client_body.rs`, `response_body.rs`, `tunnel.rs` | bytes both ways |
//! | `headers.rs` | which headers are passed on |
//! | `access_log.rs`, `timing.rs`, `request_trace.rs` | its count and its line of the log, `Server-Timing`, and its spans |
//! | `asynchronous/` | asynchronous invocations: accepted, shown and removed, and their attempts |
//!
//! Bytes from and to clients are moved by `http/`, those from and to instances by `upstream/`. Slots are given by the actors.
//! Why a request fails is said by `failure/`.

mod access_log;
mod asynchronous;
mod client_body;
mod dispatch;
mod exchange;
mod forward;
mod function;
mod headers;
mod invoke;
mod request_trace;
mod response_body;
mod target;
mod timing;
mod tunnel;

pub use access_log::log_overdue_failures;
pub use asynchronous::{Shown as ShownInvocation, StoredInvoker};
pub use invoke::{expect, invoke};
pub use target::is_invocation;
