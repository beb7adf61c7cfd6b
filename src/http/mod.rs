//! The HTTP server: listeners, connections, and what actix-http does not do. What it serves is an [`Application`].
//!
//! ```text
//!   listeners ──► server ──► accept_policy ──► transport, tls ──► client_stream ──► actix-http ──► Application
//! ```
//!
//! | file | content |
//! | --- | --- |
//! | `listeners.rs` | the listeners: bound, passed on, served and stopped |
//! | `server.rs` | a connection from its acceptance to its end |
//! | `server_state.rs` | what all workers share: limits, connections, how they end |
//! | `accept_policy.rs`, `connections.rs` | which connections are accepted; how many there may be, and which is evicted |
//! | `transport.rs`, `tls.rs` | TCP and TLS, how a connection begins, and how it is closed gently |
//! | `client_stream.rs`, `timer.rs` | below actix-http: deadlines, clients that leave, what its parser refuses |
//! | `read_ahead.rs`, `goaway.rs` | pipelined requests and GOAWAY frames, as actix-http can take them |
//! | `client_connection.rs`, `http2_streams.rs` | what the stream and the handlers of requests know of each other |
//! | `request_facts.rs`, `forwarded.rs` | what a head says; the client, as a proxy describes it |
//!
//! Functions are invoked in `invocation/`, pages are in `admin/`; `daemon/application.rs` puts both together. The client
//! towards instances is `upstream/`. Why requests fail is in `failure/`.

mod accept_policy;
mod client_connection;
mod client_stream;
mod connections;
mod forwarded;
mod goaway;
mod http2_streams;
mod listeners;
mod read_ahead;
mod request_facts;
mod server;
mod server_state;
mod timer;
mod tls;
mod transport;

pub use accept_policy::{ConnAddrs, ListenerKind};
pub use client_connection::{ActiveRequest, ClientConnection, ClientWatch, client_of};
pub use connections::{ConnectionGuard, ConnectionReport, Connections};
pub use forwarded::{Peer, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID, joined_value};
pub use listeners::{BindError, FrontSocket, ListenAddrs, Listeners, PassableListener, PassedListener, Servers};
pub use request_facts::{Framing, RequestFacts, host_of};
pub use server::{Application, Expected};
pub use server_state::{ConnLimits, ServerState};
pub use tls::{Tls, TlsError};
