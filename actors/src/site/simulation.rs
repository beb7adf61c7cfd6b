//! Nodes in virtual time: they are killed at any step, burn, and are cut off; the server is away, and forgets to answer.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{pending, task::noop_waker};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    memory::{Connection, Server},
    *,
};
use crate::{
    inbox::{Callback, CallbackState, DeliveryEnd, InvocationId, Outcome, Record, State, StoredRequest, UnixMillis},
    seeds::for_each_seed,
    spec::AsyncSpec,
};

const NODES: usize = 3;
const STEPS: usize = 400;
const FUNCTIONS: [&str; 2] = ["a", "b"];
const MAX_AGE: Duration = Duration::from_secs(600);

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A node. Its disk survives a kill.
struct Node {
    connection: Connection,
    disk: Rc<RefCell<BTreeMap<InvocationId, Offer>>>,
    tasks: Vec<Task>,
}

/// What is known from outside.
#[derive(Default)]
struct Seen {
    /// Accepted, with the node that has it on its disk, until the site has it.
    on_node: BTreeMap<InvocationId, usize>,
    /// The site has confirmed them.
    on_site: BTreeSet<InvocationId>,
    /// How attempts ended, by invocation and epoch.
    outcomes: BTreeMap<(InvocationId, u32), Option<u16>>,
    /// Dead letters that some node has kept.
    letters: BTreeSet<InvocationId>,
    /// Attempts that have begun.
    begun: BTreeSet<(InvocationId, u32)>,
    /// The result that receivers got: the epoch and the state, and whether any receiver has confirmed it.
    results: BTreeMap<InvocationId, (u32, State, bool)>,
}

struct World {
    server: Rc<Server>,
    nodes: Vec<Node>,
    seen: Rc<RefCell<Seen>>,
    policy: Rc<AsyncSpec>,
}

impl World {
    fn begin(seed: u64) -> Self {
        let random = RefCell::new(StdRng::seed_from_u64(seed));
        let now = Cell::new(UnixMillis(1_000_000));
        let server = Rc::new(Server { random, now, is_away: Cell::new(false), content: RefCell::default() });
        let policy = Rc::new(AsyncSpec { max_age: MAX_AGE, ..AsyncSpec::default() });
        let mut world = Self { nodes: Vec::new(), seen: Rc::default(), policy, server };
        for number in 0..NODES {
            let connection = Connection { server: world.server.clone(), is_cut: Rc::default() };
            world.nodes.push(Node { connection, disk: Rc::default(), tasks: Vec::new() });
            world.start(number);
        }
        world
    }

    fn random(&self, below: usize) -> usize {
        self.server.random.borrow_mut().random_range(0..below)
    }

    /// Starts the tasks of a node: one hands over, one for each function runs, and one delivers results.
    fn start(&mut self, number: usize) {
        let (seen, policy) = (&self.seen, &self.policy);
        let Node { connection, disk, tasks } = &mut self.nodes[number];
        tasks.push(Box::pin(hand_over(connection.clone(), disk.clone(), seen.clone(), policy.clone())));
        for function in FUNCTIONS {
            tasks.push(Box::pin(run(connection.clone(), function, seen.clone(), policy.clone())));
        }
        tasks.push(Box::pin(deliver(connection.clone(), seen.clone())));
    }

    fn accept(&mut self) {
        let number = self.random(NODES);
        let now = self.server.now.get();
        let id = InvocationId(self.server.random.borrow_mut().random());
        let record = Record {
            seq: 1,
            id,
            function: FUNCTIONS[self.random(FUNCTIONS.len())].into(),
            state: State::Queued { due: now.after(Duration::from_secs(self.random(20) as u64)) },
            epoch: 0,
            attempts: 0,
            accepted: now,
            deadline: now.after(MAX_AGE),
            key: (self.random(3) == 0).then(|| format!("k{}", self.random(6)).into()),
            callback: (self.random(2) == 0).then(|| Callback {
                url: "http://h/".into(),
                attempts: 0,
                state: CallbackState::Waiting,
            }),
        };
        let request = StoredRequest::new("POST", "/", Bytes::new());
        self.nodes[number]
            .disk
            .borrow_mut()
            .insert(id, Offer { record, request, fingerprint: vec![1], reserves_key: true });
        self.seen.borrow_mut().on_node.insert(id, number);
    }

    fn step(&mut self) {
        let ahead = Duration::from_millis(self.random(1000) as u64);
        self.server.now.set(self.server.now.get().after(ahead));
        let number = self.random(NODES);
        match self.random(200) {
            0..20 => self.accept(),
            20..25 => {
                self.nodes[number].tasks.clear();
                self.start(number);
            }
            25..26 => self.burn(number),
            26..30 => {
                let is_cut = &self.nodes[number].connection.is_cut;
                is_cut.set(!is_cut.get());
            }
            30..34 => self.server.is_away.set(!self.server.is_away.get()),
            _ => {}
        }
        self.poll();
        self.check();
    }

    /// A node burns, and another one takes its place. Only what the site has not confirmed is lost.
    fn burn(&mut self, number: usize) {
        self.nodes[number].tasks.clear();
        self.nodes[number].disk.borrow_mut().clear();
        self.seen.borrow_mut().on_node.retain(|_, node| *node != number);
        self.start(number);
    }

    fn poll(&mut self) {
        let waker = noop_waker();
        for task in self.nodes.iter_mut().flat_map(|node| &mut node.tasks) {
            if self.server.random.borrow_mut().random_ratio(3, 4) {
                assert_eq!(task.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
            }
        }
    }

    fn check(&self) {
        let (seen, content) = (self.seen.borrow(), self.server.content.borrow());
        for id in &seen.on_site {
            assert!(content.calls.contains_key(id), "accepted = queued + running + done + dead");
        }
        for (id, node) in &seen.on_node {
            assert!(self.nodes[*node].disk.borrow().contains_key(id), "what the site does not have is on the node");
        }
        for (_, call) in content.calls.values() {
            let Record { ref state, id, epoch, attempts, deadline, .. } = call.record;
            assert!(attempts as usize <= self.policy.attempts.get(), "{call:?}");
            match *state {
                State::Done { status, .. } => assert_eq!(seen.outcomes.get(&(id, epoch)), Some(&Some(status))),
                State::Dead { ended, .. } => {
                    assert!(ended >= deadline || attempts as usize == self.policy.attempts.get(), "{call:?}");
                }
                State::Queued { .. } | State::Running => {}
            }
            let is_confirmed = seen.results.get(&id).is_some_and(|(.., is_confirmed)| *is_confirmed);
            match call.record.callback.as_ref().map(|callback| callback.state) {
                Some(CallbackState::Delivered) => assert!(is_confirmed, "{call:?}"),
                Some(CallbackState::Failed) => {
                    let is_tried = seen.results.contains_key(&id);
                    let is_old = matches!(state, State::Done { ended, .. } | State::Dead { ended, .. }
                        if self.server.now.get() >= ended.after(MAX_AGE));
                    assert!(is_tried || is_old, "{call:?}");
                }
                Some(CallbackState::Waiting) | None => {}
            }
        }
    }

    /// With a server and nodes that stay, everything ends.
    fn finish(&mut self) {
        self.server.is_away.set(false);
        self.nodes.iter().for_each(|node| node.connection.is_cut.set(false));
        for _ in 0..20_000 {
            self.server.now.set(self.server.now.get().after(Duration::from_millis(500)));
            self.poll();
            self.check();
            // What a node offered that burned before the site confirmed it may have a record and no message.
            let (seen, content) = (self.seen.borrow(), self.server.content.borrow());
            let is_ended = |id| match content.calls.get(id).map(|(_, call)| call) {
                Some(call) if call.undelivered().is_some() => false,
                Some(call) if matches!(call.record.state, State::Dead { .. }) => seen.letters.contains(id),
                call => call.is_some_and(|call| call.record.state.is_ended()),
            };
            if seen.on_node.is_empty() && seen.on_site.iter().all(is_ended) {
                return;
            }
        }
        panic!("something does not end: {:?}", self.server.content.borrow().calls.values());
    }
}

async fn hand_over(
    connection: Connection,
    disk: Rc<RefCell<BTreeMap<InvocationId, Offer>>>,
    seen: Rc<RefCell<Seen>>,
    policy: Rc<AsyncSpec>,
) {
    let (now, queue) = (connection.server.clone(), SiteQueue(connection));
    loop {
        pending!();
        let Some(offer) = disk.borrow().values().next().cloned() else { continue };
        if let Ok(offered) = queue.offer(&offer, &policy, now.now.get()).await {
            let mut seen = seen.borrow_mut();
            disk.borrow_mut().remove(&offer.record.id);
            seen.on_node.remove(&offer.record.id);
            seen.on_site.insert(offered.id);
        }
    }
}

async fn run(connection: Connection, function: &'static str, seen: Rc<RefCell<Seen>>, policy: Rc<AsyncSpec>) {
    let (server, queue) = (connection.server.clone(), SiteQueue(connection));
    let random = |below: u32| server.random.borrow_mut().random_range(0..below);
    loop {
        pending!();
        let Ok(Some(delivered)) = queue.pull(function).await else { continue };
        let holder = server.random.borrow_mut().random();
        let work = match queue.begin(delivered, &policy, server.now.get(), holder).await {
            Begin::Attempt(work) => work,
            Begin::GivenUp(work) | Begin::Ended(work) => {
                release(&queue, work, &seen).await;
                continue;
            }
            Begin::Nothing => continue,
        };
        let Record { id, epoch, .. } = work.call.record;
        assert!(seen.borrow_mut().begun.insert((id, epoch)), "an attempt begins twice");
        // Some take longer than a message waits, and are not prolonged.
        for _ in 0..random(90) {
            pending!();
            if random(10) == 0 {
                queue.0.prolong(&work.delivered.receipt).await;
            }
        }
        let outcome = match random(10) {
            0..5 => Outcome::Answered { status: 200 + random(5) as u16, retry_after: None },
            5..7 => Outcome::Answered { status: 503, retry_after: None },
            7 => Outcome::Failed,
            _ => Outcome::Untouched { retry_after: None },
        };
        let status = if let Outcome::Answered { status, .. } = outcome { Some(status) } else { None };
        seen.borrow_mut().outcomes.insert((id, epoch), status);
        let random = f64::from(random(1000)) / 1000.0;
        if let Some(work) = queue.settle(work, (outcome, None), &policy, server.now.get(), random).await {
            release(&queue, work, &seen).await;
        }
    }
}

/// Keeps a dead letter on the node, has the result wait for its delivery, if there is a receiver, and lets the message go.
async fn release(queue: &SiteQueue<Connection>, mut work: Work<u64>, seen: &RefCell<Seen>) {
    let server = &queue.0.server;
    if work.call.is_unkept_letter() {
        seen.borrow_mut().letters.insert(work.call.record.id);
        let Some(kept) = queue.letter_kept(work, server.now.get()).await else { return };
        work = kept;
    }
    if work.call.undelivered().is_none() {
        return queue.release(&work, server.now.get()).await;
    }
    if queue.queue_result(&work, server.now.get()).await {
        let id = work.call.record.id;
        let is_queued = server.content.borrow().published.iter().any(|(queue, it)| (&**queue, *it) == (RESULTS, id));
        assert!(!is_queued, "a result that waits is not sent as well");
        send(queue, &work, seen).await;
    }
}

async fn deliver(connection: Connection, seen: Rc<RefCell<Seen>>) {
    let queue = SiteQueue(connection);
    loop {
        pending!();
        let Ok(Some(delivered)) = queue.pull(RESULTS).await else { continue };
        if let Some(work) = queue.begin_result(delivered).await {
            send(&queue, &work, &seen).await;
        }
    }
}

async fn send(queue: &SiteQueue<Connection>, work: &Work<u64>, seen: &RefCell<Seen>) {
    let server = &queue.0.server;
    if work.call.is_result_expired(server.now.get()) {
        let _ = queue.delivered(work, None, server.now.get(), 0.5).await;
        return;
    }
    pending!();
    let end = match server.random.borrow_mut().random_range(0..4) {
        0 => DeliveryEnd::Unreachable,
        1 => DeliveryEnd::Refused,
        2 => DeliveryEnd::Forbidden,
        _ => DeliveryEnd::Confirmed,
    };
    let Record { id, epoch, ref state, .. } = work.call.record;
    {
        let mut seen = seen.borrow_mut();
        let got = seen.results.entry(id).or_insert_with(|| (epoch, state.clone(), false));
        assert_eq!((got.0, &got.1), (epoch, state), "each repeat is the same message");
        got.2 |= end == DeliveryEnd::Confirmed;
    }
    queue.delivered(work, Some(end), server.now.get(), 0.5).await;
}

#[test]
fn what_a_site_has_confirmed_ends_once_whatever_is_lost() {
    for_each_seed(150, |seed| {
        let mut world = World::begin(seed);
        (0..STEPS).for_each(|_| world.step());
        world.finish();
    });
}
