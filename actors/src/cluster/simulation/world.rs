//! The nodes and the network of the simulation. One function, whose slots are the same on all nodes.
//!
//! `requests.rs` places and serves requests, `faults.rs` disturbs the nodes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::super::{
    beat::{Beat, FunctionList, FunctionLoad, OfferedFunction},
    directory::{Heard, Peers},
    node::{Epoch, NodeId},
    place::{Choice, LocalOffer, Request, StartKind, place},
    suspicion::{Health, REMOVED_AFTER},
};

const FUNCTION: &str = "f";
/// Slots of a node, and how long each is held on average, in seconds.
const SLOTS: u32 = 8;
const SERVICE: f64 = 0.4;
const BEAT: f64 = 1.0;
/// Between two beats that are sent because something has changed.
const QUICK_BEAT: f64 = 0.1;
/// One way between two nodes, and the longest way of a heartbeat.
const HOP: f64 = 0.000_15;
const MAX_DELAY: f64 = 0.02;
const CONNECT_TIMEOUT: f64 = 0.5;
/// Heartbeats that are lost while the network is disturbed.
const LOST: f64 = 0.02;
const MAX_FORWARDS: usize = 2;

/// How many requests there are, as a share of what all nodes can serve, and how many nodes get them.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub load: f64,
    pub hot_share: f64,
}

/// What was seen of the load.
#[derive(Debug)]
pub struct Figures {
    /// Requests served by the busiest node, by the mean.
    pub most_served: f64,
    /// Requests forwarded to free slots of a node in the time of a beat, by the slots that were or became free there.
    pub most_flooded: f64,
    pub requests: usize,
    pub forwarded: usize,
    pub refused: usize,
}

#[derive(Debug)]
enum Event {
    BeatDue { node: usize, run: u32 },
    Delivered(Arc<Beat>),
    Request { node: usize },
    Forwarded { id: usize, to: usize, run: u32, kind: StartKind },
    Done { id: usize, node: usize, run: u32 },
}

struct Node {
    peers: Peers,
    runs: u32,
    is_alive: bool,
    /// Whether it reaches the server of heartbeats, and the other nodes.
    is_linked: bool,
    is_connected: bool,
    /// What its clock shows: so much at the beginning, and so much faster.
    clock: (f64, f64),
    sequence: u64,
    last_beat: f64,
    /// When the next one is due.
    beat_at: f64,
    told_saturated: bool,
    free: u32,
    queue: VecDeque<usize>,
    served: usize,
    /// In the time of a beat, which began at `window`: requests that were forwarded to a free slot, and slots that were or
    /// became free.
    forwards: u32,
    offered: u32,
    window: f64,
    /// Free slots, as its last beat told, and requests that were forwarded to them.
    told: u32,
    forwards_since_beat: u32,
    /// When each other node was heard last, and when the directory was frozen last.
    heard: Vec<f64>,
    frozen: f64,
}

struct Call {
    origin: usize,
    tried: Vec<NodeId>,
    hops: usize,
    answers: usize,
}

pub struct World {
    random: StdRng,
    base: Instant,
    now: f64,
    events: BinaryHeap<Reverse<(u64, usize)>>,
    contents: BTreeMap<usize, Event>,
    serial: usize,
    nodes: Vec<Node>,
    calls: Vec<Call>,
    traffic: Traffic,
    site: Arc<str>,
    list: FunctionList,
    is_disturbed: bool,
    is_ending: bool,
    seen: Figures,
}

impl World {
    pub fn begin(seed: u64, nodes: usize, traffic: Traffic) -> Self {
        let offered = OfferedFunction { memory: 1, ..OfferedFunction::default() };
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            base: Instant::now(),
            now: 0.0,
            events: BinaryHeap::new(),
            contents: BTreeMap::new(),
            serial: 0,
            nodes: Vec::new(),
            calls: Vec::new(),
            traffic,
            site: "s".into(),
            list: FunctionList::from([(FUNCTION.into(), offered)]),
            is_disturbed: false,
            is_ending: false,
            seen: Figures { most_served: 0.0, most_flooded: 0.0, requests: 0, forwarded: 0, refused: 0 },
        };
        for index in 0..nodes {
            let clock = (world.draw(0.0..1e6), world.draw(0.995..1.005));
            let now = world.base + Duration::from_secs_f64(clock.0);
            let peers = Peers::new(NodeId(index as u64), Epoch::new(1, 0), world.site.clone(), now);
            world.nodes.push(Node {
                peers,
                runs: 1,
                is_alive: true,
                is_linked: true,
                is_connected: true,
                clock,
                sequence: 0,
                last_beat: -BEAT,
                beat_at: 0.0,
                told_saturated: false,
                free: SLOTS,
                queue: VecDeque::new(),
                served: 0,
                forwards: 0,
                offered: SLOTS,
                window: 0.0,
                told: SLOTS,
                forwards_since_beat: 0,
                heard: vec![f64::MIN; nodes],
                frozen: 0.0,
            });
            let first = world.draw(0.0..BEAT);
            world.schedule_beat(index, first);
        }
        let hot = ((nodes as f64 * traffic.hot_share) as usize).max(1);
        for node in 0..hot {
            world.schedule_request(node, hot);
        }
        world
    }

    pub fn draw(&mut self, range: Range<f64>) -> f64 {
        self.random.random_range(range)
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.draw(0.0..1.0)).ln()
    }

    fn schedule(&mut self, after: f64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((((self.now + after) * 1e6) as u64, self.serial)));
        self.contents.insert(self.serial, event);
    }

    /// Has a node beat after so long.
    fn schedule_beat(&mut self, node: usize, after: f64) {
        let run = self.nodes[node].runs;
        self.nodes[node].beat_at = self.now + after;
        self.schedule(after, Event::BeatDue { node, run });
    }

    fn schedule_request(&mut self, node: usize, hot: usize) {
        let all = self.nodes.len() as f64 * f64::from(SLOTS) / SERVICE * self.traffic.load;
        let after = self.exponential(hot as f64 / all);
        self.schedule(after, Event::Request { node });
    }

    pub fn run_for(&mut self, seconds: f64) {
        let end = self.now + seconds;
        while let Some(Reverse((at, serial))) = self.events.peek().copied().filter(|it| it.0.0 as f64 / 1e6 <= end) {
            self.events.pop();
            self.now = at as f64 / 1e6;
            match self.contents.remove(&serial) {
                Some(Event::BeatDue { node, run }) if self.nodes[node].runs == run => self.beat(node),
                Some(Event::Delivered(beat)) => self.deliver(&beat),
                Some(Event::Request { node }) => {
                    let hot = ((self.nodes.len() as f64 * self.traffic.hot_share) as usize).max(1);
                    self.schedule_request(node, hot);
                    self.request(node);
                }
                Some(Event::Forwarded { id, to, run, kind }) => self.forwarded(id, to, run, kind),
                Some(Event::Done { id, node, run }) if self.nodes[node].runs == run => self.done(id, node),
                _ => {}
            }
        }
        self.now = end;
    }

    /// Returns what the clock of a node shows.
    fn clock(&self, node: usize) -> Instant {
        let (start, rate) = self.nodes[node].clock;
        self.base + Duration::from_secs_f64(start + self.now * rate)
    }

    fn beat(&mut self, index: usize) {
        let (now, clock) = (self.now, self.clock(index));
        let node = &mut self.nodes[index];
        // An earlier beat has taken its place, or it has none.
        if !node.is_alive || node.beat_at > now + 1e-6 || self.is_ending {
            return;
        }
        node.peers.judge(clock);
        if node.peers.is_frozen(clock) {
            node.frozen = now;
        }
        (node.sequence, node.last_beat, node.told_saturated) = (node.sequence + 1, now, node.free == 0);
        (node.forwards_since_beat, node.told) = (0, node.free);
        if now - node.window >= BEAT {
            let flooded = f64::from(node.forwards) / f64::from(node.offered.max(2));
            self.seen.most_flooded = self.seen.most_flooded.max(flooded);
            (node.forwards, node.offered, node.window) = (0, node.free, now);
        }
        let load = FunctionLoad {
            free: node.free,
            capacity: SLOTS,
            waiting: node.queue.len() as u32,
            service_us: (SERVICE * 1e6) as u32,
            is_full: true,
            ..Default::default()
        };
        let beat = Beat {
            node: NodeId(index as u64),
            epoch: Epoch::new(node.runs, 0),
            sequence: node.sequence,
            name: "n".into(),
            address: "h:1".into(),
            key: None,
            labels: BTreeMap::new(),
            is_draining: false,
            memory_free: 0,
            starting: 0,
            functions: 1,
            versions: Default::default(),
            loads: BTreeMap::from([(FUNCTION.into(), load)]),
        };
        let is_sent = node.is_linked;
        let (delay, next) = (self.draw(0.0001..MAX_DELAY), self.draw(0.9 * BEAT..1.1 * BEAT));
        if is_sent {
            self.schedule(delay, Event::Delivered(Arc::new(beat)));
        }
        self.schedule_beat(index, next);
    }

    fn beat_soon(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let at = (node.last_beat + QUICK_BEAT).max(self.now);
        if node.beat_at > at {
            node.beat_at = at;
            let (after, run) = (at - self.now, node.runs);
            self.schedule(after, Event::BeatDue { node: index, run });
        }
    }

    fn deliver(&mut self, beat: &Arc<Beat>) {
        let sender = beat.node.0 as usize;
        for index in 0..self.nodes.len() {
            let is_lost = self.is_disturbed && self.random.random_bool(LOST);
            let (clock, now) = (self.clock(index), self.now);
            let node = &mut self.nodes[index];
            if is_lost || !node.is_alive || !node.is_linked {
                continue;
            }
            node.heard[sender] = now;
            let heard = node.peers.heard(&self.site, beat.clone(), clock);
            if matches!(heard, Heard::Peer { wants_functions: true, .. }) {
                node.peers.listed(beat.node, 1, self.list.clone());
            }
        }
    }
}

mod faults;
mod requests;
