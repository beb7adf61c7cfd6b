//! Where a request is served soonest. Pure, but for the counts in the view.
//!
//! Asked only if the function has no free slot here, or is not here. It estimates how long each node takes to begin:
//!
//! | the node has | estimate |
//! | --- | --- |
//! | a free slot | the round trip |
//! | instances that are busy | rounds of the queue × usual service |
//! | memory for another instance | usual boot |
//!
//! The least counts. A remote node has to win by a margin over this one. Of the remote nodes that are about as good as the
//! best, two are drawn, and the one with more free slots is taken: what all nodes see as the best must not get all requests.
//!
//! Nodes of other sites are asked if no node of the own site has a free slot or could start another instance.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use rand::{Rng, RngExt as _};
use serde::Serialize;

use super::{
    beat::FunctionLoad,
    node::NodeId,
    view::{ClusterView, PeerView, Share},
};

/// By how much a remote node has to be better than this one, and about as good as the best one: the greater of a share of the
/// estimate and a time.
const MARGIN_PERCENT: u32 = 20;
const MARGIN: Duration = Duration::from_millis(1);
/// The usual times of a function that has none yet.
const UNKNOWN_SERVICE: Duration = Duration::from_millis(100);
const UNKNOWN_BOOT: Duration = Duration::from_secs(1);

/// A request that is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its function.
    pub function: &'a str,
    /// What this node can do. `None`: it does not serve the request.
    pub local: Option<&'a LocalOffer>,
    /// The version that this node serves, if the function is published: it is not mixed with others.
    pub version: Option<&'a str>,
    /// Labels that the node needs.
    pub labels: &'a [String],
    /// Nodes that have been tried.
    pub tried: &'a [NodeId],
}

/// What this node can do for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalOffer {
    /// What is going on with the function here.
    pub load: FunctionLoad,
    /// Whether there is memory for another instance.
    pub has_memory: bool,
}

/// How a node would begin to serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    /// In a free slot.
    Warm,
    /// In an instance that is started for it.
    Cold,
    /// In a slot that becomes free.
    Waiting,
}

/// A node that could serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The node. `None`: this one.
    pub node: Option<NodeId>,
    /// How it would begin.
    pub kind: StartKind,
    /// How long that takes.
    #[serde(rename = "estimate_ms", serialize_with = "milliseconds")]
    pub estimate: Duration,
    /// Its free slots.
    pub free: u32,
    /// Whether it has a free slot, or could start another instance.
    pub has_room: bool,
}

/// Where a request is served.
#[derive(Debug, Clone)]
pub enum Choice {
    /// Here.
    Local,
    /// There, where it would begin like this.
    Peer(Arc<PeerView>, StartKind),
    /// No node can serve it.
    Nowhere,
}

/// A decision, and what it was made of.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The decision.
    pub choice: Choice,
    /// This node, if it can serve the request, and the best of the others, the best first.
    pub candidates: Vec<Candidate>,
}

/// Remote candidates that a [`Placement`] remembers.
const MAX_REMEMBERED: usize = 4;

/// Decides where a request is served. The chosen node counts it as one free slot less until its next heartbeat.
pub fn place(view: &ClusterView, request: Request<'_>, random: &mut impl Rng) -> Placement {
    let local = request.local.and_then(|offer| {
        let (kind, estimate) = estimate(&offer.load, offer.has_memory, Duration::ZERO, UNKNOWN_BOOT)?;
        let has_room = has_room(&offer.load, offer.has_memory);
        Some(Candidate { node: None, kind, estimate, free: offer.load.free, has_room })
    });
    // The function is the same there.
    let boot = request.local.and_then(|offer| offer.load.boot_us);
    let boot = boot.map_or(UNKNOWN_BOOT, |boot| Duration::from_micros(boot.into()));
    let share = view.share(request.function);
    let mut remote: Vec<(Candidate, &Arc<PeerView>)> =
        view.peers.iter().filter_map(|peer| Some((candidate(peer, request, share, boot)?, peer))).collect();
    let is_fresh = |(_, peer): &(Candidate, &Arc<PeerView>)| !peer.is_suspect();
    // A node that may not answer is asked if no other can be.
    if local.is_some() || remote.iter().any(is_fresh) {
        remote.retain(is_fresh);
    }
    let is_near = |(_, peer): &(Candidate, &Arc<PeerView>)| peer.contact.is_near();
    // The own site helps itself as long as it can.
    if local.is_some_and(|local| local.has_room) || remote.iter().any(|it| is_near(it) && it.0.has_room) {
        remote.retain(is_near);
    }
    remote.sort_by_key(|(candidate, _)| (candidate.estimate, candidate.kind, Reverse(candidate.free)));
    let chosen = choose(local.as_ref(), &remote, random);
    let choice = match (chosen.map(|index| remote[index]), local) {
        (Some((candidate, peer)), _) => {
            let starts = candidate.kind == StartKind::Cold;
            let memory = peer.offers(request.function).filter(|_| starts).map_or(0, |offered| offered.memory);
            peer.count_placed(request.function, memory);
            Choice::Peer(peer.clone(), candidate.kind)
        }
        (None, Some(_)) => Choice::Local,
        (None, None) => Choice::Nowhere,
    };
    let best = remote.iter().take(MAX_REMEMBERED).map(|(candidate, _)| *candidate);
    Placement { choice, candidates: local.into_iter().chain(best).collect() }
}

/// Returns what another node can do for the request.
fn candidate(peer: &PeerView, request: Request<'_>, share: Share, unknown_boot: Duration) -> Option<Candidate> {
    let offered = peer.offers(request.function)?;
    if peer.beat.is_draining || request.tried.contains(&peer.node()) || !peer.has_labels(request.labels) {
        return None;
    }
    if request.version.zip(peer.serves(request.function)).is_some_and(|(here, there)| here != there) {
        return None;
    }
    let load = peer.load(request.function, share);
    let has_memory = offered.memory <= peer.memory_free();
    let (kind, estimate) = estimate(&load, has_memory, peer.contact.rtt(), unknown_boot)?;
    Some(Candidate { node: Some(peer.node()), kind, estimate, free: load.free, has_room: has_room(&load, has_memory) })
}

/// Whether a node can begin with another request before one of those that it has ends.
fn has_room(load: &FunctionLoad, has_memory: bool) -> bool {
    !load.is_failing && (load.free > 0 || (has_memory && !load.is_full))
}

/// Estimates how long a node takes to begin. A boot whose usual time is not known takes `unknown_boot`. `None`: it refuses.
fn estimate(
    load: &FunctionLoad,
    has_memory: bool,
    rtt: Duration,
    unknown_boot: Duration,
) -> Option<(StartKind, Duration)> {
    if load.is_failing {
        return None;
    }
    if load.free > 0 {
        return Some((StartKind::Warm, rtt));
    }
    let cold = (has_memory && !load.is_full).then(|| {
        let boot = load.boot_us.map_or(unknown_boot, |boot| Duration::from_micros(boot.into()));
        (StartKind::Cold, boot + rtt)
    });
    let waiting = (load.capacity > 0).then(|| {
        let service = match load.service_us {
            0 => UNKNOWN_SERVICE,
            micros => Duration::from_micros(micros.into()),
        };
        let rounds = load.waiting.saturating_add(1).div_ceil(load.capacity);
        (StartKind::Waiting, service.saturating_mul(rounds).saturating_add(rtt))
    });
    cold.into_iter().chain(waiting).min_by_key(|(kind, estimate)| (*estimate, *kind))
}

/// Returns the remote candidate that is taken, of those in order. `None`: this node is better, or there is none.
fn choose(local: Option<&Candidate>, remote: &[(Candidate, &Arc<PeerView>)], random: &mut impl Rng) -> Option<usize> {
    let best = remote.first()?.0.estimate;
    if local.is_some_and(|local| local.estimate < with_margin(best)) {
        return None;
    }
    let about_as_good = remote.partition_point(|(candidate, _)| candidate.estimate <= with_margin(best));
    let first = random.random_range(0..about_as_good);
    if about_as_good == 1 {
        return Some(first);
    }
    let second = random.random_range(0..about_as_good - 1);
    let second = second + usize::from(second >= first);
    let rank = |index: usize| (Reverse(remote[index].0.free), remote[index].0.estimate);
    Some(if rank(second) < rank(first) { second } else { first })
}

fn with_margin(estimate: Duration) -> Duration {
    let share = estimate.saturating_mul(MARGIN_PERCENT) / 100;
    estimate.saturating_add(share.max(MARGIN))
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(crate::wall_time::rounded_ms(*duration))
}

#[cfg(test)]
mod tests;
