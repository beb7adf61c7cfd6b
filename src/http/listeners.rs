//! The three listeners: bound together, served together, and stopped in order.
//!
//! The *front* serves `/invoke/` and, to callers of this host, the admin pages. The *callback* listener hears instances
//! that are ready. An *admin* listener of its own exists only when it was asked for.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use actix_server::{Server, ServerHandle};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

use super::{server::ListenerConfig, shared::Shared, tls::Tls};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// When the kernel probes a silent client, how often, and how many probes may stay unanswered. A machine that was
/// switched off keeps no connection for longer than two minutes.
const TCP_KEEPALIVE: (u32, u32, u32) = (60, 10, 6);
/// How long responses may take to leave after the server was stopped, in seconds.
const SHUTDOWN_TIMEOUT: u64 = 2;

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

    /// Returns where requests are taken.
    pub fn front(&self) -> io::Result<SocketAddr> {
        self.front.local_addr()
    }

    /// Returns where instances call back.
    pub fn callback(&self) -> io::Result<SocketAddr> {
        self.callback.local_addr()
    }

    /// Returns where the admin pages are, if they have a listener of their own.
    pub fn admin(&self) -> io::Result<Option<SocketAddr>> {
        self.admin.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves on all of them. With `tls`, the front and the admin listener speak TLS.
    pub fn serve(self, shared: &Arc<Shared>, tls: Option<&Tls>) -> io::Result<Servers> {
        let admin_address = self.admin()?;
        let front = serve(self.front, ListenerConfig::front(shared, admin_address.is_some(), tls), None, shared)?;
        let admin = match self.admin.zip(admin_address) {
            Some((socket, address)) => {
                Some(serve(socket, ListenerConfig::admin(shared, address, tls), Some(1), shared)?)
            }
            None => None,
        };
        let callback = serve(self.callback, ListenerConfig::callback(shared), Some(1), shared)?;
        let servers: Vec<_> = [Some(front), admin, Some(callback)].into_iter().flatten().collect();
        let handles = servers.iter().map(Server::handle).collect();
        Ok(Servers { handles, running: servers.into_iter().map(actix_rt::spawn).collect() })
    }
}

/// Serves one listener, with `workers` threads or as many as there are processors.
fn serve(
    socket: TcpListener,
    listener: ListenerConfig,
    workers: Option<usize>,
    shared: &Arc<Shared>,
) -> io::Result<Server> {
    let mut builder = Server::build().disable_signals().shutdown_timeout(SHUTDOWN_TIMEOUT);
    if let Some(workers) = workers {
        builder = builder.workers(workers);
    }
    // Idle connections end at once when the server is stopped.
    let (shared, shutdown) = (shared.clone(), builder.graceful_shutdown_signal());
    let service = move || listener.clone().service(shared.clone(), shutdown.clone());
    // `conn_limit.rs` counts, and knows which connections can be evicted.
    Ok(builder.max_concurrent_connections(usize::MAX / 2).listen("http", socket, service)?.run())
}

/// The running servers.
pub struct Servers {
    /// The callback listener's is last: instances may call until they have ended.
    handles: Vec<ServerHandle>,
    running: Vec<actix_rt::task::JoinHandle<io::Result<()>>>,
}

impl Servers {
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

fn bind(option: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart does not wait for connections of the process before in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        // Connections inherit what follows. Without it a small response may wait for the acknowledgement of the one before.
        socket.set_nodelay(true)?;
        let (idle, interval, count) = TCP_KEEPALIVE;
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
    async fn connections_inherit_nodelay_and_keepalive() {
        let listener = bind("--listen", ([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (connection, _) = listener.accept().unwrap();
        assert!(connection.nodelay().unwrap());
        assert!(getsockopt(&connection, sockopt::KeepAlive).unwrap());
        let (idle, interval, count) = TCP_KEEPALIVE;
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepIdle).unwrap(), idle);
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepInterval).unwrap(), interval);
        assert_eq!(getsockopt(&connection, sockopt::TcpKeepCount).unwrap(), count);
    }
}
