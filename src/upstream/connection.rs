//! One connection to an instance: opened, driven by a task of its own, and watched until the instance ends.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd as _, OwnedFd},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::either::Either;

use super::{
    cut::until_cut,
    meter::{Meter, MeteredStream, MeteredTcp},
    remote::Remote,
    upload::RequestBody,
};
use crate::net;

/// Longest wait for a connection to an instance of this host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last bytes of an ended instance may be under way.
pub const LAST_BYTES: Duration = Duration::from_millis(200);
/// Largest response head and largest read, and most of a request body that hyper holds.
const MAX_BUFFER: usize = 128 * 1024;

/// An open connection, while no request or one is on it. Dropped, it is closed once its task has noticed.
#[derive(Debug)]
pub struct Connection {
    pub sender: SendRequest<RequestBody>,
    pub meter: Arc<Meter>,
    pub remote: Remote,
    /// Whether it has served a request before: the instance may be closing it right now.
    pub reused: bool,
    /// The worker that runs its task.
    pub worker: usize,
    /// Since when it is idle.
    pub idle_since: Instant,
    _open: OpenGuard,
}

/// Counts an open connection of an instance.
#[derive(Debug)]
pub struct OpenGuard(Arc<AtomicUsize>);

impl OpenGuard {
    pub fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(open.clone())
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Connection {
    /// Opens a connection, and starts its task on this worker.
    ///
    /// # Errors
    /// What the system says; `TimedOut` after five seconds; `HostUnreachable` if the instance is leaving.
    pub async fn open(remote: &Remote, open: OpenGuard) -> io::Result<Box<Self>> {
        let tcp = MeteredTcp::new(connect(remote).await?);
        let meter = tcp.meter.clone();
        let (stream, socket) = match remote {
            Remote::Instance(_) => (Either::Left(tcp), None),
            Remote::Node(node) => {
                let socket = tcp.tcp.as_fd().try_clone_to_owned()?;
                let secured = tokio::select! {
                    secured = node.secure(tcp) => secured?,
                    () = until_cut(&socket, || true) => return Err(io::ErrorKind::TimedOut.into()),
                };
                (secured, Some(socket))
            }
        };
        let stream = TokioIo::new(MeteredStream::new(stream));
        let handshake = Builder::new().max_buf_size(MAX_BUFFER).handshake(stream);
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        let driven = drive(connection.with_upgrades(), remote.clone(), meter.clone());
        match socket {
            None => actix_rt::spawn(driven),
            Some(socket) => actix_rt::spawn(drive_until_cut(driven, socket, meter.clone())),
        };
        let (remote, worker, idle_since) = (remote.clone(), this_worker(), Instant::now());
        Ok(Box::new(Self { sender, meter, remote, reused: false, worker, idle_since, _open: open }))
    }
}

/// Returns a number that differs between threads.
pub fn this_worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static WORKER: usize = NEXT.fetch_add(1, Relaxed));
    WORKER.with(|worker| *worker)
}

/// Runs a connection to its end. That of an instance which ended without closing it, like a virtual machine, ends as soon
/// as nothing more comes.
async fn drive(connection: impl Future<Output = hyper::Result<()>>, remote: Remote, meter: Arc<Meter>) {
    let (mut connection, mut ended, mut is_watched) = (pin!(connection), pin!(remote.ended()), false);
    // Errors reach the request that they end, and are of no interest without one.
    let is_complete = poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        if is_watched && !remote.has_ended() {
            // It will wake this task, the only one that polls it.
            return Poll::Pending;
        }
        is_watched = true;
        ended.as_mut().poll(cx).map(|()| false)
    });
    if is_complete.await {
        return;
    }
    loop {
        let silent_at = meter.silent_at();
        let finished = timeout(LAST_BYTES, &mut connection).await.is_ok();
        if finished || (silent_at.is_some() && silent_at == meter.silent_at()) {
            return;
        }
    }
}

/// Runs a connection to another node, and ends it if the network does not carry what is sent there.
async fn drive_until_cut(driven: impl Future<Output = ()>, socket: OwnedFd, meter: Arc<Meter>) {
    tokio::select! {
        () = driven => {}
        () = until_cut(&socket, || meter.awaits_response()) => meter.set_cut(),
    }
}

async fn connect(remote: &Remote) -> io::Result<TcpStream> {
    let endpoint = match remote {
        Remote::Instance(endpoint) => endpoint,
        Remote::Node(node) => return node.connect().await,
    };
    if let Some(stream) = endpoint.take_connection().and_then(usable) {
        return Ok(stream);
    }
    // Where a container or a virtual machine has been, nothing is left that would refuse.
    let opened = tokio::select! {
        opened = timeout(CONNECT_TIMEOUT, net::connect(&endpoint.route)) => opened,
        () = endpoint.gone() => return Err(io::ErrorKind::HostUnreachable.into()),
    };
    let stream = opened.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns the connection on which an instance was found ready, if it is open and nothing has come on it.
fn usable(connection: OwnedFd) -> Option<TcpStream> {
    let stream = std::net::TcpStream::from(connection);
    let is_idle = stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    let stream = TcpStream::from_std(stream).ok().filter(|_| is_idle)?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}
