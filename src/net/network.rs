//! The network as launches see it: a lease of a tap for each guest.

use std::{io, net::SocketAddr, thread};

use slog::{Logger, info};
use tokio::{
    runtime,
    sync::{Mutex, mpsc, oneshot, watch},
};

use super::{
    error::NetError,
    firewall::Mark,
    netlink::Netlink,
    preflight,
    subnet::{PointToPoint, Subnet},
    tap_manager::{Request, TapManager},
    tap_pool::{Tap, TapPool},
};
use crate::state::Journal;

/// What the network is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The range of the guests' addresses.
    pub subnet: Subnet,
    /// Number of taps that are kept prepared.
    pub pool: usize,
    /// The group whose members may attach to a tap.
    pub tap_group: u32,
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
    /// The mark on every resource.
    pub mark: Mark,
    /// Where resources are recorded before they are created.
    pub journal: Journal,
}

/// The taps of this daemon. Dropping it removes them all, and waits for that.
pub struct Network {
    settings: Settings,
    pool: TapPool,
    worker: Mutex<Option<Worker>>,
    log: Logger,
}

struct Worker {
    requests: mpsc::UnboundedSender<Request>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Network {
    /// Creates the handle; the host's network is not touched yet.
    pub fn new(settings: Settings, log: &Logger) -> Self {
        Self { settings, pool: TapPool::default(), worker: Mutex::new(None), log: log.clone() }
    }

    /// Prepares everything that does not depend on a single guest. Has no effect when that is done.
    pub async fn open(&self) -> Result<(), NetError> {
        self.requests().await.map(drop)
    }

    /// Fails if the subnet is in use on this host. Without CAP_NET_ADMIN there is nothing to check. Changes nothing.
    pub async fn check(&self) -> Result<(), NetError> {
        let (done, answer) = oneshot::channel();
        let (subnet, mark) = (self.settings.subnet, self.settings.mark);
        let checking = on_thread(async move {
            let checked = match (preflight::check_privilege(), Netlink::open()) {
                (Ok(()), Ok(netlink)) => preflight::check_conflicts(&netlink, subnet, mark).await,
                _ => Ok(()),
            };
            let _ = done.send(checked);
        });
        checking.map_err(|error| NetError::Refused(error.to_string()))?;
        answer.await.unwrap_or(Ok(()))
    }

    /// Leases a tap for one guest; with `egress` the guest may reach the outside.
    pub async fn acquire(&self, egress: bool) -> Result<TapLease, NetError> {
        let requests = self.requests().await?;
        if !egress && let Some(tap) = self.pool.take() {
            let _ = requests.send(Request::Refill);
            return Ok(TapLease::new(tap, requests));
        }
        let (reply, answer) = oneshot::channel();
        let _ = requests.send(Request::Acquire { egress, reply });
        let tap = answer.await.unwrap_or_else(|_| Err(NetError::manager_ended()))?;
        Ok(TapLease::new(tap, requests))
    }

    async fn requests(&self) -> Result<mpsc::UnboundedSender<Request>, NetError> {
        // Concurrent launches wait here. A failure is not remembered: its cause may disappear.
        let mut worker = self.worker.lock().await;
        if let Some(Worker { requests, .. }) = &*worker {
            return Ok(requests.clone());
        }
        let (requests, receiver) = mpsc::unbounded_channel();
        let (opened, answer) = oneshot::channel();
        let (settings, pool, log) = (self.settings.clone(), self.pool.clone(), self.log.clone());
        let thread = on_thread(async move {
            match TapManager::open(settings, pool, log).await {
                Ok(manager) => {
                    let _ = opened.send(Ok(()));
                    manager.run(receiver).await;
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        let thread = thread.map_err(|error| NetError::Refused(error.to_string()))?;
        answer.await.unwrap_or_else(|_| Err(NetError::manager_ended()))?;
        info!(self.log, "network for virtual machines is ready"; "subnet" => %self.settings.subnet);
        *worker = Some(Worker { requests: requests.clone(), thread: Some(thread) });
        Ok(requests)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `work` on a thread of its own, with a runtime of its own: netlink requests block for milliseconds.
pub fn on_thread(work: impl Future<Output = ()> + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("network".to_owned()).spawn(move || runtime.block_on(work))
}

/// Exclusive use of a tap. Dropping it returns the tap to the pool.
#[derive(Debug)]
pub struct TapLease {
    /// The name of the interface.
    pub name: String,
    /// The addresses of its two ends.
    pub link: PointToPoint,
    tap: Option<Tap>,
    present: watch::Receiver<()>,
    requests: mpsc::UnboundedSender<Request>,
}

impl TapLease {
    fn new(tap: Tap, requests: mpsc::UnboundedSender<Request>) -> Self {
        Self { name: tap.name.clone(), link: tap.link, present: tap.present.clone(), tap: Some(tap), requests }
    }

    /// Waits until the interface is removed, for instance by `ip link del`.
    pub fn removed(&self) -> impl Future<Output = ()> + use<> {
        let mut present = self.present.clone();
        async move { while present.changed().await.is_ok() {} }
    }

    /// Has the tap removed instead of reused: a process may still be attached to it.
    pub fn discard(mut self) {
        if let Some(tap) = self.tap.take() {
            let _ = self.requests.send(Request::Discard(tap));
        }
    }
}

impl Drop for TapLease {
    fn drop(&mut self) {
        if let Some(tap) = self.tap.take() {
            let _ = self.requests.send(Request::Release(tap));
        }
    }
}
