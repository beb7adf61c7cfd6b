//! What any thread reads of the other nodes: a snapshot, and what threads that send requests note in it.

use std::{
    collections::BTreeMap,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::{HashMap, fast::FixedState};

use super::{
    beat::{Beat, FunctionList, FunctionLoad, OfferedFunction},
    keys::TrustedKeys,
    node::NodeId,
    suspicion::Health,
};

/// Round trips to a node of the own site, and to one of another site, before one was measured.
const NEAR: Duration = Duration::from_micros(500);
const FAR: Duration = Duration::from_millis(50);

/// The other nodes.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// This node.
    pub own: NodeId,
    /// The nodes, in no order.
    pub peers: Vec<Arc<PeerView>>,
    /// Whether the link does not work, so that nodes are judged by their connections alone.
    pub is_frozen: bool,
    /// The keys of nodes whose requests are served here.
    pub keys: Arc<TrustedKeys>,
}

/// Another node. A new heartbeat makes a new one of these.
#[derive(Debug)]
pub struct PeerView {
    /// Its site.
    pub site: Arc<str>,
    /// Its last heartbeat.
    pub beat: Arc<Beat>,
    /// Whether it is asked.
    pub health: Health,
    /// The functions that it serves for others.
    pub functions: Arc<FunctionList>,
    /// What is known of its connections.
    pub contact: Arc<Contact>,
    placed: Arc<Placed>,
}

/// What was placed on a node since its last heartbeat.
#[derive(Debug, Default)]
struct Placed {
    /// Requests, by function with a load.
    requests: HashMap<Arc<str>, AtomicU32>,
    /// Memory of instances that are started for requests, in MiB.
    memory: AtomicU64,
}

/// What is known of the connections to a node. Stays the same for as long as the node listens at one address.
#[derive(Debug)]
pub struct Contact {
    /// The node is of the own site.
    is_near: bool,
    /// The round trip, in microseconds.
    rtt: AtomicU32,
    is_measured: AtomicBool,
    /// A connection could not be opened, and none was since.
    is_unreachable: AtomicBool,
}

impl Contact {
    /// Makes the contact of a node to which there was no connection.
    pub fn new(is_near: bool) -> Self {
        let assumed = if is_near { NEAR } else { FAR };
        let (is_measured, is_unreachable) = Default::default();
        Self { is_near, rtt: AtomicU32::new(assumed.as_micros() as u32), is_measured, is_unreachable }
    }

    /// Whether the node is of the own site.
    pub fn is_near(&self) -> bool {
        self.is_near
    }

    /// Returns the round trip.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt.load(Relaxed).into())
    }

    /// Returns the round trip if it was measured.
    pub fn measured_rtt(&self) -> Option<Duration> {
        self.is_measured.load(Relaxed).then(|| self.rtt())
    }

    /// Notes the round trip of a connection.
    pub fn set_rtt(&self, rtt: Duration) {
        self.rtt.store(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX), Relaxed);
        self.is_measured.store(true, Relaxed);
    }

    /// Notes that a connection could be opened, or could not. Returns whether that is new.
    pub fn set_unreachable(&self, is_unreachable: bool) -> bool {
        self.is_unreachable.swap(is_unreachable, Relaxed) != is_unreachable
    }

    /// Whether the last connection could not be opened.
    pub fn is_unreachable(&self) -> bool {
        self.is_unreachable.load(Relaxed)
    }
}

/// The share of this node in the free slots of another one, for which other nodes compete: all would send their requests there
/// before its next heartbeat. Together they may send half as many again as it has free slots, since some need none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// This node.
    pub own: NodeId,
    /// The nodes that have no free slot, this one included.
    pub competitors: u32,
}

impl Share {
    /// Returns the share of so many slots of a heartbeat. What cannot be divided goes to a part of the nodes, another one for
    /// each heartbeat.
    fn of(self, free: u32, beat: (NodeId, u64)) -> u32 {
        let (all, competitors) = (free.saturating_add(free.div_ceil(2)), self.competitors.max(1));
        let drawn = FixedState::default().hash_one((self.own, beat)) % u64::from(competitors);
        let share = all / competitors + u32::from(drawn < u64::from(all % competitors));
        share.min(free)
    }
}

impl ClusterView {
    /// Returns the share of this node in the free slots of another one.
    pub(super) fn share(&self, function: &str) -> Share {
        let is_short = |peer: &&Arc<PeerView>| {
            peer.beat.loads.get(function).is_some_and(|load| load.free == 0) && !peer.is_suspect()
        };
        Share { own: self.own, competitors: 1 + self.peers.iter().filter(is_short).count() as u32 }
    }
}

impl PeerView {
    /// Makes the view of a node from a new heartbeat.
    pub fn new(
        site: Arc<str>,
        beat: Arc<Beat>,
        health: Health,
        functions: Arc<FunctionList>,
        contact: Arc<Contact>,
    ) -> Self {
        let requests = beat.loads.keys().map(|name| (name.clone(), AtomicU32::new(0))).collect();
        let placed = Arc::new(Placed { requests, memory: AtomicU64::new(0) });
        Self { site, beat, health, functions, contact, placed }
    }

    /// Makes the view of the same heartbeat from which something else has changed.
    pub fn with(&self, health: Health, functions: Arc<FunctionList>) -> Self {
        let Self { site, beat, contact, placed, .. } = self;
        let (site, beat, contact, placed) = (site.clone(), beat.clone(), contact.clone(), placed.clone());
        Self { site, beat, health, functions, contact, placed }
    }

    /// Returns the node.
    pub fn node(&self) -> NodeId {
        self.beat.node
    }

    /// Whether it is asked only if no other can be.
    pub fn is_suspect(&self) -> bool {
        self.health.is_suspect() || self.contact.is_unreachable()
    }

    /// Returns a function that the node serves for others.
    pub fn offers(&self, function: &str) -> Option<&OfferedFunction> {
        self.functions.get(function)
    }

    /// Returns the version of a published function that it serves.
    pub fn serves(&self, function: &str) -> Option<&str> {
        match self.beat.versions.get(function) {
            Some(versions) => versions.serves.as_deref().filter(|_| !versions.is_shadowed),
            None => self.offers(function)?.version.as_deref(),
        }
    }

    /// Returns what is going on with a function there, as this node may count on it: less what was placed there since the
    /// heartbeat, and of the free slots only the share of this node.
    pub fn load(&self, function: &str, share: Share) -> FunctionLoad {
        let Some(load) = self.beat.loads.get(function) else { return FunctionLoad::default() };
        let placed = self.placed.requests.get(function).map_or(0, |requests| requests.load(Relaxed));
        let waiting = load.waiting.saturating_add(placed.saturating_sub(load.free));
        let free = share.of(load.free, (self.node(), self.beat.sequence)).saturating_sub(placed);
        FunctionLoad { free, waiting, ..*load }
    }

    /// Returns the memory in which instances could be started, less what was placed there since the heartbeat, in MiB.
    pub fn memory_free(&self) -> u64 {
        self.beat.memory_free.saturating_sub(self.placed.memory.load(Relaxed))
    }

    /// Counts a request that is placed there, and the memory of the instance that it has started, in MiB.
    pub fn count_placed(&self, function: &str, memory: u64) {
        if let Some(requests) = self.placed.requests.get(function) {
            requests.fetch_add(1, Relaxed);
        }
        self.placed.memory.fetch_add(memory, Relaxed);
    }

    /// Notes that an instance of so much memory is there that was started for a request: the next ones need no other.
    pub fn note_started(&self, memory: u64) {
        let _ = self.placed.memory.fetch_update(Relaxed, Relaxed, |placed| Some(placed.saturating_sub(memory)));
    }

    /// Notes that the node has refused a request, so that it has no free slot.
    pub fn note_refusal(&self, function: &str) {
        if let (Some(requests), Some(load)) = (self.placed.requests.get(function), self.beat.loads.get(function)) {
            requests.fetch_max(load.free, Relaxed);
        }
    }

    /// Whether connections to the node can be opened by a node that protects its own, or does not: both have to.
    pub fn is_compatible(&self, is_secure: bool) -> bool {
        self.beat.key.is_some() == is_secure
    }

    /// Whether the node has all of these labels: keys, or keys with a value, as in `zone=a`.
    pub fn has_labels(&self, wanted: &[String]) -> bool {
        has_labels(&self.beat.labels, wanted)
    }
}

/// Whether these are among the labels of a node: keys, or keys with a value, as in `zone=a`.
pub fn has_labels(labels: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
        None => labels.contains_key(wanted),
    })
}
