//! The thread that creates, leases and removes taps, so that the actors' thread never waits for the kernel.
//!
//! A few taps are kept prepared. A returned tap is leased again, unless its guest could reach the outside: such a tap is
//! removed, so that the next guest does not inherit its connections. `egress.rs` opens taps to the outside, `damage.rs` handles
//! what other processes remove.

mod damage;
mod egress;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, future, io, net::Ipv4Addr, os::fd::OwnedFd, time::Duration};

use futures::{FutureExt, StreamExt};
use slog::{Logger, warn};
use tokio::{
    net::TcpSocket,
    sync::{oneshot, watch},
    time,
};

use super::{
    cleanup::{self, Leftovers},
    error::{NetError, refused},
    firewall::Firewall,
    monitor::{Event, Events, deleted_tables, removed_interfaces},
    netlink::Netlink,
    network::Settings,
    preflight,
    subnet::{FreeLinks, PointToPoint},
    tap_pool::{Tap, TapKind, TapPool, TapPools},
    tap_setup,
};
use crate::{
    host::claim::claim,
    state::{JournalEntry, Resource},
    worker::Requests,
};

/// Between a failed attempt to prepare a tap, or to repair the firewall, and the next one.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long there must be no request before the pool is refilled: a guest that has just taken a tap boots meanwhile, and
/// needs the processor.
const REFILL_DELAY: Duration = Duration::from_millis(100);

/// A request to the thread.
#[derive(Debug)]
pub enum Request {
    /// A tap was taken from the pool: refill it.
    Refill,
    /// Lease a tap.
    Acquire { kind: TapKind, reply: oneshot::Sender<Result<Tap, NetError>> },
    /// The guest of this tap has ended.
    Release(Tap),
    /// The guest of this tap could not be ended.
    Discard(Tap),
}

/// All network resources of this daemon.
pub struct TapManager {
    netlink: Netlink,
    /// The indices of interfaces that are removed.
    removed_interfaces: Events<u32>,
    /// Deletions of nftables tables.
    deleted_tables: Events<()>,
    /// When interfaces are listed again: the last list, after removals that the kernel could not report, has failed.
    next_look: Option<time::Instant>,
    /// When the firewall is repaired again: the last attempt has failed.
    next_repair: Option<time::Instant>,
    /// By interface index; dropping the sender tells the holder of the tap that the interface is removed.
    present: HashMap<u32, watch::Sender<()>>,
    settings: Settings,
    free: FreeLinks,
    /// Of the links that are taken, by number.
    claims: HashMap<u32, OwnedFd>,
    pools: TapPools,
    /// The port at which clones call back is reserved by this socket. `None`: the range has no link for clones.
    callback: Option<(TcpSocket, u16)>,
    /// Whether taps for clones are kept prepared: from the first one on.
    keeps_clones: bool,
    /// Whether the uplinks forward for guests with egress.
    egress: bool,
    /// Interfaces on which this daemon has switched on forwarding.
    uplinks: Vec<String>,
    /// The journal entries of all of these.
    entries: Vec<JournalEntry>,
    log: Logger,
}

impl TapManager {
    /// Prepares the network. After an error, everything is as it was.
    pub async fn open(settings: Settings, pools: TapPools, log: Logger) -> Result<Self, NetError> {
        let netlink = Netlink::open().map_err(refused("netlink"))?;
        let removed_interfaces = removed_interfaces().map_err(refused("netlink"))?;
        let deleted_tables = deleted_tables().map_err(refused("netlink"))?;
        preflight::check_privilege()?;
        preflight::check_conflicts(&netlink, settings.subnet, settings.mark, settings.is_shared).await?;
        let free = FreeLinks::of(settings.subnet);
        let callback = match settings.subnet.clone_link() {
            Some(_) => Some(reserved_port().map_err(refused("a port for callbacks"))?),
            None => None,
        };
        let (present, uplinks, entries) = (HashMap::new(), Vec::new(), Vec::new());
        let mut manager = Self {
            netlink,
            removed_interfaces,
            deleted_tables,
            next_look: None,
            next_repair: None,
            present,
            settings,
            free,
            claims: HashMap::new(),
            pools,
            callback,
            keeps_clones: false,
            egress: false,
            uplinks,
            entries,
            log,
        };
        match manager.prepare().await {
            Ok(()) => Ok(manager),
            Err(error) => {
                manager.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&mut self) -> Result<(), NetError> {
        let Settings { subnet, mark, is_shared, .. } = self.settings;
        let resource = Resource::Network { mark: mark.closed(), subnet: subnet.to_string() };
        self.entries.push(self.settings.journal.record(resource).await?);
        self.netlink.reserve(subnet, mark).await.map_err(refused("the route that reserves the subnet"))?;
        // Of two daemons that reserve at the same time, each sees the reservation of the other by now.
        preflight::check_conflicts(&self.netlink, subnet, mark, is_shared).await?;
        self.firewall().install(&self.settings.spawner, &[]).await?;
        // The first tap also shows whether taps can be created at all.
        for _ in 0..self.settings.pool.min(subnet.links() as usize) {
            let tap = self.create(TapKind::Closed).await?;
            self.pools.closed.put(tap);
        }
        Ok(())
    }

    /// Serves requests until their queue is closed, and then removes everything.
    pub async fn run(mut self, requests: Requests<Request>) {
        let mut failed = false;
        loop {
            let lacking = self.lacking();
            let delay = match lacking.and_then(|kind| self.pools.of(kind)).map_or(0, TapPool::len) {
                _ if failed => RETRY_INTERVAL,
                0 => Duration::ZERO,
                _ => REFILL_DELAY,
            };
            let request = tokio::select! {
                biased;
                Some(event) = self.removed_interfaces.next() => {
                    match event {
                        Event::Reported(index) => self.interface_removed(index),
                        Event::Missed => self.look_for_removed().await,
                    }
                    continue;
                }
                () = at(self.next_look) => {
                    self.look_for_removed().await;
                    continue;
                }
                Some(_) = self.deleted_tables.next(), if self.next_repair.is_none() => {
                    // One repair is enough for all the tables that a flush has deleted.
                    while self.deleted_tables.next().now_or_never().is_some() {}
                    self.repair_firewall().await;
                    continue;
                }
                () = at(self.next_repair) => {
                    self.repair_firewall().await;
                    continue;
                }
                request = requests.recv() => request,
                () = time::sleep(delay), if lacking.is_some() => {
                    failed = !self.prepare_one(lacking.unwrap_or(TapKind::Closed)).await;
                    continue;
                }
            };
            match request {
                Ok(Request::Refill) => {}
                Ok(Request::Acquire { kind, reply }) => self.acquire(kind, reply).await,
                Ok(Request::Release(tap)) => self.release(tap).await,
                Ok(Request::Discard(tap)) => self.remove(tap).await,
                Err(_) => break,
            }
        }
        self.close().await;
    }

    async fn acquire(&mut self, kind: TapKind, reply: oneshot::Sender<Result<Tap, NetError>>) {
        self.keeps_clones |= kind == TapKind::Clone;
        let made_from = if kind == TapKind::Open { TapKind::Closed } else { kind };
        let tap = match self.pools.of(made_from).and_then(TapPool::take) {
            Some(tap) => Ok(tap),
            None => self.create(made_from).await,
        };
        let tap = match tap {
            Ok(tap) if kind == TapKind::Open => self.enable_egress(tap).await,
            other => other,
        };
        // The launch may have been dropped meanwhile.
        if let Err(Ok(tap)) = reply.send(tap) {
            self.release(tap).await;
        }
    }

    async fn release(&mut self, tap: Tap) {
        match self.pools.of(tap.kind) {
            Some(pool) if pool.len() < self.settings.pool && !tap.is_removed() => pool.put(tap),
            _ => self.remove(tap).await,
        }
    }

    fn firewall(&self) -> Firewall {
        let Settings { mark, callback, subnet, .. } = self.settings;
        let clones = subnet.clone_link().zip(self.callback.as_ref().map(|(_, port)| *port));
        Firewall { mark, callback, clones }
    }

    async fn remove(&mut self, tap: Tap) {
        self.present.remove(&tap.index);
        match self.netlink.remove(tap.index).await {
            Ok(()) => self.put_link_of(&tap),
            // Its addresses are not used again: the interface still has them.
            Err(error) => warn!(self.log, "tap could not be removed"; "tap" => &tap.name, "error" => %error),
        }
    }

    /// Adds a tap to the pool, and returns whether that worked. With every address in use it is not worth a log line.
    async fn prepare_one(&mut self, kind: TapKind) -> bool {
        match self.create(kind).await {
            Ok(tap) => drop(self.pools.of(kind).map(|pool| pool.put(tap))),
            Err(NetError::Exhausted(_)) => return false,
            Err(error) => {
                warn!(self.log, "no tap could be prepared"; "error" => %error);
                return false;
            }
        }
        true
    }

    /// Returns the kind of which a tap has to be prepared.
    fn lacking(&self) -> Option<TapKind> {
        let kinds = [(TapKind::Clone, self.keeps_clones), (TapKind::Closed, true)];
        let lacks = |kind| self.pools.of(kind).is_some_and(|pool| pool.len() < self.settings.pool);
        kinds.into_iter().find(|(kind, is_kept)| *is_kept && lacks(*kind)).map(|(kind, _)| kind)
    }

    /// Creates a tap. One with egress is made from a closed one.
    async fn create(&mut self, kind: TapKind) -> Result<Tap, NetError> {
        let subnet = self.settings.subnet;
        if kind == TapKind::Clone {
            let link = subnet.clone_link().ok_or_else(|| {
                NetError::Missing(format!(
                    "the range {subnet} is too small for clones: they need one of at most 26 bits"
                ))
            })?;
            let diverted = self.netlink.divert(link.guest, self.settings.mark).await;
            diverted.map_err(refused("the route to clones"))?;
            return self.create_on(link, kind).await;
        }
        let link = self.take_link().ok_or_else(|| {
            NetError::Exhausted(format!("all {} addresses of {subnet} for virtual machines are in use", subnet.links()))
        })?;
        let created = self.create_on(link, TapKind::Closed).await;
        if created.is_err() {
            self.put_link(link);
        }
        created
    }

    /// Takes a link that no daemon of this host has.
    fn take_link(&mut self) -> Option<PointToPoint> {
        for _ in 0..self.settings.subnet.links() {
            let link = self.free.take()?;
            if let Ok(claim) = claim(&format!("unifaas-link-{}", link.gateway)) {
                self.claims.insert(link.number, claim);
                return Some(link);
            }
            self.free.put(link);
        }
        None
    }

    fn put_link_of(&mut self, tap: &Tap) {
        if tap.kind != TapKind::Clone {
            self.put_link(tap.link);
        }
    }

    fn put_link(&mut self, link: PointToPoint) {
        self.claims.remove(&link.number);
        self.free.put(link);
    }

    async fn create_on(&mut self, link: PointToPoint, kind: TapKind) -> Result<Tap, NetError> {
        let Settings { tap_group, mark, .. } = self.settings;
        let is_shared = kind == TapKind::Clone;
        let (name, index) = tap_setup::create(&self.netlink, tap_group, mark, link, is_shared, &self.log).await?;
        let (sender, present) = watch::channel(());
        self.present.insert(index, sender);
        let callback_port = self.callback.as_ref().map_or(0, |(_, port)| *port);
        Ok(Tap { name, link, index, callback_port, kind, present })
    }

    async fn close(self) {
        let Settings { mark, subnet, .. } = self.settings;
        let leftovers = Leftovers { marks: vec![mark], subnets: vec![subnet], uplinks: self.uplinks };
        if cleanup::clean(&self.netlink, &leftovers, &self.settings.spawner, &self.log).await.complete {
            self.entries.into_iter().for_each(JournalEntry::remove);
        }
    }
}

/// Waits until then. `None`: for ever.
async fn at(then: Option<time::Instant>) {
    match then {
        Some(then) => time::sleep_until(then).await,
        None => future::pending().await,
    }
}

/// Reserves a port of this host for sockets that are bound to taps. The socket does not listen.
fn reserved_port() -> io::Result<(TcpSocket, u16)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}
