//! Nodes whose heartbeats reach each other at once, unless a node is cut off.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use actix::Addr;
use tokio::time::Instant;
use unifaas_actors::cluster::{
    Beat, BeatReceived, ClusterActor, ClusterHandle, ClusterLink, Epoch, FunctionList, FunctionsListed, Health, Join,
    LinkChanged, LinkState, NodeId, NodeSettings, PeerTried, PeerView, TrustedKeys,
};

use super::Rig;

const SITE: &str = "default";

/// The network of some nodes.
#[derive(Default, Clone)]
pub struct Network(Arc<Mutex<Vec<Link>>>);

/// A node of the network.
pub struct Node {
    pub handle: Arc<ClusterHandle>,
    link: Link,
}

/// The link of a node, which notes its commands.
#[derive(Clone)]
struct Link {
    node: NodeId,
    actor: Addr<ClusterActor>,
    network: Network,
    is_cut: Arc<AtomicBool>,
    /// Whether the node accepts connections.
    is_accepting: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    beats: Vec<(Instant, Arc<Beat>)>,
    functions: Arc<FunctionList>,
    rejoins: usize,
    probes: Vec<Instant>,
}

impl Network {
    /// Starts a node with the functions of a rig: the run of that number.
    pub fn join(&self, rig: &Rig, node: u64, runs: u32) -> Node {
        let node = NodeId(node);
        let settings = NodeSettings {
            node,
            epoch: Epoch::new(runs, 0),
            name: "n".into(),
            site: SITE.into(),
            address: "10.0.0.1:1".into(),
            key: None,
            known_keys: Vec::new(),
            labels: BTreeMap::new(),
        };
        let (directory, admission) = (rig.directory.clone(), rig.admission.clone());
        let handle = ClusterActor::launch(settings, directory, admission, rig.log.logger());
        let link = Link {
            node,
            actor: handle.actor().clone(),
            network: self.clone(),
            is_cut: Arc::default(),
            is_accepting: Arc::new(AtomicBool::new(true)),
            seen: Arc::default(),
        };
        self.links().push(link.clone());
        let joined = Node { handle, link };
        joined.connect();
        joined.link.actor.do_send(Join(Box::new(joined.link.clone())));
        joined
    }

    fn links(&self) -> MutexGuard<'_, Vec<Link>> {
        self.0.lock().expect("no test panics with it")
    }

    fn find(&self, node: NodeId) -> Option<Link> {
        self.links().iter().find(|link| link.node == node).cloned()
    }
}

impl Node {
    /// Tells the node that its link is connected.
    pub fn connect(&self) {
        let (server, version) = ("nats://n".to_owned(), "2".to_owned());
        self.link.actor.do_send(LinkChanged(LinkState::Connected { server, version }));
    }

    /// Has no heartbeat reach the node, or leave it, not even its own.
    pub fn set_cut(&self, is_cut: bool) {
        self.link.is_cut.store(is_cut, Relaxed);
    }

    /// Has the node accept connections, or none.
    pub fn set_accepting(&self, is_accepting: bool) {
        self.link.is_accepting.store(is_accepting, Relaxed);
    }

    /// Returns how the node judges the others.
    pub fn healths(&self) -> Vec<Health> {
        self.handle.view().peers.iter().map(|peer| peer.health).collect()
    }

    /// Returns the heartbeats that it has sent, and when.
    pub fn beats_since(&self, since: Instant) -> Vec<(Instant, Arc<Beat>)> {
        self.link.seen().beats.iter().filter(|(at, _)| *at >= since).cloned().collect()
    }

    /// Returns the times between these heartbeats.
    pub fn gaps_since(&self, since: Instant) -> Vec<Duration> {
        self.beats_since(since).windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
    }

    pub fn last_beat(&self) -> (Instant, Arc<Beat>) {
        self.link.seen().beats.last().expect("it has sent one").clone()
    }

    /// Returns how often it has left because of another node with its identity.
    pub fn rejoins(&self) -> usize {
        self.link.seen().rejoins
    }

    /// Returns when it has tried to reach other nodes.
    pub fn probes_since(&self, since: Instant) -> Vec<Instant> {
        self.link.seen().probes.iter().filter(|at| **at >= since).copied().collect()
    }
}

impl Link {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics with it")
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }
}

impl ClusterLink for Link {
    fn send(&self, beat: Arc<Beat>) {
        self.seen().beats.push((Instant::now(), beat.clone()));
        if !self.is_cut() {
            let links = self.network.links();
            let received = BeatReceived { site: SITE.into(), beat };
            links.iter().filter(|link| !link.is_cut()).for_each(|link| link.actor.do_send(received.clone()));
        }
    }

    fn set_functions(&self, functions: Arc<FunctionList>) {
        self.seen().functions = functions;
    }

    fn ask(&self, peer: &Arc<PeerView>, digest: u64) {
        if let Some(asked) = self.network.find(peer.node()).filter(|asked| !asked.is_cut() && !self.is_cut()) {
            let functions = FunctionList::clone(&asked.seen().functions);
            self.actor.do_send(FunctionsListed { node: asked.node, digest, functions });
        }
    }

    fn rejoin(&self) {
        self.seen().rejoins += 1;
        // The node hears nothing until no other has its identity.
        self.is_cut.store(true, Relaxed);
    }

    fn keep_keys(&self, _: Arc<TrustedKeys>) {}

    fn probe(&self, peer: Arc<PeerView>) {
        self.seen().probes.push(Instant::now());
        let is_reached = self.network.find(peer.node()).is_some_and(|link| link.is_accepting.load(Relaxed));
        self.actor.do_send(PeerTried { node: peer.node(), is_reached });
    }
}
