//! The HTTP side of the daemon: it moves bytes and decides nothing.
//!
//! Three listeners: the *front* serves `/invoke/` and, to callers of this host, the admin part; the *callback* listener
//! hears instances that are ready; an *admin* listener of its own exists only when it was asked for.
//!
//! ```text
//!   front.rs ──► invoke.rs ──► dispatch.rs ──► upstream/   (request)
//!                    └───────► relay.rs    ◄── upstream/   (response, holds the lease)
//!   ready.rs     debug.rs     headers.rs   status.rs   client.rs
//! ```
//!
//! actix-http serves the front directly, because actix-web's routing and extractors would cost a warm request more than
//! everything else the daemon does for it; the pages for people are an actix-web `App`.

mod client;
mod debug;
mod dispatch;
mod front;
mod headers;
mod invoke;
mod ready;
mod relay;
mod status;
mod upstream;

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

use actix_server::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};
use serde::Serialize;
use slog::Logger;
use tokio::{net::TcpSocket, time::Instant};
use unifaas_actors::{Admission, Callbacks, Directory};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Time for a client to send its request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the last bytes to leave once everything else has ended.
const LAST_BYTES: u64 = 2;

/// What every HTTP worker shares.
pub struct Shared {
    /// Which functions there are.
    pub directory: Arc<Directory>,
    /// Whom a ready callback is for.
    pub callbacks: Arc<Callbacks>,
    /// What instances have of the host.
    pub admission: Arc<Admission>,
    /// Where the workers log.
    pub log: Logger,
    /// Shown at `/debug`.
    pub settings: Settings,
    /// When the daemon started.
    pub started: Instant,
    draining: AtomicBool,
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
        admission: Arc<Admission>,
        log: Logger,
        settings: Settings,
    ) -> Self {
        let draining = AtomicBool::new(false);
        Self { directory, callbacks, admission, log, settings, started: Instant::now(), draining }
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
        let admin_here = self.admin.is_none();
        let builder = Server::build();
        // As actix-web's own server has it: unused connections end at once when the server is told to stop.
        let last_call = builder.graceful_shutdown_signal();
        let front_shared = shared.clone();
        let front = builder
            .disable_signals()
            .shutdown_timeout(LAST_BYTES)
            .backlog(BACKLOG)
            .listen("front", self.front, move || front::service(front_shared.clone(), admin_here, last_call.clone()))?
            .run();
        let data = web::Data::from(shared);
        let callback_data = data.clone();
        let callback = HttpServer::new(move || App::new().app_data(callback_data.clone()).configure(ready::routes))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(LAST_BYTES)
            .client_request_timeout(HEAD_TIMEOUT)
            .listen(self.callback)?
            .run();
        let admin = match self.admin {
            None => None,
            Some(admin) => {
                let server = HttpServer::new(move || App::new().app_data(data.clone()).configure(debug::routes));
                Some(server.workers(1).disable_signals().shutdown_timeout(LAST_BYTES).listen(admin)?.run())
            }
        };
        let handles =
            [Some(&front), admin.as_ref(), Some(&callback)].into_iter().flatten().map(Server::handle).collect();
        let running = [Some(front), admin, Some(callback)].into_iter().flatten();
        Ok(Servers { handles, running: running.map(actix_rt::spawn).collect() })
    }
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
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    listen().map_err(|source| BindError { option, address, source })
}
