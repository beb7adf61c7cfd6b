//! The nodes and the network of the simulation. One function, whose slots are the same on all nodes.

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
        let offered = OfferedFunction { memory: 1, answer_ms: None };
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
            loads: BTreeMap::from([(FUNCTION.into(), load)]),
        };
        let is_sent = node.is_linked;
        let (delay, next) = (self.draw(0.0001..MAX_DELAY), self.draw(0.9 * BEAT..1.1 * BEAT));
        if is_sent {
            self.schedule(delay, Event::Delivered(Arc::new(beat)));
        }
        self.schedule_beat(index, next);
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

    fn request(&mut self, origin: usize) {
        if !self.nodes[origin].is_alive || self.is_ending {
            return;
        }
        self.seen.requests += 1;
        self.calls.push(Call { origin, tried: Vec::new(), hops: 0, answers: 0 });
        self.offer(self.calls.len() - 1);
    }

    /// A request at the node that it came to, perhaps after others have refused it.
    fn offer(&mut self, id: usize) {
        let (origin, clock) = (self.calls[id].origin, self.clock(self.calls[id].origin));
        let node = &mut self.nodes[origin];
        if node.free > 0 && node.queue.is_empty() {
            return self.serve(id, origin);
        }
        let load = FunctionLoad {
            capacity: SLOTS,
            waiting: node.queue.len() as u32,
            service_us: (SERVICE * 1e6) as u32,
            is_full: true,
            ..Default::default()
        };
        let local = LocalOffer { load, has_memory: false };
        let call = &self.calls[id];
        let choice = if call.tried.len() < MAX_FORWARDS {
            node.peers.judge(clock);
            let request = Request { function: FUNCTION, local: Some(&local), labels: &[], tried: &call.tried };
            place(&node.peers.view(clock), request, &mut self.random).choice
        } else {
            Choice::Local
        };
        match choice {
            Choice::Peer(peer, kind) => {
                let to = peer.node().0 as usize;
                let is_frozen = node.peers.is_frozen(clock);
                let silent = self.now - node.heard[to].max(node.frozen);
                // The directory is judged once a second.
                let most = REMOVED_AFTER.as_secs_f64() + 1.5;
                assert!(is_frozen || silent < most, "{origin} forwards to {to}, silent for {silent} s");
                self.calls[id].tried.push(peer.node());
                let reached = self.nodes[to].is_alive && self.nodes[to].is_connected && self.nodes[origin].is_connected;
                let after = if reached { HOP } else { CONNECT_TIMEOUT };
                let run = if reached { self.nodes[to].runs } else { 0 };
                self.schedule(after, Event::Forwarded { id, to, run, kind });
            }
            Choice::Local | Choice::Nowhere => self.nodes[origin].queue.push_back(id),
        }
        self.note_saturation(origin);
    }

    /// A request at the node that it was forwarded to.
    fn forwarded(&mut self, id: usize, to: usize, run: u32, kind: StartKind) {
        let (origin, peer) = (self.calls[id].origin, NodeId(to as u64));
        let clock = self.clock(origin);
        if self.nodes[to].runs != run || !self.nodes[to].is_alive {
            // The run 0 stands for a connection that could not be opened.
            self.nodes[origin].peers.failed(peer, clock);
            return self.offer(id);
        }
        self.seen.forwarded += 1;
        self.calls[id].hops += 1;
        if kind != StartKind::Warm {
            self.nodes[to].queue.push_back(id);
            return self.serve_queue(to);
        }
        self.nodes[to].forwards += 1;
        self.nodes[to].forwards_since_beat += 1;
        if self.nodes[to].forwards_since_beat >= self.nodes[to].told {
            // What it has told is used up.
            self.beat_soon(to);
        }
        if self.nodes[to].free > 0 && self.nodes[to].queue.is_empty() {
            return self.serve(id, to);
        }
        self.seen.refused += 1;
        self.calls[id].hops -= 1;
        let view = self.nodes[origin].peers.view(clock);
        if let Some(peer) = view.peers.iter().find(|it| it.node() == peer) {
            peer.note_refusal(FUNCTION);
        }
        self.offer(id);
    }

    fn serve(&mut self, id: usize, index: usize) {
        let held = self.exponential(SERVICE);
        let node = &mut self.nodes[index];
        (node.free, node.served) = (node.free - 1, node.served + 1);
        let run = node.runs;
        self.schedule(held, Event::Done { id, node: index, run });
        self.note_saturation(index);
    }

    fn done(&mut self, id: usize, index: usize) {
        self.calls[id].answers += 1;
        assert!(self.calls[id].answers == 1, "a request has two answers");
        assert!(self.calls[id].hops <= 1, "a request has taken two hops");
        let node = &mut self.nodes[index];
        (node.free, node.offered) = (node.free + 1, node.offered + 1);
        self.serve_queue(index);
        self.note_saturation(index);
    }

    fn serve_queue(&mut self, index: usize) {
        while self.nodes[index].free > 0
            && let Some(next) = self.nodes[index].queue.pop_front()
        {
            self.serve(next, index);
        }
    }

    /// A node tells at once that it has no more free slots, or has some again.
    fn note_saturation(&mut self, index: usize) {
        let node = &self.nodes[index];
        if (node.free == 0) == node.told_saturated {
            return;
        }
        self.nodes[index].told_saturated = !self.nodes[index].told_saturated;
        self.beat_soon(index);
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
}

mod faults;
