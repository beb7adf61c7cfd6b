//! The network as launches see it: a lease of a tap for each guest.

use std::{io, net::SocketAddr};

use slog::{Logger, info};
use tokio::sync::{Mutex, oneshot, watch};

use super::{
    error::NetError,
    firewall::Mark,
    netlink::Netlink,
    preflight,
    subnet::{PointToPoint, Subnet},
    tap_manager::{Request, TapManager},
    tap_pool::{Tap, TapKind, TapPool, TapPools},
};
use crate::{
    spawner::Spawner,
    state::Journal,
    worker::{Requests, Worker, WorkerHandle},
};

/// Name of the threads of this module.
const THREAD: &str = "network";

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
    /// Another daemon uses the same range: during an upgrade, until it has ended.
    pub is_shared: bool,
    /// The mark on every resource.
    pub mark: Mark,
    /// Where resources are recorded before they are created.
    pub journal: Journal,
    /// Runs nft.
    pub spawner: Spawner,
}

/// The taps of this daemon. Dropping it removes them all, and waits for that.
pub struct Network {
    settings: Settings,
    pools: TapPools,
    worker: Mutex<Option<Worker<Request>>>,
    log: Logger,
}

impl Network {
    /// Creates the handle; the host's network is not touched yet.
    pub fn new(settings: Settings, log: &Logger) -> Self {
        Self { settings, pools: TapPools::default(), worker: Mutex::new(None), log: log.clone() }
    }

    /// Prepares everything that does not depend on a single guest. Has no effect when that is done.
    pub async fn open(&self) -> Result<(), NetError> {
        self.manager().await.map(drop)
    }

    /// Fails if the subnet is in use on this host. Without CAP_NET_ADMIN there is nothing to check. Changes nothing.
    pub async fn check(&self) -> Result<(), NetError> {
        let Settings { subnet, mark, is_shared, .. } = self.settings;
        let checked = on_thread(async move || match (preflight::check_privilege(), Netlink::open()) {
            (Ok(()), Ok(netlink)) => preflight::check_conflicts(&netlink, subnet, mark, is_shared).await,
            _ => Ok(()),
        });
        checked.await.unwrap_or_else(|error| Err(NetError::Refused(error.to_string())))
    }

    /// Leases a tap for one guest.
    pub async fn acquire(&self, kind: TapKind) -> Result<TapLease, NetError> {
        let manager = self.manager().await?;
        if let Some(tap) = self.pools.of(kind).and_then(TapPool::take) {
            manager.send(Request::Refill);
            return Ok(TapLease::new(tap, manager));
        }
        let answer = manager.call(|reply| Request::Acquire { kind, reply });
        let tap = answer.await.unwrap_or_else(|_| Err(NetError::manager_ended()))?;
        Ok(TapLease::new(tap, manager))
    }

    /// Returns a handle of the tap manager, which is started by the first call.
    async fn manager(&self) -> Result<WorkerHandle<Request>, NetError> {
        // Concurrent launches wait here. A failure is not remembered: its cause may disappear.
        let mut worker = self.worker.lock().await;
        if let Some(worker) = &*worker {
            return Ok(worker.handle());
        }
        let (opened, answer) = oneshot::channel();
        let (settings, pools, log) = (self.settings.clone(), self.pools.clone(), self.log.clone());
        let started = Worker::on_runtime(THREAD, async move |requests: Requests<Request>| {
            match TapManager::open(settings, pools, log).await {
                Ok(manager) => {
                    let _ = opened.send(Ok(()));
                    manager.run(requests).await;
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        let started = started.map_err(|error| NetError::Refused(error.to_string()))?;
        answer.await.unwrap_or_else(|_| Err(NetError::manager_ended()))?;
        info!(self.log, "network for virtual machines is ready"; "subnet" => %self.settings.subnet);
        Ok(worker.insert(started).handle())
    }
}

/// Runs `work` on a thread of its own: netlink requests block for milliseconds.
pub async fn on_thread<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, answer) = oneshot::channel();
    let _worker = Worker::<()>::on_runtime(THREAD, async move |_| drop(done.send(work().await)))?;
    answer.await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Exclusive use of a tap. Dropping it returns the tap to the pool.
#[derive(Debug)]
pub struct TapLease {
    /// The name of the interface.
    pub name: String,
    /// The addresses of its two ends.
    pub link: PointToPoint,
    /// The only port of the host that a guest with the address of clones reaches, if a socket that is bound to its tap listens.
    pub callback_port: u16,
    tap: Option<Tap>,
    present: watch::Receiver<()>,
    manager: WorkerHandle<Request>,
}

impl TapLease {
    fn new(tap: Tap, manager: WorkerHandle<Request>) -> Self {
        let Tap { ref name, link, callback_port, ref present, .. } = tap;
        let (name, present) = (name.clone(), present.clone());
        Self { name, link, callback_port, present, tap: Some(tap), manager }
    }

    /// Waits until the interface is removed, for instance by `ip link del`.
    pub fn removed(&self) -> impl Future<Output = ()> + use<> {
        let mut present = self.present.clone();
        async move { while present.changed().await.is_ok() {} }
    }

    /// Has the tap removed instead of reused: a process may still be attached to it.
    pub fn discard(mut self) {
        if let Some(tap) = self.tap.take() {
            self.manager.send(Request::Discard(tap));
        }
    }
}

impl Drop for TapLease {
    fn drop(&mut self) {
        if let Some(tap) = self.tap.take() {
            self.manager.send(Request::Release(tap));
        }
    }
}
