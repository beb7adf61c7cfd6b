//! The HTTP side of the daemon: it moves bytes and decides nothing.
//!
//! Three listeners: the *front* serves `/invoke/` and, to callers of this host, the admin part; the *callback* listener
//! hears instances that are ready; an *admin* listener of its own exists only when it was asked for.
//!
//! ```text
//!   gate.rs ──► server.rs ──► invoke.rs ──► dispatch.rs ──► upstream/   one request, from its head to the last byte of its answer
//!                    ├──────► pages.rs ───► debug.rs                    admin.rs, owner.rs: who is shown them
//!                    └──────► ready.rs                                   instances that call back
//!
//!   client.rs, upstream/    the two sides            socket.rs, transfer.rs, alarm.rs   what both are made of
//!   wire/                   HTTP/1.1 as bytes        headers.rs, request_id.rs          what is passed on, what is added
//!   crowd.rs, room.rs       all clients together     status.rs, record.rs               what failures say, what is counted
//! ```

mod admin;
mod alarm;
mod client;
mod clock;
mod crowd;
mod debug;
mod dispatch;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod headers;
mod invoke;
mod owner;
mod pages;
mod ready;
mod record;
mod request_id;
mod room;
mod server;
mod socket;
mod status;
mod transfer;
mod upstream;
mod wire;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use actix_server::{Server, ServerHandle};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use slog::Logger;
use tokio::{net::TcpSocket, time::Instant};
use unifaas_actors::{AdmissionActor, Callbacks, Directory};

use crate::{host::function_peers::FunctionPeers, log::LogThrottle};
use admin::Audience;
use room::Room;
use server::Listener;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// When the kernel asks a silent client whether it is still there, how often, and how many questions may stay unanswered:
/// a machine that was switched off keeps no connection for longer than two minutes.
const PROBES: (u32, u32, u32) = (60, 10, 6);
/// Time for the last bytes to leave once everything else has ended.
const LAST_BYTES: u64 = 2;

/// What every HTTP worker shares.
pub struct Shared {
    /// Which functions there are.
    pub directory: Arc<Directory>,
    /// Whom a ready callback is for.
    pub callbacks: Arc<Callbacks>,
    /// What instances have of the host.
    pub admission: Addr<AdmissionActor>,
    /// Where the workers log.
    pub log: Logger,
    /// Shown at `/debug`.
    pub settings: Settings,
    /// When the daemon started.
    pub started: Instant,
    /// Where functions are, and as whom they run.
    pub peers: FunctionPeers,
    limits: Limits,
    /// The places at the front.
    room: Arc<Room>,
    strangers: LogThrottle,
    crowded: LogThrottle,
    forgers: LogThrottle,
    draining: AtomicBool,
}

/// What clients may take of the daemon.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address of another host.
    pub connections_each: usize,
    /// How long a client may be silent in the middle of a request, or take nothing of a response.
    pub client_timeout: Option<Duration>,
}

/// The daemon's settings, as `/debug` shows them.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "each is the option of that name")]
pub struct Settings {
    pub registry: String,
    pub listen: String,
    pub callback_listen: String,
    pub admin_listen: Option<String>,
    pub subnet: String,
    pub state_dir: String,
    pub drain_grace_seconds: f64,
    pub max_connections: usize,
    pub max_connections_per_client: usize,
    /// 0: none.
    pub client_timeout_seconds: f64,
    /// Memory that instances may use together, in MiB.
    pub memory_budget: u64,
    pub max_starts: usize,
    /// `None`: without bound.
    pub max_process_starts: Option<NonZeroUsize>,
}

impl Shared {
    /// For a daemon that has just started.
    pub fn new(
        directory: Arc<Directory>,
        callbacks: Arc<Callbacks>,
        admission: Addr<AdmissionActor>,
        peers: FunctionPeers,
        limits: Limits,
        settings: Settings,
        log: Logger,
    ) -> Self {
        let room = Room::new(limits.connections, limits.connections_each);
        let (strangers, crowded, forgers, draining) = Default::default();
        let started = Instant::now();
        Self {
            directory,
            callbacks,
            admission,
            log,
            settings,
            started,
            peers,
            limits,
            room,
            strangers,
            crowded,
            forgers,
            draining,
        }
    }

    /// From now on every request is refused, and connections end after their response.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// The listeners, bound and not yet served.
pub struct Listeners {
    front: TcpListener,
    callback: TcpListener,
    admin: Option<TcpListener>,
}

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({option}): {source}")]
pub struct BindError {
    option: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Listeners {
    /// Binds all or none.
    pub fn bind(front: SocketAddr, callback: SocketAddr, admin: Option<SocketAddr>) -> Result<Self, BindError> {
        Ok(Self {
            front: bind("--listen", front)?,
            callback: bind("--callback-listen", callback)?,
            admin: admin.map(|admin| bind("--admin-listen", admin)).transpose()?,
        })
    }

    /// Where requests are taken.
    pub fn front(&self) -> io::Result<SocketAddr> {
        self.front.local_addr()
    }

    /// Where instances call back.
    pub fn callback(&self) -> io::Result<SocketAddr> {
        self.callback.local_addr()
    }

    /// Where the admin part is, if it has a listener of its own.
    pub fn admin(&self) -> io::Result<Option<SocketAddr>> {
        self.admin.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves on all of them.
    pub fn serve(self, shared: Arc<Shared>) -> io::Result<Servers> {
        let audience = if self.admin.is_none() { Audience::ThisHost } else { Audience::Nobody };
        let front = serve(self.front, Listener::front(audience, &shared), None, &shared)?;
        let admin = match self.admin {
            Some(socket) => {
                let listener = Listener::admin(socket.local_addr()?, &shared);
                Some(serve(socket, listener, Some(1), &shared)?)
            }
            None => None,
        };
        let callback = serve(self.callback, Listener::callback(&shared), Some(1), &shared)?;
        let handles =
            [Some(&front), admin.as_ref(), Some(&callback)].into_iter().flatten().map(Server::handle).collect();
        let running = [Some(front), admin, Some(callback)].into_iter().flatten();
        Ok(Servers { handles, running: running.map(actix_rt::spawn).collect() })
    }
}

/// Serves on one of them, with so many workers or as many as there are processors.
fn serve(socket: TcpListener, listener: Listener, workers: Option<usize>, shared: &Arc<Shared>) -> io::Result<Server> {
    let mut builder = Server::build().disable_signals().shutdown_timeout(LAST_BYTES);
    if let Some(workers) = workers {
        builder = builder.workers(workers);
    }
    // Unused connections end at once when the server is told to stop.
    let (shared, last_call) = (shared.clone(), builder.graceful_shutdown_signal());
    let service = move || listener.clone().service(shared.clone(), last_call.clone());
    // The crowd counts, and knows who can go.
    Ok(builder.max_concurrent_connections(usize::MAX / 2).listen("http", socket, service)?.run())
}

/// The servers that run.
pub struct Servers {
    /// The callback listener's is last: instances may call until they are gone.
    handles: Vec<ServerHandle>,
    running: Vec<actix_rt::task::JoinHandle<io::Result<()>>>,
}

impl Servers {
    /// Lets what is being sent leave, and ends.
    pub async fn stop(self) {
        for handle in self.handles {
            handle.stop(true).await;
        }
        for server in self.running {
            // How a server ended after it was told to end is of no consequence.
            let _ = server.await;
        }
    }
}

fn bind(option: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the connections of the former life to be forgotten.
        socket.set_reuseaddr(true)?;
        // What follows is inherited by each connection. Without it a small answer may wait for the acknowledgement of the
        // one before.
        socket.set_nodelay(true)?;
        let (idle, interval, count) = PROBES;
        setsockopt(&socket, sockopt::KeepAlive, &true)?;
        setsockopt(&socket, sockopt::TcpKeepIdle, &idle)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &interval)?;
        setsockopt(&socket, sockopt::TcpKeepCount, &count)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    listen().map_err(|source| BindError { option, address, source })
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_neither_delayed_nor_kept_for_a_machine_that_is_gone() {
        let listener = bind("--listen", ([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (connection, _) = listener.accept().unwrap();
        assert!(connection.nodelay().unwrap());
        assert!(getsockopt(&connection, sockopt::KeepAlive).unwrap());
        let (idle, interval, count) = PROBES;
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepIdle).unwrap(), idle);
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepInterval).unwrap(), interval);
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepCount).unwrap(), count);
    }
}
