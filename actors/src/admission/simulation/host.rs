//! A host with its functions, their instances and the ledger, driven by events in virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt,
    time::Duration,
};

use foldhash::HashMap;
use tokio::time::Instant;

use super::{
    super::{
        HostLimits, IdleInstance, StartKind, StartRequest, Urgency, WakeRequest,
        ledger::{Admitted, Ledger},
        request::Pausable,
    },
    traffic::{Kind, Request, Traffic},
};
use crate::{
    id::InstanceId,
    warmth::{EventRate, GreedyDual, Prewarming, Rung, Use},
};

const KEEPALIVE: Duration = Duration::from_secs(60);
/// The same if a pause follows.
const SHORT_KEEPALIVE: Duration = Duration::from_secs(10);
const KEEP_PAUSED: Duration = Duration::from_secs(600);

/// What happens to idle instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They end after their keepalive. Without memory, the longest idle ones are evicted.
    EndIdle,
    /// They are paused after their keepalive. Without memory, the longest idle ones are evicted.
    LongestIdle,
    /// They are paused after their keepalive. Without memory, the cheapest steps are taken.
    CostPerByte,
    /// The same, and functions get a paused instance ahead of requests that are expected.
    Prewarm,
}

impl Policy {
    fn is_by_cost(self) -> bool {
        matches!(self, Policy::CostPerByte | Policy::Prewarm)
    }
}

/// What comes of a policy.
#[derive(Debug, Default)]
pub struct Figures {
    pub served: usize,
    cold: usize,
    waited: Duration,
    /// MiB times seconds.
    held: f64,
}

impl Figures {
    pub fn mean_wait_ms(&self) -> f64 {
        self.waited.as_secs_f64() * 1e3 / self.served as f64
    }

    /// Returns the share of requests for which an instance was started.
    pub fn cold_share(&self) -> f64 {
        self.cold as f64 / self.served as f64
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cold, wait, held) = (self.cold_share() * 100.0, self.mean_wait_ms(), self.held / 1024.0 / 3600.0);
        write!(f, "{cold:.2} % cold, mean wait {wait:.2} ms, {held:.1} GiB h")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// It has started or resumed, or has served its request.
    Ready,
    /// It was idle or paused for long enough.
    Expired,
    /// A request of the function may be expected from now on, or not any more.
    Expected,
}

/// An event of an instance of a function. It has no effect if the instance has entered another state since.
type Alarm = (Event, usize, InstanceId, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Booting,
    Idle,
    Busy,
    Paused,
    /// It waits for memory.
    Waking,
    Resuming,
}

#[derive(Debug)]
struct Instance {
    id: InstanceId,
    state: State,
    idle_since: Instant,
    served: u64,
    started: Instant,
    is_prewarmed: bool,
    epoch: u64,
}

#[derive(Debug)]
struct Function {
    kind: Kind,
    waiting: VecDeque<Request>,
    has_requested: bool,
    comebacks: EventRate,
    prewarming: Prewarming,
    /// When its last request has ended.
    last_served: Option<Instant>,
    instances: Vec<Instance>,
}

pub struct Host<'t> {
    traffic: &'t Traffic,
    policy: Policy,
    ledger: Ledger,
    greedy: GreedyDual,
    ledger_has_changed: bool,
    functions: Vec<Function>,
    events: BinaryHeap<Reverse<(Instant, u64, Alarm)>>,
    serial: u64,
    origin: Instant,
    now: Instant,
    figures: Figures,
}

impl<'t> Host<'t> {
    pub fn new(traffic: &'t Traffic, memory: u64, policy: Policy) -> Self {
        let origin = Instant::now();
        let function = |kind: &Kind| Function {
            kind: *kind,
            waiting: VecDeque::new(),
            has_requested: false,
            comebacks: EventRate::begin(origin),
            prewarming: Prewarming::default(),
            last_served: None,
            instances: Vec::new(),
        };
        Self {
            traffic,
            policy,
            ledger: Ledger::new(HostLimits { memory, process_starts: usize::MAX, starts: usize::MAX }),
            greedy: GreedyDual::default(),
            ledger_has_changed: false,
            functions: traffic.functions.iter().map(function).collect(),
            events: BinaryHeap::new(),
            serial: 0,
            origin,
            now: origin,
            figures: Figures::default(),
        }
    }

    pub fn run(mut self) -> Figures {
        let mut requests = self.traffic.requests.iter().peekable();
        loop {
            let arrival = requests.peek().map(|request| self.origin + request.at);
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            match (arrival, event) {
                (Some(at), event) if event.is_none_or(|event| at <= event) => {
                    self.pass_to(at);
                    let request = *requests.next().expect("it was peeked");
                    let function = &mut self.functions[request.function];
                    function.waiting.push_back(request);
                    function.prewarming.requested(at);
                    self.settle(request.function);
                }
                (_, Some(at)) => {
                    self.pass_to(at);
                    let Reverse((.., alarm)) = self.events.pop().expect("it was peeked");
                    self.on(alarm);
                }
                (_, None) => return self.figures,
            }
            // An instance that has become idle may make room for what waits.
            if std::mem::take(&mut self.ledger_has_changed) || self.ledger.waiting() > 0 {
                self.advance();
            }
        }
    }

    fn pass_to(&mut self, at: Instant) {
        if at <= self.origin + self.traffic.span {
            self.figures.held += (at - self.now).as_secs_f64() * self.ledger.taken() as f64;
        }
        self.now = at;
    }

    fn instance(&mut self, function: usize, id: InstanceId) -> Option<&mut Instance> {
        self.functions[function].instances.iter_mut().find(|it| it.id == id)
    }

    /// Puts an instance into a state, which ends after `takes`.
    fn enter(&mut self, function: usize, id: InstanceId, state: State, takes: Option<Duration>) {
        let now = self.now;
        let Some(instance) = self.instance(function, id) else { return };
        instance.state = state;
        instance.epoch += 1;
        if state == State::Idle {
            instance.idle_since = now;
        }
        let event = if matches!(state, State::Idle | State::Paused) { Event::Expired } else { Event::Ready };
        let alarm = (event, function, id, instance.epoch);
        if let Some(takes) = takes {
            self.schedule(now + takes, alarm);
        }
    }

    fn schedule(&mut self, at: Instant, alarm: Alarm) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, alarm)));
    }

    fn on(&mut self, (event, function, id, epoch): Alarm) {
        if event == Event::Expected {
            return self.prewarm(function);
        }
        let Some(instance) = self.instance(function, id).filter(|it| it.epoch == epoch) else { return };
        let (state, is_prewarmed) = (instance.state, instance.is_prewarmed && instance.served == 0);
        match (event, state) {
            (Event::Ready, _) => {
                if state == State::Booting {
                    self.ledger.set_started(id, self.now);
                }
                if state == State::Busy {
                    self.functions[function].last_served = Some(self.now);
                }
                let keepalive = if self.policy == Policy::EndIdle { KEEPALIVE } else { SHORT_KEEPALIVE };
                self.enter(function, id, State::Idle, Some(keepalive));
                self.settle(function);
                let is_idle = self.instance(function, id).is_some_and(|it| it.state == State::Idle);
                if is_idle && is_prewarmed {
                    self.pause(function, id);
                }
            }
            (Event::Expired, State::Idle) if self.policy != Policy::EndIdle => self.pause(function, id),
            (Event::Expired | Event::Expected, _) => {
                let is_last = self.functions[function].instances.len() == 1;
                match self.expected_until(function).filter(|_| is_last) {
                    Some(until) => self.enter(function, id, State::Paused, Some(until - self.now)),
                    None => self.end(function, id),
                }
                self.prewarm(function);
            }
        }
    }

    /// Returns until when a request of a function is expected.
    fn expected_until(&self, function: usize) -> Option<Instant> {
        let of = &self.functions[function];
        let window = of.prewarming.window(of.kind.cold).filter(|window| window.contains(self.now));
        window.filter(|_| self.policy == Policy::Prewarm).map(|window| window.until)
    }

    /// Requests an instance if the function has none and a request is expected, or looks again when one is.
    fn prewarm(&mut self, function: usize) {
        let (now, of) = (self.now, &mut self.functions[function]);
        let runs = of.instances.iter().any(|it| it.state != State::Paused);
        match of.last_served {
            Some(since) if self.policy == Policy::Prewarm && !runs && of.waiting.is_empty() => {
                of.prewarming.went_idle(since);
            }
            _ => of.prewarming.interrupted(),
        }
        let Some(window) = of.prewarming.start_window(of.kind.cold) else { return };
        let (memory, is_wanted) = (of.kind.declared, of.instances.is_empty() && window.contains(now));
        if let Some(edge) = window.next_edge(now) {
            self.schedule(edge, (Event::Expected, function, InstanceId::random(), 0));
        }
        if is_wanted {
            let request = StartRequest { memory, kind: StartKind::Process, urgency: Urgency::Prewarm };
            self.ledger.request(function as u64, request).expect("it fits");
            self.functions[function].has_requested = true;
        } else if std::mem::take(&mut self.functions[function].has_requested) {
            self.ledger.withdraw(function as u64);
        }
        self.ledger_has_changed = true;
    }

    fn pause(&mut self, function: usize, id: InstanceId) {
        let is_unused = self.instance(function, id).is_some_and(|it| it.is_prewarmed && it.served == 0);
        let expected = self.expected_until(function).filter(|_| is_unused);
        self.enter(function, id, State::Paused, Some(expected.map_or(KEEP_PAUSED, |until| until - self.now)));
        self.ledger.set_footprint(id, self.functions[function].kind.footprint);
        self.ledger_has_changed = true;
        self.prewarm(function);
    }

    fn end(&mut self, function: usize, id: InstanceId) {
        self.functions[function].instances.retain(|it| it.id != id);
        self.ledger.release(id, self.now);
        self.ledger_has_changed = true;
    }

    fn last_used(&self, function: usize, state: State) -> Option<InstanceId> {
        let instances = self.functions[function].instances.iter().filter(|it| it.state == state);
        instances.max_by_key(|it| (it.idle_since, it.id)).map(|it| it.id)
    }

    fn coming(&self, function: usize) -> usize {
        let is_coming = |it: &&Instance| matches!(it.state, State::Booting | State::Waking | State::Resuming);
        self.functions[function].instances.iter().filter(is_coming).count()
    }

    /// Serves what can be served, and has instances woken and started for the rest.
    fn settle(&mut self, function: usize) {
        while let (Some(id), Some(request)) =
            (self.last_used(function, State::Idle), self.functions[function].waiting.front().copied())
        {
            let arrived = self.origin + request.at;
            self.functions[function].waiting.pop_front();
            self.figures.served += 1;
            self.figures.waited += self.now - (self.origin + request.at);
            if let Some(instance) = self.instance(function, id) {
                instance.served += 1;
                let is_cold = instance.served == 1 && !(instance.is_prewarmed && instance.started < arrived);
                self.figures.cold += usize::from(is_cold);
            }
            self.enter(function, id, State::Busy, Some(request.takes));
        }
        while self.coming(function) > self.functions[function].waiting.len()
            && let Some(id) = self.last_used(function, State::Waking)
        {
            self.ledger.withdraw_wake(id);
            self.ledger_has_changed = true;
            self.enter(function, id, State::Paused, Some(KEEP_PAUSED));
        }
        while let Some(request) = self.functions[function].waiting.get(self.coming(function)) {
            let urgency = Urgency::Caller(self.origin + request.at);
            if let Some(instance) = self.last_used(function, State::Paused) {
                self.enter(function, instance, State::Waking, None);
                self.ledger_has_changed = true;
                self.ledger.request_wake(WakeRequest { instance, urgency });
            } else {
                let (kind, memory) = (StartKind::Process, self.functions[function].kind.declared);
                self.ledger.request(function as u64, StartRequest { memory, kind, urgency }).expect("it fits");
                self.functions[function].has_requested = true;
                self.ledger_has_changed = true;
                return;
            }
        }
        if std::mem::take(&mut self.functions[function].has_requested) {
            self.ledger.withdraw(function as u64);
            self.ledger_has_changed = true;
        }
    }

    /// Admits what can be admitted, and makes room for the first request that lacks memory.
    fn advance(&mut self) {
        loop {
            while let Some(admitted) = self.ledger.admit_next(self.now) {
                match admitted {
                    Admitted::Start(start) => self.start(start.function as usize, start.instance),
                    Admitted::Wake { function, instance } => {
                        let (function, now) = (function as usize, self.now);
                        let of = &mut self.functions[function];
                        of.comebacks.note(now);
                        let resume = of.kind.resume;
                        self.enter(function, instance, State::Resuming, Some(resume));
                    }
                }
            }
            let Some(shortage) = self.ledger.shortage() else { return };
            let owners = (0..self.functions.len()).filter(|owner| shortage.may_evict_of(*owner as u64));
            let (owned, idle): (Vec<_>, Vec<_>) = owners.flat_map(|owner| self.idle(owner)).unzip();
            let owners: HashMap<_, _> = idle.iter().map(|idle: &IdleInstance| idle.instance).zip(owned).collect();
            let steps = match self.policy {
                Policy::CostPerByte | Policy::Prewarm => {
                    self.greedy.select(shortage.missing, self.ledger.steps(idle), self.now)
                }
                Policy::EndIdle | Policy::LongestIdle => self.longest_idle(shortage.missing, idle, &owners),
            };
            if steps.is_empty() {
                return;
            }
            for (instance, to) in steps {
                match to {
                    Rung::Paused => self.pause(owners[&instance], instance),
                    Rung::Ended => self.end(owners[&instance], instance),
                }
            }
        }
    }

    fn start(&mut self, function: usize, id: InstanceId) {
        let now = self.now;
        let of = &mut self.functions[function];
        // A request that came meanwhile has replaced the one for its own instance.
        let is_prewarmed = of.waiting.is_empty();
        let (state, served, epoch) = (State::Booting, 0, 0);
        of.instances.push(Instance { id, state, idle_since: now, served, started: now, is_prewarmed, epoch });
        of.has_requested = false;
        if is_prewarmed {
            of.prewarming.started();
        } else {
            of.comebacks.note(now);
        }
        let cold = of.kind.cold;
        self.enter(function, id, State::Booting, Some(cold));
        self.settle(function);
    }

    /// Returns the instances that a function can do without.
    fn idle(&self, owner: usize) -> Vec<(usize, IdleInstance)> {
        let function = &self.functions[owner];
        if function.instances.is_empty() {
            return Vec::new();
        }
        let wakes = function.instances.iter().any(|it| it.state == State::Waking);
        let is_idle = |it: &&Instance| match it.state {
            State::Paused => function.waiting.is_empty() || wakes,
            State::Idle => function.waiting.is_empty(),
            _ => false,
        };
        let is_valued = self.policy.is_by_cost();
        let comebacks = if is_valued { function.comebacks.per_second(self.now) } else { 0.0 };
        let instances = function.instances.len();
        let idle = function.instances.iter().filter(is_idle).map(|it| {
            let (runs, idle_for, age) = (it.state == State::Idle, self.now - it.idle_since, self.now - it.started);
            let rate = Use { comebacks, instances, runs, served: it.served, age, idle_for }.rate();
            let pause = Pausable { footprint: function.kind.footprint, delay: function.kind.resume };
            let (pause, delay) = (runs.then_some(pause), function.kind.cold - function.kind.resume);
            (owner, IdleInstance { instance: it.id, idle_since: it.idle_since, rate, pause, delay })
        });
        idle.collect()
    }

    fn longest_idle(
        &self,
        missing: u64,
        mut idle: Vec<IdleInstance>,
        owners: &HashMap<InstanceId, usize>,
    ) -> Vec<(InstanceId, Rung)> {
        idle.sort_by_key(|idle| (idle.idle_since, idle.instance));
        let mut sum = 0;
        let steps: Vec<_> = idle
            .iter()
            .take_while(|idle| {
                let is_missing = sum < missing;
                let kind = self.functions[owners[&idle.instance]].kind;
                sum += if idle.pause.is_some() { kind.declared } else { kind.footprint };
                is_missing
            })
            .map(|idle| (idle.instance, Rung::Ended))
            .collect();
        if sum < missing { Vec::new() } else { steps }
    }
}
