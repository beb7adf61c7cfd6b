//! The HTTP side of the daemon: it moves bytes and decides nothing.
//!
//! ```text
//!   accept_policy ──► server ──► invoke ──► dispatch ──► upstream/    one request, from its head to its response
//!                       ├──────► debug      (admin_access: which requests see it)
//!                       └──────► ready      instances that call back
//!
//!   client_stream, client_connection     below actix-http: deadlines, clients that leave, what its parser refuses
//!   read_ahead                           pipelined requests, handed to actix-http one by one
//!   connections, conn_limit              how many connections there are, and which is evicted
//!   client_body, response_body, tunnel   bytes both ways
//!   headers, request_id, status          what is passed on, what is added, what failures say
//! ```

mod accept_policy;
mod access_log;
mod admin_access;
mod client_body;
mod client_connection;
mod client_stream;
mod conn_limit;
mod connections;
mod debug;
mod dispatch;
mod headers;
mod invoke;
mod listeners;
mod malformed;
mod read_ahead;
mod ready;
mod request_id;
mod response_body;
mod server;
mod shared;
mod status;
mod timer;
mod tls;
mod tunnel;
mod upstream;

pub use listeners::{BindError, Listeners, Servers};
pub use shared::{ConnLimits, Settings, Shared};
pub use tls::{Tls, TlsError};
