//! One connection to an instance: opened, driven by a task of its own, and watched until the instance ends.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use unifaas_actors::Endpoint;

use super::{
    meter::{Meter, MeteredStream},
    upload::RequestBody,
};

/// Longest wait for a connection to an instance of this host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an instance that has just become ready may refuse connections: some call back before they listen.
const CONNECT_RETRY_WINDOW: Duration = Duration::from_secs(1);
/// First pause before such an instance is tried again; it doubles.
const CONNECT_RETRY_PAUSE: Duration = Duration::from_millis(2);
/// How long the last bytes of an ended instance may be under way.
pub const LAST_BYTES: Duration = Duration::from_millis(200);
/// Largest response head and largest read, and most of a request body that hyper holds.
const MAX_BUFFER: usize = 128 * 1024;

/// An open connection, while no request or one is on it. Dropped, it is closed once its task has noticed.
#[derive(Debug)]
pub struct Connection {
    pub sender: SendRequest<RequestBody>,
    pub meter: Arc<Meter>,
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
    pub async fn open(endpoint: &Arc<Endpoint>, open: OpenGuard) -> io::Result<Self> {
        let (stream, meter) = MeteredStream::new(connect(endpoint).await?);
        let handshake = Builder::new().max_buf_size(MAX_BUFFER).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        actix_rt::spawn(drive(connection.with_upgrades(), endpoint.clone(), meter.clone()));
        Ok(Self { sender, meter, reused: false, worker: this_worker(), idle_since: Instant::now(), _open: open })
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
async fn drive(connection: impl Future<Output = hyper::Result<()>>, endpoint: Arc<Endpoint>, meter: Arc<Meter>) {
    let mut connection = pin!(connection);
    // Errors reach the request that they end, and are of no interest without one.
    tokio::select! {
        biased;
        _ = &mut connection => return,
        () = endpoint.ended() => {}
    }
    loop {
        let silent_at = meter.silent_at();
        let finished = timeout(LAST_BYTES, &mut connection).await.is_ok();
        if finished || (silent_at.is_some() && silent_at == meter.silent_at()) {
            return;
        }
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut pause = CONNECT_RETRY_PAUSE;
    loop {
        // Where a container or a virtual machine has been, nothing is left that would refuse.
        let attempt = tokio::select! {
            attempt = timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint.address)) => attempt,
            () = endpoint.gone() => return Err(io::ErrorKind::HostUnreachable.into()),
        };
        let error = match attempt {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let is_young = endpoint.ready_at().is_some_and(|ready_at| ready_at.elapsed() < CONNECT_RETRY_WINDOW);
        if !is_young || !endpoint.is_live() || error.kind() != io::ErrorKind::ConnectionRefused {
            return Err(error);
        }
        sleep(pause).await;
        pause *= 2;
    }
}
