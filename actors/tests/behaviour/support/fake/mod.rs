//! A sandbox that follows scripts (`script.rs`) and accounts for everything that it hands out.
//!
//! Here is what a test sees and sets; `sandboxes.rs` starts instances, `handle.rs` controls one, `holding.rs` accounts.

mod handle;
mod holding;
mod sandboxes;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use futures::channel::mpsc;
use tokio::sync::oneshot;
use unifaas_actors::{Callbacks, InstanceId, ReadyToken, sandbox::SandboxExit};

use super::{PLANNED, script::Script};
use holding::Holding;
pub use holding::VERSION;

/// The sandbox, and what a test sees of it.
#[derive(Clone)]
pub struct Fake {
    ledger: Rc<RefCell<Ledger>>,
    callbacks: Arc<Callbacks>,
}

#[derive(Default)]
struct Ledger {
    default: Script,
    next: VecDeque<Script>,
    orders: Vec<(InstanceId, ReadyToken)>,
    /// Running instances by their address.
    running: HashMap<SocketAddr, RunningInstance>,
    /// Orders whose resources have not been reclaimed.
    held: usize,
    max_held: usize,
    /// The memory of these orders, in MiB.
    memory: u64,
    max_memory: u64,
    /// Instances by function and [`VERSION`].
    versions: BTreeMap<String, usize>,
    /// Those that are paused.
    paused: HashSet<SocketAddr>,
    /// Those that another program has paused, and whether they still are.
    external_pauses: HashMap<SocketAddr, bool>,
    /// Instances that another program has paused at any time.
    disturbed: HashSet<InstanceId>,
    /// Tell actors of these pauses.
    pause_events: HashMap<SocketAddr, mpsc::UnboundedSender<()>>,
    /// Orders to pause an instance.
    pauses: usize,
    /// The snapshots that were taken.
    snapshots: usize,
    /// Whether the last one is kept.
    has_snapshot: bool,
    /// Orders of templates, and clones that were restored.
    templates: usize,
    restored: usize,
    terminated: usize,
    killed: usize,
    /// Instances that exited by themselves.
    died: HashSet<InstanceId>,
    /// Instances that could not be ended, each with what it still uses.
    stuck: Vec<(oneshot::Sender<SandboxExit>, Holding)>,
    /// Instances that were dropped instead of reclaimed.
    dropped: usize,
    /// Planned panics so far.
    panics: usize,
    /// Instances whose callback was accepted.
    accepted: HashSet<InstanceId>,
    violations: Vec<String>,
}

struct RunningInstance {
    instance: InstanceId,
    script: Script,
    exit: oneshot::Sender<SandboxExit>,
}

/// Returns where the instance of the `number`th order listens. Each has an address of its own.
pub fn address(number: usize) -> SocketAddr {
    let number = u32::try_from(number).expect("no test starts that many");
    SocketAddr::from((Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number), 8080))
}

impl Fake {
    /// Creates a sandbox whose instances send their callbacks there.
    pub fn new(callbacks: Arc<Callbacks>) -> Self {
        Self { ledger: Rc::default(), callbacks }
    }

    /// Sets what every instance does from now on that has no script of its own.
    pub fn usually(&self, script: Script) {
        self.ledger.borrow_mut().default = script;
    }

    /// Gives the next instance without a script of its own this one.
    pub fn next(&self, script: Script) {
        self.ledger.borrow_mut().next.push_back(script);
    }

    /// Sets what every instance does from now on.
    pub fn always(&self, script: Script) {
        self.ledger.borrow_mut().next.clear();
        self.usually(script);
    }

    /// Makes a running instance exit as if by itself.
    pub fn crash(&self, instance: InstanceId, exit: SandboxExit) {
        self.die(self.address_of(instance).expect("the instance runs"), exit);
    }

    /// Pauses a running instance as if by another program.
    pub fn pause_externally(&self, instance: InstanceId) {
        let address = self.address_of(instance).expect("the instance runs");
        let mut ledger = self.ledger.borrow_mut();
        ledger.external_pauses.insert(address, true);
        ledger.disturbed.insert(instance);
        if let Some(events) = ledger.pause_events.get(&address) {
            // The receiver is gone if its actor has ended.
            let _ = events.unbounded_send(());
        }
    }

    /// Returns whether another program has paused the instance, and nothing has resumed it.
    pub fn is_paused_externally(&self, instance: InstanceId) -> bool {
        let address = self.address_of(instance);
        address.is_some_and(|address| self.ledger.borrow().external_pauses.get(&address) == Some(&true))
    }

    /// Returns whether another program has paused the instance, at any time.
    pub fn was_paused_externally(&self, instance: InstanceId) -> bool {
        self.ledger.borrow().disturbed.contains(&instance)
    }

    fn address_of(&self, instance: InstanceId) -> Option<SocketAddr> {
        self.ledger.borrow().running.iter().find(|(_, running)| running.instance == instance).map(|(at, _)| *at)
    }

    /// Returns the running instances in the order of their launch.
    pub fn running_instances(&self) -> Vec<InstanceId> {
        let ledger = self.ledger.borrow();
        let runs = |id: &InstanceId| ledger.running.values().any(|running| running.instance == *id);
        ledger.orders.iter().map(|(id, _)| *id).filter(runs).collect()
    }

    /// Returns whether the instance exited by itself.
    pub fn died(&self, instance: InstanceId) -> bool {
        self.ledger.borrow().died.contains(&instance)
    }

    /// Returns how many instances were ordered.
    pub fn launched(&self) -> usize {
        self.ledger.borrow().orders.len()
    }

    /// Returns whether the instance is paused.
    pub fn is_paused(&self, instance: InstanceId) -> bool {
        let ledger = self.ledger.borrow();
        ledger.running.iter().any(|(at, running)| running.instance == instance && ledger.paused.contains(at))
    }

    /// Returns how often instances were to be paused.
    pub fn pauses(&self) -> usize {
        self.ledger.borrow().pauses
    }

    /// Returns how many templates were ordered, how many snapshots were taken, and how many clones were restored.
    pub fn snapshots(&self) -> (usize, usize, usize) {
        let ledger = self.ledger.borrow();
        (ledger.templates, ledger.snapshots, ledger.restored)
    }

    /// Sets whether a snapshot is kept.
    pub fn keep_snapshot(&self, is_kept: bool) {
        self.ledger.borrow_mut().has_snapshot = is_kept;
    }

    /// Returns whether a snapshot is kept.
    pub fn has_snapshot(&self) -> bool {
        self.ledger.borrow().has_snapshot
    }

    /// Returns how many instances run.
    pub fn running(&self) -> usize {
        self.ledger.borrow().running.len()
    }

    /// Returns for how many orders something is held, running or not.
    pub fn held(&self) -> usize {
        self.ledger.borrow().held
    }

    /// Returns the maximum that [`held`](Self::held) ever was.
    pub fn max_held(&self) -> usize {
        self.ledger.borrow().max_held
    }

    /// Returns the memory that instances hold together, in MiB.
    pub fn memory(&self) -> u64 {
        self.ledger.borrow().memory
    }

    /// Returns the maximum that [`memory`](Self::memory) ever was.
    pub fn max_memory(&self) -> u64 {
        self.ledger.borrow().max_memory
    }

    /// Returns how many instances were asked to exit.
    pub fn terminated(&self) -> usize {
        self.ledger.borrow().terminated
    }

    /// Returns how many instances were killed, including those whose actor panicked.
    pub fn killed(&self) -> usize {
        self.ledger.borrow().killed
    }

    /// Lets the instances that could not be ended exit.
    pub fn end_stuck(&self) {
        let stuck = std::mem::take(&mut self.ledger.borrow_mut().stuck);
        for (exit, holding) in stuck {
            drop(holding);
            // The receiver is gone if the actors have ended.
            let _ = exit.send(SandboxExit::Signal(9));
        }
    }

    /// Returns the secret tokens of all orders, oldest first.
    pub fn tokens(&self) -> Vec<ReadyToken> {
        self.ledger.borrow().orders.iter().map(|(_, token)| *token).collect()
    }

    /// Returns how many instances were dropped without being reclaimed, and how many planned panics there were. Only an
    /// InstanceActor that panics drops its instance.
    pub fn dropped_and_panics(&self) -> (usize, usize) {
        let ledger = self.ledger.borrow();
        (ledger.dropped, ledger.panics)
    }

    /// Panics if anything is left or a rule was violated.
    #[track_caller]
    pub fn check_empty(&self) {
        let ledger = self.ledger.borrow();
        assert_eq!((ledger.running.len(), ledger.held), (0, 0), "instances still run, or resources are still held");
        assert_eq!(ledger.violations, [""; 0]);
    }

    fn die(&self, address: SocketAddr, exit: SandboxExit) {
        let mut ledger = self.ledger.borrow_mut();
        let instance = ledger.running.get(&address).map(|running| running.instance);
        ledger.died.extend(instance);
        drop(ledger);
        self.exit(address, exit);
    }

    fn exit(&self, address: SocketAddr, exit: SandboxExit) {
        let ended = self.ledger.borrow_mut().running.remove(&address);
        if let Some(running) = ended {
            // The receiver is gone if the actors have ended.
            let _ = running.exit.send(exit);
        }
    }

    fn script_of(&self, address: SocketAddr) -> Option<Script> {
        self.ledger.borrow().running.get(&address).map(|running| running.script.clone())
    }

    fn violation(&self, text: String) {
        self.ledger.borrow_mut().violations.push(text);
    }

    fn panic_as_planned(&self) -> ! {
        self.ledger.borrow_mut().panics += 1;
        panic!("{PLANNED}")
    }
}
