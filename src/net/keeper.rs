//! The thread that makes, lends and removes taps, so that the thread of the actors never waits for the kernel.
//!
//! A few taps are kept prepared. One that comes back is lent again; those of guests that could reach the outside are
//! removed instead, so that nobody inherits their connections.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use nix::errno::Errno;
use slog::{Logger, debug, warn};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    NetError, Settings,
    cleaning::{self, Remains},
    fence::{Fence, Mark},
    link::{Netlink, Removals, Used},
    rulesets::{Deletions, deletions},
    subnet::{FreeLinks, Link, Subnet},
    sysctl,
    tap::NewTap,
};
use crate::state::{JournalEntry, Resource};

/// Between a tap that could not be prepared and the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Without orders for so long, taps are prepared again: the guest that took one boots meanwhile, and wants the processor.
const QUIET: Duration = Duration::from_millis(100);

/// What the thread is asked for.
pub(super) enum Order {
    /// There may be one tap less than there should be.
    Taken,
    Lend {
        egress: bool,
        reply: oneshot::Sender<Result<Tap, NetError>>,
    },
    /// Its guest has ended.
    Return(Tap),
    /// Its guest could not be ended.
    Discard(Tap),
    Close,
}

/// The taps that are prepared. Whoever has them in sight may take one, and tells the thread with [`Order::Taken`].
#[derive(Debug, Clone, Default)]
pub(super) struct Idle(Arc<Mutex<VecDeque<Tap>>>);

impl Idle {
    /// The one that has rested longest: the kernel is busy for a while with one that was let go.
    pub fn take(&self) -> Option<Tap> {
        self.lock().pop_front()
    }

    fn put(&self, tap: Tap) {
        self.lock().push_back(tap);
    }

    fn remove(&self, index: u32) -> Option<Tap> {
        let mut taps = self.lock();
        let position = taps.iter().position(|tap| tap.index == index)?;
        taps.remove(position)
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Tap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tap device that is up, and the link it is one end of.
#[derive(Debug)]
pub(super) struct Tap {
    pub name: String,
    pub link: Link,
    index: u32,
    egress: bool,
    /// Closed once the interface is no more.
    pub present: watch::Receiver<()>,
}

impl Tap {
    /// Whether the interface was removed, by us or by somebody else.
    fn is_gone(&self) -> bool {
        self.present.has_changed().is_err()
    }
}

/// Everything of the daemon in this host's network.
pub(super) struct Keeper {
    netlink: Netlink,
    /// Indices of interfaces of this host that are no more.
    removals: Removals,
    /// Somebody may have removed the fence.
    deletions: Deletions,
    /// Somebody has, and it could not be raised again.
    fallen: bool,
    /// Of each tap there is, by index; dropped with it, which whoever has the tap sees.
    present: HashMap<u32, watch::Sender<()>>,
    settings: Settings,
    free: FreeLinks,
    idle: Idle,
    /// Whether guests reach the outside, if they may.
    egress: bool,
    /// Interfaces that forward since then.
    uplinks: Vec<String>,
    /// What is written down of all that.
    entries: Vec<JournalEntry>,
    log: Logger,
}

impl Keeper {
    /// Prepares the network. After an error, everything is as it was.
    pub async fn open(settings: Settings, idle: Idle, log: Logger) -> Result<Self, NetError> {
        let (netlink, removals) = Netlink::watching().map_err(refused("netlink"))?;
        let deletions = deletions().map_err(refused("netlink"))?;
        may_administer()?;
        look_for_conflicts(&netlink, settings.subnet, settings.mark).await?;
        let free = FreeLinks::of(settings.subnet);
        let (present, uplinks, entries) = (HashMap::new(), Vec::new(), Vec::new());
        let (egress, fallen) = (false, false);
        let mut keeper =
            Self { netlink, removals, deletions, fallen, present, settings, free, idle, egress, uplinks, entries, log };
        match keeper.prepare().await {
            Ok(()) => Ok(keeper),
            Err(error) => {
                keeper.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&mut self) -> Result<(), NetError> {
        let Settings { subnet, mark, callback, .. } = self.settings;
        let resource = Resource::Network { mark: mark.closed(), subnet: subnet.to_string() };
        self.entries.push(self.settings.journal.record(resource).await?);
        self.netlink.reserve(subnet, mark).await.map_err(refused("the route that reserves the subnet"))?;
        // Of two daemons that reserve at the same moment each sees the other one by now, at the latest.
        look_for_conflicts(&self.netlink, subnet, mark).await?;
        Fence { mark, callback }.raise()?;
        // The first one also tells whether taps can be made at all.
        for _ in 0..self.settings.pool.min(subnet.links() as usize) {
            let tap = self.make().await?;
            self.idle.put(tap);
        }
        Ok(())
    }

    /// Carries out orders until the last, and then removes everything.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let (mut failed, mut again) = (false, time::Instant::now());
        loop {
            let pause = match self.idle.len() {
                _ if failed => PAUSE,
                0 => Duration::ZERO,
                _ => QUIET,
            };
            let order = tokio::select! {
                biased;
                Some(index) = self.removals.next() => {
                    self.is_no_more(index);
                    continue;
                }
                Some(()) = self.deletions.next() => {
                    self.mend_fence();
                    continue;
                }
                () = time::sleep_until(again), if self.fallen => {
                    self.mend_fence();
                    again = time::Instant::now() + PAUSE;
                    continue;
                }
                order = orders.recv() => order,
                () = time::sleep(pause), if self.idle.len() < self.settings.pool => {
                    failed = !self.prepare_one().await;
                    continue;
                }
            };
            match order {
                Some(Order::Taken) => {}
                Some(Order::Lend { egress, reply }) => self.lend(egress, reply).await,
                Some(Order::Return(tap)) => self.take_back(tap).await,
                Some(Order::Discard(tap)) => self.remove(tap).await,
                Some(Order::Close) | None => break,
            }
        }
        self.close().await;
    }

    async fn lend(&mut self, egress: bool, reply: oneshot::Sender<Result<Tap, NetError>>) {
        let tap = match self.idle.take() {
            Some(tap) => Ok(tap),
            None => self.make().await,
        };
        let tap = match tap {
            Ok(tap) if egress => self.open_to_the_outside(tap).await,
            other => other,
        };
        // Nobody may be waiting any more.
        if let Err(Ok(tap)) = reply.send(tap) {
            self.take_back(tap).await;
        }
    }

    async fn take_back(&mut self, tap: Tap) {
        if tap.egress || self.idle.len() >= self.settings.pool || tap.is_gone() {
            self.remove(tap).await;
        } else {
            self.idle.put(tap);
        }
    }

    /// Somebody has removed an interface. Whoever was lent it sees that, and gives it back.
    fn is_no_more(&mut self, index: u32) {
        if self.present.remove(&index).is_none() {
            return;
        }
        let idle = self.idle.remove(index);
        warn!(self.log, "somebody has removed a tap"; "index" => index, "prepared" => idle.is_some());
        if let Some(tap) = idle {
            self.free.put(tap.link);
        }
    }

    /// Raises the fence again if somebody has removed it, as whoever loads the host's firewall anew does. No guest is
    /// without one for longer than that takes.
    fn mend_fence(&mut self) {
        let Settings { mark, callback, .. } = self.settings;
        let fence = Fence { mark, callback };
        if fence.stands() {
            self.fallen = false;
            return;
        }
        let raised = fence.raise().and_then(|()| self.uplinks.iter().try_for_each(|uplink| Fence::guard(mark, uplink)));
        match &raised {
            Ok(()) => warn!(self.log, "somebody has removed the firewall table of virtual machines: it is there again"),
            Err(error) => {
                // Half a fence would look like a whole one.
                let _ = Fence::lower(mark);
                if !self.fallen {
                    warn!(self.log, "somebody has removed the firewall table of virtual machines"; "error" => %error);
                }
            }
        }
        self.fallen = raised.is_err();
    }

    async fn remove(&mut self, tap: Tap) {
        self.present.remove(&tap.index);
        match self.netlink.remove(tap.index).await {
            Ok(()) => self.free.put(tap.link),
            // Its addresses stay out of use: the interface has them.
            Err(error) => warn!(self.log, "tap could not be removed"; "tap" => &tap.name, "error" => %error),
        }
    }

    /// Whether it worked. With every link in use there is nothing to do.
    async fn prepare_one(&mut self) -> bool {
        match self.make().await {
            Ok(tap) => self.idle.put(tap),
            Err(NetError::Exhausted(_)) => return false,
            Err(error) => {
                warn!(self.log, "no tap could be prepared"; "error" => %error);
                return false;
            }
        }
        true
    }

    async fn make(&mut self) -> Result<Tap, NetError> {
        let subnet = self.settings.subnet;
        let link = self.free.take().ok_or_else(|| {
            NetError::Exhausted(format!("all {} addresses of {subnet} for virtual machines are in use", subnet.links()))
        })?;
        let made = self.make_on(link).await;
        if made.is_err() {
            self.free.put(link);
        }
        made
    }

    async fn make_on(&mut self, link: Link) -> Result<Tap, NetError> {
        let tap = NewTap::create(self.settings.tap_group).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                NetError::Missing("virtual machines need /dev/net/tun, which is not there".into())
            }
            io::ErrorKind::PermissionDenied => unprivileged(),
            _ => refused("a tap device")(error),
        })?;
        let name = tap.name.clone();
        sysctl::quiet(&name);
        let set_up = async {
            let index = self.netlink.find(&name).await?;
            // Before it can outlive the daemon.
            self.netlink.set_group(index, self.settings.mark.closed()).await?;
            tap.persist()?;
            self.netlink.set_up(index, link.gateway).await?;
            Ok(index)
        };
        match set_up.await {
            Ok(index) => {
                let (sender, present) = watch::channel(());
                self.present.insert(index, sender);
                Ok(Tap { name, link, index, egress: false, present })
            }
            Err(error) => {
                if let Ok(left) = self.netlink.find(&name).await {
                    let _ = self.netlink.remove(left).await;
                }
                Err(refused(&format!("tap {name}"))(error))
            }
        }
    }

    async fn open_to_the_outside(&mut self, mut tap: Tap) -> Result<Tap, NetError> {
        tap.egress = true;
        let opened = async {
            self.forward_uplinks().await?;
            sysctl::forward(&tap.name).map_err(refused("forwarding"))?;
            let group = self.settings.mark.open();
            self.netlink.set_group(tap.index, group).await.map_err(refused(&format!("tap {}", tap.name)))
        };
        match opened.await {
            Ok(()) => Ok(tap),
            Err(error) => {
                self.remove(tap).await;
                Err(error)
            }
        }
    }

    /// Answers from the outside have to be forwarded too; nothing else that comes from there is.
    async fn forward_uplinks(&mut self) -> Result<(), NetError> {
        if self.egress {
            return Ok(());
        }
        let others = Fence::guarded();
        for uplink in self.netlink.uplinks().await.map_err(refused("netlink"))? {
            // On by the will of whoever runs this host, unless it was one of us.
            if sysctl::forwards(&uplink).map_err(refused("forwarding"))? && !others.contains(&uplink) {
                continue;
            }
            self.entries.push(self.settings.journal.record(Resource::Forwarding { interface: uplink.clone() }).await?);
            debug!(self.log, "forwarding is switched on for guests with egress"; "interface" => &uplink);
            Fence::guard(self.settings.mark, &uplink)?;
            self.uplinks.push(uplink.clone());
            sysctl::forward(&uplink).map_err(refused("forwarding"))?;
        }
        self.egress = true;
        Ok(())
    }

    async fn close(self) {
        let Settings { mark, subnet, .. } = self.settings;
        let remains = Remains { marks: vec![mark], subnets: vec![subnet], uplinks: self.uplinks };
        if cleaning::clean(&self.netlink, &remains, &self.log).await.whole {
            self.entries.into_iter().for_each(JournalEntry::remove);
        }
    }
}

/// Whether somebody else on this host has addresses of the range.
pub(super) async fn look_for_conflicts(netlink: &Netlink, subnet: Subnet, own: Mark) -> Result<(), NetError> {
    let mut used = netlink.used(own).await.map_err(refused("netlink"))?;
    used.retain(|used| used.range.overlaps(subnet));
    // Another daemon may end; anything else is there to stay.
    used.sort_by_key(|used| used.daemon);
    match used.into_iter().next() {
        Some(Used { by, daemon, .. }) => Err(NetError::Conflict { subnet, used: by, daemon }),
        None => Ok(()),
    }
}

pub(super) fn may_administer() -> Result<(), NetError> {
    /// Of CAP_NET_ADMIN.
    const BIT: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if mask.is_some_and(|mask| mask & BIT == 0) { Err(unprivileged()) } else { Ok(()) }
}

fn unprivileged() -> NetError {
    NetError::Missing(
        "virtual machines need a daemon that runs as root or with CAP_NET_ADMIN, to make tap devices; \
         without it only [vm] network = \"user\" works"
            .to_owned(),
    )
}

fn refused(what: &str) -> impl Fn(io::Error) -> NetError {
    move |error| match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        Errno::EPERM => unprivileged(),
        _ => NetError::Refused(format!("{what}: {error}")),
    }
}
