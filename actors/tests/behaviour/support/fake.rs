//! A sandbox that follows scripts (`script.rs`), and keeps a ledger of everything it lends.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use futures::future::{FutureExt, LocalBoxFuture};
use tokio::{sync::oneshot, time::sleep};
use unifaas_actors::{
    CallbackOutcome, Callbacks, InstanceId, ReadyToken,
    sandbox::{LaunchError, LaunchOrder, Launched, ReclaimError, SandboxExit, SandboxHandle, Sandboxes},
    spec::Readiness,
};

use super::{
    PLANNED,
    script::{Call, Caller, Launch, OnStop, Reclaim, Script},
};

/// The sandbox, and what a test sees of it.
#[derive(Clone)]
pub struct Fake {
    ledger: Rc<RefCell<Ledger>>,
    callbacks: Arc<Callbacks>,
}

#[derive(Default)]
struct Ledger {
    usual: Script,
    next: VecDeque<Script>,
    orders: Vec<(InstanceId, ReadyToken)>,
    /// Guests that run, by their address.
    running: HashMap<SocketAddr, Running>,
    /// Orders whose resources have not come back.
    held: usize,
    most_held: usize,
    /// Of these orders, in MiB.
    memory: u64,
    most_memory: u64,
    /// By what the function's file called its version: see [`VERSION`].
    versions: BTreeMap<String, usize>,
    asked: usize,
    killed: usize,
    /// Instances that ended by themselves.
    died: HashSet<InstanceId>,
    /// Guests that were given up on, each with what it still uses.
    lingering: Vec<(oneshot::Sender<SandboxExit>, Held)>,
    /// Guests that were dropped instead of reclaimed.
    abandoned: usize,
    /// How often something panicked here, as planned.
    panics: usize,
    /// Whose callback was believed.
    believed: HashSet<InstanceId>,
    offences: Vec<String>,
}

struct Running {
    instance: InstanceId,
    script: Script,
    exit: oneshot::Sender<SandboxExit>,
}

/// Where the instance of the `number`th order listens; each has an address of its own.
pub fn address(number: usize) -> SocketAddr {
    let number = u32::try_from(number).expect("no test starts that many");
    SocketAddr::from((Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number), 8080))
}

impl Fake {
    /// Its guests call back there.
    pub fn new(callbacks: Arc<Callbacks>) -> Self {
        Self { ledger: Rc::default(), callbacks }
    }

    /// What every instance does from now on.
    pub fn usually(&self, script: Script) {
        self.ledger.borrow_mut().usual = script;
    }

    /// What the next instance does that has no script of its own yet.
    pub fn next(&self, script: Script) {
        self.ledger.borrow_mut().next.push_back(script);
    }

    /// What every instance does from now on, also those that had a script already.
    pub fn always(&self, script: Script) {
        self.ledger.borrow_mut().next.clear();
        self.usually(script);
    }

    /// Ends a running instance, as if by itself.
    pub fn crash(&self, instance: InstanceId, exit: SandboxExit) {
        let address =
            self.ledger.borrow().running.iter().find(|(_, guest)| guest.instance == instance).map(|(at, _)| *at);
        self.die(address.expect("the instance runs"), exit);
    }

    /// Instances that run now, in the order of their launch.
    pub fn guests(&self) -> Vec<InstanceId> {
        let ledger = self.ledger.borrow();
        let runs = |id: &InstanceId| ledger.running.values().any(|guest| guest.instance == *id);
        ledger.orders.iter().map(|(id, _)| *id).filter(runs).collect()
    }

    /// Whether the instance ended by itself.
    pub fn died(&self, instance: InstanceId) -> bool {
        self.ledger.borrow().died.contains(&instance)
    }

    /// Instances ordered so far.
    pub fn launched(&self) -> usize {
        self.ledger.borrow().orders.len()
    }

    /// Guests that run now.
    pub fn running(&self) -> usize {
        self.ledger.borrow().running.len()
    }

    /// Orders for which something is held now, running or not.
    pub fn held(&self) -> usize {
        self.ledger.borrow().held
    }

    /// The highest that [`held`](Self::held) ever was.
    pub fn most_held(&self) -> usize {
        self.ledger.borrow().most_held
    }

    /// The memory that guests are allowed together now, in MiB.
    pub fn memory(&self) -> u64 {
        self.ledger.borrow().memory
    }

    /// The most memory that guests were ever allowed together, in MiB.
    pub fn most_memory(&self) -> u64 {
        self.ledger.borrow().most_memory
    }

    /// Guests that were asked to end.
    pub fn asked(&self) -> usize {
        self.ledger.borrow().asked
    }

    /// Guests that were killed, by their actor or as it went down.
    pub fn killed(&self) -> usize {
        self.ledger.borrow().killed
    }

    /// Ends those that were given up on, at last.
    pub fn release(&self) {
        let lingering = std::mem::take(&mut self.ledger.borrow_mut().lingering);
        for (ended, held) in lingering {
            drop(held);
            // Nobody listens any more when the daemon has gone down.
            let _ = ended.send(SandboxExit::Signal(9));
        }
    }

    /// The secret tokens of all orders, oldest first.
    pub fn tokens(&self) -> Vec<ReadyToken> {
        self.ledger.borrow().orders.iter().map(|(_, token)| *token).collect()
    }

    /// Panics if anything is left, or went wrong on the way.
    #[track_caller]
    pub fn check_empty(&self) {
        let ledger = self.ledger.borrow();
        assert_eq!(
            (ledger.running.len(), ledger.held),
            (0, 0),
            "guests still run, or things of the host are still held"
        );
        assert_eq!(ledger.offences, [""; 0]);
    }

    fn die(&self, address: SocketAddr, exit: SandboxExit) {
        {
            let mut ledger = self.ledger.borrow_mut();
            let instance = ledger.running.get(&address).map(|guest| guest.instance);
            ledger.died.extend(instance);
        }
        self.end(address, exit);
    }

    fn end(&self, address: SocketAddr, exit: SandboxExit) {
        let ended = self.ledger.borrow_mut().running.remove(&address);
        if let Some(guest) = ended {
            // Nobody listens any more when the daemon goes down.
            let _ = guest.exit.send(exit);
        }
    }

    fn script_of(&self, address: SocketAddr) -> Option<Script> {
        self.ledger.borrow().running.get(&address).map(|guest| guest.script.clone())
    }

    async fn call(self, Call { after, by }: Call, instance: InstanceId, token: ReadyToken, address: SocketAddr) {
        sleep(after).await;
        let (token, from) = match by {
            Caller::Itself => (token, address.ip()),
            Caller::Stranger => (token, Ipv4Addr::BROADCAST.into()),
            Caller::Forger => (ReadyToken::random(), address.ip()),
        };
        if self.callbacks.deliver(Some(token), from).await == Some(CallbackOutcome::Accepted) {
            let mut ledger = self.ledger.borrow_mut();
            let credible = matches!(by, Caller::Itself) && ledger.believed.insert(instance);
            if !credible {
                ledger.offences.push(format!("a callback for {instance} was believed: {by:?}"));
            }
        }
    }

    /// Panics, as planned.
    fn explode(&self) -> ! {
        self.ledger.borrow_mut().panics += 1;
        panic!("{PLANNED}")
    }

    /// How many guests were dropped without being reclaimed, and how often something panicked here: only the actor of an
    /// instance that panics abandons its guest.
    pub fn abandoned(&self) -> (usize, usize) {
        let ledger = self.ledger.borrow();
        (ledger.abandoned, ledger.panics)
    }

    fn born(&self, order: &LaunchOrder, script: Script, address: SocketAddr, held: Held) -> Launched {
        order.output.write(script.prints.as_bytes());
        let (exit, exited) = oneshot::channel();
        if let Some((after, how)) = script.exit_after.clone() {
            let fake = self.clone();
            actix::spawn(async move {
                sleep(after).await;
                fake.die(address, how);
            });
        }
        let end_seen_after = script.end_seen_after;
        let (ended_late, late_end) = oneshot::channel();
        self.ledger
            .borrow_mut()
            .running
            .insert(address, Running { instance: order.instance, script: script.clone(), exit });
        Launched {
            address,
            callback_source: address.ip(),
            sandbox: Box::new(FakeHandle {
                address,
                script,
                held: Some(held),
                ended_late: Some(ended_late),
                fake: self.clone(),
            }),
            exited: async move {
                match (exited.await, end_seen_after) {
                    (Ok(exit), Some(late)) => {
                        if !late.is_zero() {
                            sleep(late).await;
                        }
                        exit
                    }
                    // Given up on, or nobody saw it.
                    _ => match late_end.await {
                        Ok(exit) => exit,
                        Err(_) => pending().await,
                    },
                }
            }
            .boxed_local(),
            pid: None,
            engine_id: None,
            resources: vec![format!("address {}", address.ip())],
        }
    }
}

impl Sandboxes for Fake {
    fn launch(&self, order: LaunchOrder) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        let (script, number) = {
            let mut ledger = self.ledger.borrow_mut();
            ledger.orders.push((order.instance, order.token));
            let usual = ledger.usual.clone();
            (ledger.next.pop_front().unwrap_or(usual), ledger.orders.len())
        };
        let held = Held::new(self, &order);
        for call in &script.calls {
            actix::spawn(self.clone().call(*call, order.instance, order.token, address(number)));
        }
        let fake = self.clone();
        if matches!(script.launch, Launch::PanicsAtOnce) {
            self.explode();
        }
        async move {
            sleep(script.launch_after).await;
            match script.launch.clone() {
                Launch::Works => Ok(fake.born(&order, script, address(number), held)),
                Launch::Fails(error) => Err(error),
                Launch::PanicsAtOnce | Launch::Panics => fake.explode(),
            }
        }
        .boxed_local()
    }

    fn probe(&self, address: SocketAddr, readiness: &Readiness) -> LocalBoxFuture<'static, ()> {
        let ready_after = self.script_of(address).and_then(|script| script.ready_after);
        let ready_after = ready_after.filter(|_| *readiness != Readiness::Callback);
        let fake = self.clone();
        async move {
            match ready_after {
                Some(after) => sleep(after).await,
                None => pending().await,
            }
            if fake.script_of(address).is_none() {
                pending().await
            }
        }
        .boxed_local()
    }
}

/// What the host lends for one order; given back when dropped.
struct Held {
    fake: Fake,
    memory: u64,
    version: Option<String>,
}

/// Functions that come and go have a variable of that name, so that an instance tells which version of its function it is
/// of: a new version knows nothing of the instances of the one before.
pub const VERSION: &str = "VERSION";

impl Held {
    fn new(fake: &Fake, order: &LaunchOrder) -> Self {
        let mut ledger = fake.ledger.borrow_mut();
        let memory = order.spec.memory();
        let version = format!("{} {}", order.spec.name, order.spec.env.get(VERSION).map_or("", String::as_str));
        ledger.held += 1;
        ledger.most_held = ledger.most_held.max(ledger.held);
        ledger.memory += memory;
        ledger.most_memory = ledger.most_memory.max(ledger.memory);
        let siblings = ledger.versions.entry(version.clone()).or_default();
        *siblings += 1;
        if order.spec.max_instances.is_some_and(|most| *siblings > most.get()) {
            let offence = format!("{siblings} instances of {version} at once");
            ledger.offences.push(offence);
        }
        Self { fake: fake.clone(), memory, version: Some(version) }
    }

    /// Of an instance that its function does not count any more.
    fn outside_of_its_function(mut self) -> Self {
        self.leave_its_function();
        self
    }

    fn leave_its_function(&mut self) {
        let Some(version) = self.version.take() else { return };
        if let Some(siblings) = self.fake.ledger.borrow_mut().versions.get_mut(&version) {
            *siblings -= 1;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave_its_function();
        let mut ledger = self.fake.ledger.borrow_mut();
        ledger.held -= 1;
        ledger.memory -= self.memory;
    }
}

struct FakeHandle {
    address: SocketAddr,
    script: Script,
    held: Option<Held>,
    /// Says that it has ended, if it is given up on before.
    ended_late: Option<oneshot::Sender<SandboxExit>>,
    fake: Fake,
}

impl SandboxHandle for FakeHandle {
    fn terminate(&mut self) {
        self.fake.ledger.borrow_mut().asked += 1;
        match self.script.on_stop {
            OnStop::EndsAfter(after) => {
                let (fake, address) = (self.fake.clone(), self.address);
                actix::spawn(async move {
                    sleep(after).await;
                    fake.end(address, SandboxExit::Code(0));
                });
            }
            OnStop::Ignores => {}
            OnStop::Panics => self.fake.explode(),
        }
    }

    fn kill(&mut self) {
        self.fake.ledger.borrow_mut().killed += 1;
        if !self.script.undying {
            self.fake.end(self.address, SandboxExit::Signal(9));
        }
    }

    fn reclaim(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        let runs = self.fake.ledger.borrow_mut().running.remove(&self.address).is_some();
        if runs && !self.script.undying {
            self.fake.ledger.borrow_mut().offences.push(format!("{} was reclaimed while it ran", self.address));
        }
        let mut held = self.held.take();
        let unseen = runs || self.script.end_seen_after.is_none();
        if unseen && !matches!(self.script.reclaim, Reclaim::After(_)) {
            let lingering = self.ended_late.take().zip(held.take().map(Held::outside_of_its_function));
            self.fake.ledger.borrow_mut().lingering.extend(lingering);
        }
        async move {
            // Comes back in any other case, be it that the attempt is given up.
            let _held = held;
            match self.script.reclaim {
                Reclaim::After(after) => {
                    sleep(after).await;
                    Ok(())
                }
                Reclaim::Fails => Err(ReclaimError { what: "the address".into(), why: "no reason".into() }),
                Reclaim::Never => pending().await,
            }
        }
        .boxed_local()
    }
}

impl Drop for FakeHandle {
    fn drop(&mut self) {
        // Not reclaimed: its actor has panicked.
        if self.held.is_some() {
            self.fake.ledger.borrow_mut().abandoned += 1;
            self.kill();
            // One that not even a kill ends is given up on here as well.
            self.fake.ledger.borrow_mut().running.remove(&self.address);
        }
    }
}
