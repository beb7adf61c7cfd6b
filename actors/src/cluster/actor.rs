//! The ClusterActor: it owns what is known of the other nodes, and tells them about this one.
//!
//! It waits for nothing: the link gets commands, and what comes is a message. `handlers.rs` handles the messages.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::{Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, SpawnHandle, WrapFuture as _};
use rand::RngExt as _;
use slog::{Logger, error, info, warn};
use tokio::time::Instant;

use super::{
    beat::{Beat, FunctionList, OfferedFunction, digest},
    directory::{Judged, Peers},
    handle::ClusterHandle,
    keys::TrustedKeys,
    messages::{LinkState, VersionsChanged},
    node::{Epoch, NodeId, PublicKey},
    view::PeerView,
};
use crate::{
    admission::{AdmissionActor, AdmissionQuestion, AdmissionReport},
    directory::Directory,
    notice::EndGuard,
};

/// Between two heartbeats, give or take a tenth: those of many nodes do not stay together.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Between two heartbeats of which the second one is sent because something has changed.
const QUICK_BEAT_INTERVAL: Duration = Duration::from_millis(100);
/// Heartbeats after which another daemon of the same identity is believed to stay.
const IMPOSTOR_BEATS: u32 = 3;
/// Messages that may wait for the actor. Further heartbeats are dropped.
const MAILBOX: usize = 1024;

/// What a node tells of itself that does not change.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Its id.
    pub node: NodeId,
    /// The run of its daemon.
    pub epoch: Epoch,
    /// What it is called.
    pub name: Arc<str>,
    /// Its site.
    pub site: Arc<str>,
    /// Where other nodes reach it.
    pub address: Arc<str>,
    /// Its key, if connections are protected.
    pub key: Option<PublicKey>,
    /// Keys of other nodes that a daemon of this node has heard before.
    pub known_keys: Vec<(NodeId, PublicKey)>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What the actor has done by the link to the other nodes. Nothing of it blocks, and what cannot be done is dropped.
pub trait ClusterLink {
    /// Sends a heartbeat.
    fn send(&self, beat: Arc<Beat>);
    /// Answers with this list when other nodes ask for it.
    fn set_functions(&self, functions: Arc<FunctionList>);
    /// Asks a node for its list, which has that digest. The answer is [`FunctionsListed`](super::messages::FunctionsListed).
    fn ask(&self, peer: &Arc<PeerView>, digest: u64);
    /// Leaves, and joins again once no other daemon has the identity of this node.
    fn rejoin(&self);
    /// Keeps the keys of other nodes for the next daemon of this node.
    fn keep_keys(&self, keys: Arc<TrustedKeys>);
    /// Opens a connection to a node, to see whether it accepts one. The answer is [`PeerTried`](super::messages::PeerTried).
    fn probe(&self, peer: Arc<PeerView>);
}

/// What is known of the other nodes.
pub struct ClusterActor {
    settings: NodeSettings,
    peers: Peers,
    handle: Arc<ClusterHandle>,
    functions: Arc<Directory>,
    admission: Addr<AdmissionActor>,
    link: Option<Box<dyn ClusterLink>>,
    link_state: LinkState,
    report: Option<AdmissionReport>,
    sequence: u64,
    last_beat: Option<Arc<Beat>>,
    last_beat_at: Option<Instant>,
    is_draining: bool,
    /// What this node has of published functions.
    versions: VersionsChanged,
    /// Heartbeats of another daemon that calls itself this node.
    impostor_beats: u32,
    /// When the next heartbeat is due.
    alarm: Option<(Instant, SpawnHandle)>,
    log: Logger,
    end_guards: Vec<EndGuard>,
}

/// Connects the actor with the other nodes.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct Join(pub Box<dyn ClusterLink + Send>);

impl ClusterActor {
    /// Starts the actor on the arbiter of the caller. Until it gets its link with [`Join`], it tells nothing.
    pub fn launch(
        settings: NodeSettings,
        functions: Arc<Directory>,
        admission: Addr<AdmissionActor>,
        log: Logger,
    ) -> Arc<ClusterHandle> {
        let mut launched = None;
        Self::create(|ctx| {
            let handle = Arc::new(ClusterHandle::new(settings.node, ctx.address()));
            launched = Some(handle.clone());
            let peers = Peers::new(settings.node, settings.epoch, settings.site.clone(), Instant::now());
            let peers = peers.with_security(settings.key.is_some());
            let peers = peers.with_keys(settings.known_keys.iter().copied(), Instant::now());
            handle.publish(peers.view(Instant::now()));
            Self {
                settings,
                peers,
                handle,
                functions,
                admission,
                link: None,
                link_state: LinkState::Disconnected { error: None },
                report: None,
                sequence: 0,
                last_beat: None,
                last_beat_at: None,
                is_draining: false,
                versions: VersionsChanged::default(),
                impostor_beats: 0,
                alarm: None,
                log,
                end_guards: Vec::new(),
            }
        });
        match launched {
            Some(handle) => handle,
            None => unreachable!("`create` runs its closure before it returns"),
        }
    }

    /// Has the next heartbeat sent at that time, unless one is due before.
    fn beat_at(&mut self, at: Instant, ctx: &mut Context<Self>) {
        if let Some((due, alarm)) = self.alarm {
            if due <= at {
                return;
            }
            ctx.cancel_future(alarm);
        }
        let delay = at.saturating_duration_since(Instant::now());
        let alarm = ctx.run_later(delay, |actor, ctx| {
            actor.alarm = None;
            actor.beat_due(ctx);
        });
        self.alarm = Some((at, alarm));
    }

    fn beat_soon(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.beat_at(self.last_beat_at.map_or(now, |last| (last + QUICK_BEAT_INTERVAL).max(now)), ctx);
    }

    /// Asks how much memory is free, and sends a heartbeat with the answer.
    fn beat_due(&mut self, ctx: &mut Context<Self>) {
        let share = rand::rng().random_range(0.9..1.1);
        self.beat_at(Instant::now() + BEAT_INTERVAL.mul_f64(share), ctx);
        let question = self.admission.send(AdmissionQuestion).into_actor(self);
        ctx.spawn(question.map(|report, actor, _| {
            actor.report = report.ok().or(actor.report);
            actor.send_beat();
            actor.look(Instant::now());
        }));
    }

    fn send_beat(&mut self) {
        let functions = self.functions.all();
        let offered = functions.iter().filter_map(|(name, handle)| {
            let version = self.versions.untold.get(name.as_str()).filter(|versions| !versions.is_shadowed);
            let version = version.and_then(|versions| versions.serves.clone());
            Some((Arc::from(name.as_str()), OfferedFunction { version, ..handle.offered()? }))
        });
        let offered: FunctionList = offered.collect();
        let loads = functions.iter().filter(|(name, _)| offered.contains_key(name.as_str()));
        let loads = loads.filter_map(|(name, handle)| Some((Arc::from(name.as_str()), handle.announce()?))).collect();
        let digest = digest(&offered);
        let memory_free = self.report.map_or(0, |report| report.memory_free);
        self.handle.set_memory_free(memory_free);
        self.sequence += 1;
        let NodeSettings { node, epoch, name, address, key, labels, .. } = self.settings.clone();
        let beat = Beat {
            node,
            epoch,
            sequence: self.sequence,
            name,
            address,
            key,
            labels,
            is_draining: self.is_draining,
            memory_free,
            starting: self.report.map_or(0, |report| report.starting as u32),
            functions: digest,
            loads,
            versions: self.versions.told.clone(),
        };
        let beat = Arc::new(beat.bounded());
        self.handle.set_beat_sent();
        self.last_beat_at = Some(Instant::now());
        if let Some(link) = &self.link {
            if self.last_beat.as_ref().is_none_or(|last| last.functions != digest) {
                link.set_functions(Arc::new(offered));
            }
            link.send(beat.clone());
        }
        self.last_beat = Some(beat);
    }

    /// Another daemon has the identity of this node. The later one leaves, unless that was a last heartbeat of the other one.
    fn meet_impostor(&mut self, epoch: Epoch, address: &str) {
        self.impostor_beats += 1;
        if self.impostor_beats < IMPOSTOR_BEATS {
            return;
        }
        self.impostor_beats = 0;
        let leaves = epoch < self.settings.epoch;
        error!(self.log, "another daemon is the same node: a state directory was copied"; "address" => address,
            "leaves" => if leaves { "this daemon" } else { "the other one" });
        if let Some(link) = self.link.as_ref().filter(|_| leaves) {
            link.rejoin();
        }
    }

    /// Judges the other nodes, and tries those that are to be tried.
    fn look(&mut self, now: Instant) {
        for Judged { peer, health } in self.peers.judge(now) {
            let (node, name, address) = (peer.node(), &*peer.beat.name, &*peer.beat.address);
            match health {
                Some(health) if health.is_suspect() => {
                    warn!(self.log, "node is suspect"; "node" => %node, "name" => name, "address" => address,
                        "why" => ?health);
                }
                Some(_) => info!(self.log, "node is there again"; "node" => %node, "name" => name),
                None => warn!(self.log, "node is gone"; "node" => %node, "name" => name, "address" => address),
            }
        }
        if let Some(link) = &self.link {
            self.peers.probes(now).into_iter().for_each(|peer| link.probe(peer));
        }
        let view = self.peers.view(now);
        if let Some(link) = &self.link
            && !Arc::ptr_eq(&view.keys, &self.handle.view().keys)
        {
            link.keep_keys(view.keys.clone());
        }
        self.handle.publish(view);
    }
}

impl Actor for ClusterActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

mod handlers;
