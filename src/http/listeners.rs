//! The listeners: bound together, served together, and stopped in order.
//!
//! The *front* serves `/invoke/` and, to callers of this host, the admin pages. Its socket may be inherited from the
//! service manager, which keeps it open for the next daemon. The *callback* listener hears instances
//! that are ready. An *admin* listener of its own and a listener for *metrics* exist only
//! when they were asked for, and so does the *peer* listener, to which other nodes forward requests.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    sync::Arc,
};

use actix_server::{Server, ServerHandle};
use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use super::{
    accept_policy::ListenerKind,
    server::{Application, ListenerConfig},
    tls::Tls,
};
use crate::host::{keep_alive::KeepAlive, port_owner::PortOwner};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// A machine that was switched off keeps no connection for longer than two minutes.
const TCP_KEEPALIVE: KeepAlive = KeepAlive { idle: 60, interval: 10, count: 6 };
/// How long responses may take to leave after the server was stopped, in seconds.
const SHUTDOWN_TIMEOUT: u64 = 2;

/// The listeners, bound and not yet served.
pub struct Listeners {
    front: Bound,
    is_inherited: bool,
    callback: Bound,
    admin: Option<Bound>,
    metrics: Option<Bound>,
    peer: Option<Bound>,
}

/// A listening socket, and the address that its option names.
struct Bound {
    configured: SocketAddr,
    socket: TcpListener,
}

/// Addresses of the options.
#[derive(Debug, Clone, Copy)]
pub struct ListenAddrs {
    pub front: SocketAddr,
    pub callback: SocketAddr,
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
}

/// What is said of a listener to another daemon, which may be of another version.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PassedListener {
    pub kind: ListenerKind,
    /// The value of its option. The new daemon binds another socket if it has another value.
    pub configured: SocketAddr,
    /// The service manager holds the socket, too.
    pub is_managed: bool,
}

/// A listener that another daemon can go on with.
pub struct PassableListener {
    pub passed: PassedListener,
    pub socket: TcpListener,
}

/// Where the front listens.
pub enum FrontSocket {
    Address(SocketAddr),
    /// A socket that listens already; the service manager holds it if `is_managed`.
    Inherited {
        socket: TcpListener,
        is_managed: bool,
    },
}

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address} ({option}): {source}{}", by(owner.as_ref()))]
    Address { option: &'static str, address: SocketAddr, source: io::Error, owner: Option<PortOwner> },
    #[error("cannot use the inherited socket (LISTEN_FDS): {0}")]
    Inherited(io::Error),
}

fn by(owner: Option<&PortOwner>) -> String {
    owner.map_or_else(String::new, |owner| format!(", by {owner}"))
}

impl FrontSocket {
    /// Takes the socket that the service manager passed, or else the address. To be called before any thread exists.
    ///
    /// # Errors
    /// When several sockets were passed, or a socket that does not listen.
    pub fn inherited_or(address: SocketAddr) -> Result<Self, BindError> {
        let mut passed = ListenFd::from_env();
        if passed.len() > 1 {
            return Err(BindError::Inherited(io::Error::other(format!("{} were passed instead of one", passed.len()))));
        }
        match passed.take_tcp_listener(0).map_err(BindError::Inherited)? {
            Some(socket) => match getsockopt(&socket, sockopt::AcceptConn) {
                Ok(true) => Ok(Self::Inherited { socket, is_managed: true }),
                Ok(false) => Err(BindError::Inherited(io::Error::other("it does not listen"))),
                Err(error) => Err(BindError::Inherited(error.into())),
            },
            None => Ok(Self::Address(address)),
        }
    }
}

impl Listeners {
    /// Binds all or none. Of those that another daemon has `passed`, the ones are used whose options are as they were.
    pub fn bind(
        front: FrontSocket,
        addrs: ListenAddrs,
        mut passed: Vec<(PassedListener, TcpListener)>,
    ) -> Result<Self, BindError> {
        let mut take = |kind, configured| {
            let is_it = |(known, _): &mut (PassedListener, TcpListener)| {
                known.kind == kind && (known.configured == configured || known.is_managed)
            };
            passed.extract_if(.., is_it).next()
        };
        let mut bind_or_take = |kind, name, configured| {
            let socket = match take(kind, configured) {
                Some((_, socket)) => socket,
                None => bind(name, configured)?,
            };
            Ok::<_, BindError>(Bound { configured, socket })
        };
        let mut bind_all = |front| {
            let callback = bind_or_take(ListenerKind::Callback, "--callback-listen", addrs.callback)?;
            let mut optional = |kind, name, address: Option<SocketAddr>| {
                address.map(|address| bind_or_take(kind, name, address)).transpose()
            };
            let admin = optional(ListenerKind::Admin, "--admin-listen", addrs.admin)?;
            let metrics = optional(ListenerKind::Metrics, "--metrics-listen", addrs.metrics)?;
            let peer = optional(ListenerKind::Peer, "--peer-listen", addrs.peer)?;
            Ok(Self { front, is_inherited: false, callback, admin, metrics, peer })
        };
        let (socket, is_inherited) = match front {
            FrontSocket::Address(address) => (bind("--listen", address)?, false),
            FrontSocket::Inherited { socket, is_managed } => {
                prepare(&socket).map_err(BindError::Inherited)?;
                (socket, is_managed)
            }
        };
        let listeners = bind_all(Bound { configured: addrs.front, socket })?;
        Ok(Self { is_inherited, ..listeners })
    }

    /// Returns where requests are taken.
    pub fn front(&self) -> io::Result<SocketAddr> {
        self.front.socket.local_addr()
    }

    /// Whether the front's socket was passed by another process.
    pub fn is_front_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Returns where instances call back.
    pub fn callback(&self) -> io::Result<SocketAddr> {
        self.callback.socket.local_addr()
    }

    /// Returns where the admin pages are, if they have a listener of their own.
    pub fn admin(&self) -> io::Result<Option<SocketAddr>> {
        self.admin.as_ref().map(|admin| admin.socket.local_addr()).transpose()
    }

    /// Returns where metrics are, if they have a listener of their own.
    pub fn metrics(&self) -> io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(|metrics| metrics.socket.local_addr()).transpose()
    }

    /// Returns where other nodes forward requests to, if there are any.
    pub fn peer(&self) -> io::Result<Option<SocketAddr>> {
        self.peer.as_ref().map(|peer| peer.socket.local_addr()).transpose()
    }

    /// Serves callbacks, waits for `first`, and then serves on all of them. With `tls`, the front and the admin listener
    /// speak TLS.
    pub async fn serve(
        self,
        application: &Arc<dyn Application>,
        tls: Option<&Tls>,
        first: impl Future<Output = ()>,
    ) -> io::Result<Servers> {
        let (address, is_inherited) = (self.admin()?, self.is_inherited);
        let mut passable = Vec::new();
        let mut serve = |Bound { configured, socket }, kind, workers| {
            let is_managed = kind == ListenerKind::Front && is_inherited;
            let passed = PassedListener { kind, configured, is_managed };
            passable.push(PassableListener { passed, socket: socket.try_clone()? });
            serve(socket, ListenerConfig::new(kind, tls, application.clone(), address), workers)
        };
        let callback = serve(self.callback, ListenerKind::Callback, Some(1))?;
        let callback_handle = callback.handle();
        let mut running = vec![actix_rt::spawn(callback)];
        first.await;
        let mut servers = vec![serve(self.front, ListenerKind::Front, None)?];
        if let Some(socket) = self.admin {
            servers.push(serve(socket, ListenerKind::Admin, Some(1))?);
        }
        if let Some(socket) = self.metrics {
            servers.push(serve(socket, ListenerKind::Metrics, Some(1))?);
        }
        if let Some(socket) = self.peer {
            servers.push(serve(socket, ListenerKind::Peer, None)?);
        }
        let mut handles: Vec<_> = servers.iter().map(Server::handle).collect();
        handles.push(callback_handle);
        running.extend(servers.into_iter().map(actix_rt::spawn));
        Ok(Servers { handles, is_inherited, passable, running })
    }
}

/// Serves one listener, with `workers` threads or as many as there are processors.
fn serve(socket: TcpListener, listener: ListenerConfig, workers: Option<usize>) -> io::Result<Server> {
    let mut builder = Server::build().disable_signals().shutdown_timeout(SHUTDOWN_TIMEOUT);
    if let Some(workers) = workers {
        builder = builder.workers(workers);
    }
    // Idle connections end at once when the server is stopped.
    let shutdown = builder.graceful_shutdown_signal();
    let service = move || listener.clone().service(shutdown.clone());
    // `connections.rs` counts, and knows which connections can be evicted.
    Ok(builder.max_concurrent_connections(usize::MAX / 2).listen("http", socket, service)?.run())
}

/// The running servers.
pub struct Servers {
    /// The front's is first. The callback listener's is last: instances may call until they have ended.
    handles: Vec<ServerHandle>,
    is_inherited: bool,
    passable: Vec<PassableListener>,
    running: Vec<actix_rt::task::JoinHandle<io::Result<()>>>,
}

impl Servers {
    /// Whether another process keeps the front's socket open.
    pub fn is_front_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Accepts no more connections at the front. They wait for the next process that accepts.
    pub async fn stop_accepting(&self) {
        if let Some(front) = self.handles.first() {
            front.pause().await;
        }
    }

    /// Returns the listeners for another daemon.
    pub fn passable(&self) -> &[PassableListener] {
        &self.passable
    }

    /// Accepts no more callbacks: another daemon does, on the same socket.
    pub async fn pause_callbacks(&self) {
        if let Some(callback) = self.handles.last() {
            callback.pause().await;
        }
    }

    /// Accepts callbacks again.
    pub async fn resume_callbacks(&self) {
        if let Some(callback) = self.handles.last() {
            callback.resume().await;
        }
    }

    /// Accepts no more connections on any listener: another daemon does.
    pub async fn stop_accepting_all(&mut self) {
        for handle in &self.handles {
            handle.pause().await;
        }
        self.passable.clear();
    }

    /// Lets responses leave, and ends.
    pub async fn stop(self) {
        for handle in self.handles {
            handle.stop(true).await;
        }
        for server in self.running {
            // The result of a stopped server has no consequence.
            let _ = server.await;
        }
    }
}

/// Sets what connections inherit.
fn prepare(socket: &impl AsFd) -> io::Result<()> {
    // Without it a small response may wait for the acknowledgement of the one before.
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    TCP_KEEPALIVE.set(socket)
}

fn bind(option: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart does not wait for connections of the process before in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        prepare(&socket)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    listen().map_err(|source| {
        let is_taken = source.kind() == io::ErrorKind::AddrInUse;
        BindError::Address { option, address, owner: is_taken.then(|| PortOwner::of(address)).flatten(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_inherit_nodelay_and_keepalive() {
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let any = ([127, 0, 0, 1], 0).into();
        let addrs = ListenAddrs { front: any, callback: any, admin: None, metrics: None, peer: None };
        for front in [FrontSocket::Address(any), FrontSocket::Inherited { socket: plain, is_managed: true }] {
            check_inherited_options(&Listeners::bind(front, addrs, Vec::new()).unwrap().front.socket);
        }
    }

    #[track_caller]
    fn check_inherited_options(listener: &TcpListener) {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (connection, _) = listener.accept().unwrap();
        assert!(connection.nodelay().unwrap());
        assert!(getsockopt(&connection, sockopt::KeepAlive).unwrap());
        let KeepAlive { idle, interval, count } = TCP_KEEPALIVE;
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepIdle).unwrap(), idle);
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepInterval).unwrap(), interval);
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepCount).unwrap(), count);
    }
}
