//! The network of the virtual machines: a tap and two addresses for each, and walls around all of them.
//!
//! `subnet.rs` counts addresses, `tap.rs` makes devices, `link.rs` configures them, `fence.rs` says what guests may
//! reach, `rulesets.rs` tells when somebody removes that, `sysctl.rs` has the kernel's switches, `keeper.rs` is the
//! thread on which all of it happens, and `cleaning.rs` undoes it, also for a daemon that could not. Nothing is made before
//! the first virtual machine needs it. Which of them run is not known here.
//!
//! Everything carries the mark of the state directory: taps in their group, the route in its metric, the table in its
//! name. So the journal needs no more than that there is a network, and a tap costs no line in it.

mod cleaning;
mod fence;
mod keeper;
mod link;
mod rulesets;
mod subnet;
mod sysctl;
mod tap;

use std::{io, net::SocketAddr, thread};

use slog::{Logger, info};
use tokio::{
    runtime,
    sync::{Mutex, mpsc, oneshot, watch},
};
use unifaas_actors::sandbox::LaunchError;

pub use cleaning::{Remains, clean_up};
pub use fence::Mark;
use keeper::{Idle, Keeper, Order, Tap};
use link::Netlink;
pub use subnet::{Link, Subnet};

use crate::state::{Journal, JournalError};

/// What the network is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The range of the guests' addresses.
    pub subnet: Subnet,
    /// Taps that are kept prepared.
    pub pool: usize,
    /// The group whose members may attach to a tap.
    pub tap_group: u32,
    /// The bound address of the callback listener.
    pub callback: SocketAddr,
    /// On everything that is made.
    pub mark: Mark,
    /// Where it is written down before.
    pub journal: Journal,
}

/// Why there is no tap for a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// A privilege, a device or a program is missing.
    #[error("{0}")]
    Missing(String),
    /// The range is in use on this host.
    #[error("the subnet {subnet} for virtual machines overlaps {used}: choose another one with --subnet")]
    Conflict {
        /// The range that was asked for.
        subnet: Subnet,
        /// Who has it, in words.
        used: String,
        /// Whether that looks like another daemon of our kind.
        daemon: bool,
    },
    /// Every address is taken.
    #[error("{0}")]
    Exhausted(String),
    /// The operating system refused.
    #[error("the network for virtual machines cannot be prepared: {0}")]
    Refused(String),
}

impl From<JournalError> for NetError {
    fn from(error: JournalError) -> Self {
        if error.is_full() { Self::Exhausted(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}

impl From<NetError> for LaunchError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Missing(why) => LaunchError::Missing(why),
            NetError::Exhausted(why) => LaunchError::Exhausted(why),
            NetError::Conflict { .. } => LaunchError::Missing(error.to_string()),
            NetError::Refused(_) => LaunchError::Refused(error.to_string()),
        }
    }
}

/// The taps of this daemon. Dropping it removes them all, and waits for that.
pub struct Network {
    settings: Settings,
    idle: Idle,
    worker: Mutex<Option<Worker>>,
    log: Logger,
}

struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Network {
    /// Touches nothing yet.
    pub fn new(settings: Settings, log: &Logger) -> Self {
        Self { settings, idle: Idle::default(), worker: Mutex::new(None), log: log.clone() }
    }

    /// Prepares everything that does not depend on a single guest. Does nothing when that is done.
    pub async fn open(&self) -> Result<(), NetError> {
        self.orders().await.map(drop)
    }

    /// Looks whether the range is free, if this daemon could use it at all. Changes nothing.
    pub async fn check(&self) -> Result<(), NetError> {
        let (done, answer) = oneshot::channel();
        let (subnet, mark) = (self.settings.subnet, self.settings.mark);
        let checking = on_thread(async move {
            let checked = match (keeper::may_administer(), Netlink::open()) {
                (Ok(()), Ok(netlink)) => keeper::look_for_conflicts(&netlink, subnet, mark).await,
                _ => Ok(()),
            };
            let _ = done.send(checked);
        });
        checking.map_err(|error| NetError::Refused(error.to_string()))?;
        answer.await.unwrap_or(Ok(()))
    }

    /// A tap for one guest.
    pub async fn lend(&self, egress: bool) -> Result<TapLease, NetError> {
        let orders = self.orders().await?;
        if !egress && let Some(tap) = self.idle.take() {
            let _ = orders.send(Order::Taken);
            return Ok(TapLease::new(tap, orders));
        }
        let (reply, answer) = oneshot::channel();
        let _ = orders.send(Order::Lend { egress, reply });
        let tap = answer.await.unwrap_or_else(|_| Err(NetError::Refused("its thread has ended".to_owned())))?;
        Ok(TapLease::new(tap, orders))
    }

    async fn orders(&self) -> Result<mpsc::UnboundedSender<Order>, NetError> {
        // Launches that come meanwhile wait here. A failure is not remembered: its cause may go away.
        let mut worker = self.worker.lock().await;
        if let Some(Worker { orders, .. }) = &*worker {
            return Ok(orders.clone());
        }
        let (orders, receiver) = mpsc::unbounded_channel();
        let (opened, answer) = oneshot::channel();
        let (settings, idle, log) = (self.settings.clone(), self.idle.clone(), self.log.clone());
        let thread = on_thread(async move {
            match Keeper::open(settings, idle, log).await {
                Ok(keeper) => {
                    let _ = opened.send(Ok(()));
                    keeper.run(receiver).await;
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        let thread = thread.map_err(|error| NetError::Refused(error.to_string()))?;
        answer.await.unwrap_or_else(|_| Err(NetError::Refused("its thread has ended".to_owned())))?;
        info!(self.log, "network for virtual machines is ready"; "subnet" => %self.settings.subnet);
        *worker = Some(Worker { orders: orders.clone(), thread: Some(thread) });
        Ok(orders)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn on_thread(work: impl Future<Output = ()> + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("network".to_owned()).spawn(move || runtime.block_on(work))
}

/// The right to a tap, until dropped: then somebody else may get it.
#[derive(Debug)]
pub struct TapLease {
    /// The name of the interface.
    pub name: String,
    /// Its two ends.
    pub link: Link,
    tap: Option<Tap>,
    present: watch::Receiver<()>,
    orders: mpsc::UnboundedSender<Order>,
}

impl TapLease {
    fn new(tap: Tap, orders: mpsc::UnboundedSender<Order>) -> Self {
        Self { name: tap.name.clone(), link: tap.link, present: tap.present.clone(), tap: Some(tap), orders }
    }

    /// Waits until somebody removes the interface.
    pub fn removed(&self) -> impl Future<Output = ()> + use<> {
        let mut present = self.present.clone();
        async move { while present.changed().await.is_ok() {} }
    }

    /// Gives it up for good: somebody may still be attached to it.
    pub fn discard(mut self) {
        if let Some(tap) = self.tap.take() {
            let _ = self.orders.send(Order::Discard(tap));
        }
    }
}

impl Drop for TapLease {
    fn drop(&mut self) {
        if let Some(tap) = self.tap.take() {
            let _ = self.orders.send(Order::Return(tap));
        }
    }
}
