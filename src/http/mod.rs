//! The HTTP side of the daemon: it moves bytes and decides nothing.
//!
//! ```text
//!   accept_policy ──► server ──► invoke ──► exchange ──► dispatch ──► upstream/    one request
//!                       └──────► admin::routes                                     pages, and instances that call back
//!
//!   client_stream, client_connection     below actix-http: deadlines, clients that leave, what its parser refuses
//!   transport, tls                       TCP and TLS below, how a connection begins, and how it is closed gently
//!   read_ahead, goaway                   pipelined requests and GOAWAY frames, as actix-http can take them
//!   http2_streams                        requests in service on one HTTP/2 connection
//!   connections                          how many connections there are, and which is evicted
//!   client_body, response_body, tunnel   bytes both ways
//!   request_facts, headers, forwarded    what a head says, what is passed on, and what is added
//!   async_invocation, invocation_answers, inbox_failure
//!                                        asynchronous invocations: accepted, shown, removed
//!   enqueue_trace                        the span of their acceptance
//!   stored_request                       an attempt of one, through exchange as any request
//!   function, forward                   the function of a request, and another node that serves it instead
//!   request_id                           what a request is called
//!   failure, status                      why requests fail, and what that says
//!   access_log, timing                   lines of the log, and `Server-Timing`
//! ```

mod accept_policy;
mod access_log;
mod async_invocation;
mod client_body;
mod client_connection;
mod client_stream;
mod connections;
mod dispatch;
mod enqueue_trace;
mod exchange;
mod forward;
mod forwarded;
mod function;
mod goaway;
mod headers;
mod http2_streams;
mod invocation_answers;
mod invoke;
mod listeners;
mod read_ahead;
mod request_facts;
mod request_trace;
mod response_body;
mod server;
mod server_state;
mod stored_request;
mod timer;
mod timing;
mod tls;
mod transport;
mod tunnel;

pub use accept_policy::{ConnAddrs, ListenerKind};
pub use client_connection::{ActiveRequest, ClientWatch, client_of};
pub use connections::ConnectionReport;
pub use invocation_answers::Shown as ShownInvocation;
pub use invoke::is_invocation;
pub use listeners::{BindError, FrontSocket, ListenAddrs, Listeners, PassableListener, Servers};
pub use request_facts::{RequestFacts, host as host_of};
pub use server::Routes;
pub use server_state::{ConnLimits, ServerState};
pub use stored_request::{StoredClients, serve_stored};
pub use tls::{Tls, TlsError};
