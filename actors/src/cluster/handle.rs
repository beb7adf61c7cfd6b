//! The part of the cluster that any thread may use: what is known of the other nodes, placements and their counters.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use actix::Addr;
use arc_swap::ArcSwap;
use serde::Serialize;

use super::{
    actor::ClusterActor,
    beat::FunctionLoad,
    forwards::ForwardTable,
    messages::{BeatSoon, PeerTried},
    node::{NodeId, PublicKey},
    place::{Candidate, Choice, LocalOffer, Placement, Request, place},
    view::ClusterView,
};
use crate::wall_time::WallTime;

/// Placements that are remembered.
const MAX_PLACEMENTS: usize = 64;

/// What every thread knows of the cluster.
#[derive(Debug)]
pub struct ClusterHandle {
    /// Counters of forwarded requests.
    pub forwards: ForwardTable,
    view: ArcSwap<ClusterView>,
    actor: Addr<ClusterActor>,
    /// Memory in which this node could start instances, in MiB.
    memory_free: AtomicU64,
    /// A heartbeat is due because something has changed.
    is_beat_wanted: AtomicBool,
    placements: Mutex<VecDeque<PlacementRecord>>,
}

/// A placement, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct PlacementRecord {
    /// When it was made.
    pub at: WallTime,
    /// The function of the request.
    pub function: Arc<str>,
    /// The node that was chosen. `None`: this one, or none.
    pub node: Option<NodeId>,
    /// Whether the request stays here.
    pub is_local: bool,
    /// What was compared.
    pub candidates: Vec<Candidate>,
}

impl ClusterHandle {
    pub(super) fn new(own: NodeId, actor: Addr<ClusterActor>) -> Self {
        let view = ClusterView { own, peers: Vec::new(), is_frozen: true, keys: Arc::default() };
        Self {
            forwards: ForwardTable::default(),
            view: ArcSwap::from_pointee(view),
            actor,
            memory_free: AtomicU64::new(0),
            is_beat_wanted: AtomicBool::new(false),
            placements: Mutex::default(),
        }
    }

    /// Returns the actor.
    pub fn actor(&self) -> &Addr<ClusterActor> {
        &self.actor
    }

    /// Returns what is known of the other nodes.
    pub fn view(&self) -> Arc<ClusterView> {
        self.view.load_full()
    }

    /// Whether a key is that of a known node.
    pub fn trusts(&self, key: &PublicKey) -> bool {
        self.view.load().keys.contains_key(key)
    }

    pub(super) fn publish(&self, view: ClusterView) {
        self.view.store(Arc::new(view));
    }

    pub(super) fn set_memory_free(&self, memory: u64) {
        self.memory_free.store(memory, Relaxed);
    }

    /// Whether any other node serves the function for this one.
    pub fn is_offered(&self, function: &str) -> bool {
        self.view.load().peers.iter().any(|peer| peer.offers(function).is_some())
    }

    /// Returns what this node can do for a request to a function whose instances have that much memory.
    pub fn local_offer(&self, load: FunctionLoad, memory: u64) -> LocalOffer {
        LocalOffer { load, has_memory: memory <= self.memory_free.load(Relaxed) }
    }

    /// Decides where a request is served.
    pub fn place(&self, request: Request<'_>) -> Choice {
        let Placement { choice, candidates } = place(&self.view.load(), request, &mut rand::rng());
        if candidates.iter().any(|candidate| candidate.node.is_some()) {
            let node = if let Choice::Peer(peer, _) = &choice { Some(peer.node()) } else { None };
            let is_local = matches!(choice, Choice::Local);
            let (at, function) = (WallTime::now(), request.function.into());
            let mut placements = self.placements();
            placements.truncate(MAX_PLACEMENTS - 1);
            placements.push_front(PlacementRecord { at, function, node, is_local, candidates });
        }
        choice
    }

    /// Notes whether a connection to a node could be opened.
    pub fn note_tried(&self, node: NodeId, is_reached: bool) {
        if let Some(peer) = self.view.load().peers.iter().find(|peer| peer.node() == node)
            && peer.contact.set_unreachable(!is_reached)
        {
            self.actor.do_send(PeerTried { node, is_reached });
        }
    }

    /// Has the next heartbeat sent soon: the slots that the last one has told of are used up, or slots are free again.
    pub fn want_beat(&self) {
        if !self.is_beat_wanted.swap(true, Relaxed) {
            self.actor.do_send(BeatSoon);
        }
    }

    pub(super) fn set_beat_sent(&self) {
        self.is_beat_wanted.store(false, Relaxed);
    }

    pub(super) fn recent_placements(&self) -> Vec<PlacementRecord> {
        self.placements().iter().cloned().collect()
    }

    fn placements(&self) -> MutexGuard<'_, VecDeque<PlacementRecord>> {
        self.placements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
