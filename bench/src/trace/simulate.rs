//! Keep-alive policies in virtual time: a trace, event by event, with start times and memory that were measured.
//!
//! Each instance serves one request at a time. A request takes the instance of its function that became idle last. If there
//! is none, an instance starts, for which idle ones of other functions are evicted if memory is short, the longest idle one
//! first. If that is not enough, the request waits.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
};

use super::{Policy, Trace};

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// Seconds from the order to start an instance to its readiness.
    pub start_s: f64,
    /// Memory of an instance, in MiB.
    pub memory_mib: f64,
    /// Seconds of the trace over which memory is summed up.
    pub length_s: f64,
}

/// What a policy has led to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// By function, requests that started an instance, and all requests.
    pub by_function: BTreeMap<Arc<str>, (u64, u64)>,
    /// Memory of all instances over time, in MiB times seconds.
    pub memory_mib_s: f64,
    /// That of instances without a request.
    pub idle_mib_s: f64,
    /// Response times relative to the work.
    pub slowdowns: Vec<f64>,
}

impl Outcome {
    /// Returns how many requests started an instance, and how many there were.
    pub fn cold(&self) -> (u64, u64) {
        self.by_function.values().fold((0, 0), |(cold, all), one| (cold + one.0, all + one.1))
    }
}

/// A moment of virtual time, in nanoseconds, so that events have an order.
type Moment = u64;

/// What happens. At the same moment, instances become idle before requests arrive, and end after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done { instance: usize },
    Arrival { request: usize },
    Expire { instance: usize, idle_since: Moment },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Busy,
    Idle { since: Moment },
    Ended,
}

#[derive(Debug)]
struct Instance {
    function: usize,
    state: State,
    born: Moment,
    /// When it began to serve last.
    busy_since: Moment,
    busy: Moment,
}

struct Simulation<'t> {
    trace: &'t Trace,
    policy: &'t Policy,
    model: Model,
    names: Vec<Arc<str>>,
    instances: Vec<Instance>,
    /// By function, its idle instances, the latest one last.
    idle: Vec<Vec<usize>>,
    /// By function, its instances that have not ended.
    alive: Vec<u32>,
    waiting: VecDeque<usize>,
    events: BinaryHeap<Reverse<(Moment, Event)>>,
    outcome: Outcome,
}

/// Applies a policy to a trace.
pub fn simulate(trace: &Trace, policy: &Policy, model: Model) -> Outcome {
    let names = trace.functions();
    let mut simulation = Simulation {
        trace,
        policy,
        model,
        instances: Vec::new(),
        idle: vec![Vec::new(); names.len()],
        alive: vec![0; names.len()],
        waiting: VecDeque::new(),
        events: BinaryHeap::new(),
        outcome: Outcome::default(),
        names,
    };
    simulation.run();
    simulation.outcome
}

fn moment(seconds: f64) -> Moment {
    (seconds * 1e9).round() as Moment
}

impl Simulation<'_> {
    fn run(&mut self) {
        for function in 0..self.names.len() {
            for _ in 0..self.policy.min_instances {
                let instance = self.create(function, 0);
                self.instances[instance].state = State::Idle { since: 0 };
                self.idle[function].push(instance);
            }
        }
        for (request, invocation) in self.trace.0.iter().enumerate() {
            self.events.push(Reverse((moment(invocation.time_s), Event::Arrival { request })));
        }
        while let Some(Reverse((now, event))) = self.events.pop() {
            match event {
                Event::Arrival { request } => {
                    self.waiting.push_back(request);
                    self.serve(now);
                }
                Event::Done { instance } => {
                    self.rest(instance, now);
                    self.serve(now);
                }
                Event::Expire { instance, idle_since } => {
                    let is_same = self.instances[instance].state == State::Idle { since: idle_since };
                    if is_same && self.alive[self.instances[instance].function] > self.policy.min_instances {
                        self.end(instance, now);
                    }
                }
            }
        }
        let end = moment(self.model.length_s);
        for instance in 0..self.instances.len() {
            if self.instances[instance].state != State::Ended {
                self.end(instance, end);
            }
        }
    }

    /// Returns the place of a request's function.
    fn function_of(&self, request: usize) -> usize {
        self.names.binary_search(&self.trace.0[request].function).unwrap_or_default()
    }

    /// Serves the requests that can be served, in their order.
    fn serve(&mut self, now: Moment) {
        for _ in 0..self.waiting.len() {
            let Some(request) = self.waiting.pop_front() else { return };
            let function = self.function_of(request);
            if let Some(instance) = self.idle[function].pop() {
                self.begin(instance, request, false, now);
            } else if self.make_room(now) {
                let instance = self.create(function, now);
                self.begin(instance, request, true, now);
            } else {
                self.waiting.push_back(request);
            }
        }
    }

    fn create(&mut self, function: usize, now: Moment) -> usize {
        self.alive[function] += 1;
        self.instances.push(Instance { function, state: State::Busy, born: now, busy_since: now, busy: 0 });
        self.instances.len() - 1
    }

    /// Ends idle instances until the budget has room for one more. Returns whether it has.
    fn make_room(&mut self, now: Moment) -> bool {
        let Some(budget) = self.policy.budget else { return true };
        let most = (budget as f64 / self.model.memory_mib) as u32;
        while self.alive.iter().sum::<u32>() >= most {
            let longest =
                self.idle.iter().enumerate().filter(|(function, _)| self.alive[*function] > self.policy.min_instances);
            let since = |instance: usize| match self.instances[instance].state {
                State::Idle { since } => since,
                _ => Moment::MAX,
            };
            let longest = longest.filter_map(|(_, idle)| idle.first().copied()).min_by_key(|instance| since(*instance));
            match longest {
                Some(instance) => self.end(instance, now),
                None => return false,
            }
        }
        true
    }

    /// Lets an instance serve a request. A cold one has to start before.
    fn begin(&mut self, instance: usize, request: usize, is_cold: bool, now: Moment) {
        let invocation = &self.trace.0[request];
        let start_s = if is_cold { self.model.start_s } else { 0.0 };
        let done = now + moment(start_s + invocation.duration_ms / 1000.0);
        let one = &mut self.instances[instance];
        (one.state, one.busy_since) = (State::Busy, now);
        let counts = self.outcome.by_function.entry(invocation.function.clone()).or_default();
        counts.0 += u64::from(is_cold);
        counts.1 += 1;
        if invocation.duration_ms > 0.0 {
            let response = (done - moment(invocation.time_s)) as f64 / 1e6;
            self.outcome.slowdowns.push(response / invocation.duration_ms);
        }
        self.events.push(Reverse((done, Event::Done { instance })));
    }

    /// Makes an instance idle.
    fn rest(&mut self, instance: usize, now: Moment) {
        let end = moment(self.model.length_s);
        let one = &mut self.instances[instance];
        one.busy += now.min(end) - one.busy_since.min(end);
        one.state = State::Idle { since: now };
        self.idle[one.function].push(instance);
        let kept = moment(self.policy.keepalive + self.policy.keep_paused);
        self.events.push(Reverse((now + kept, Event::Expire { instance, idle_since: now })));
    }

    /// Ends an instance, and sums up its memory within the length of the trace.
    fn end(&mut self, instance: usize, now: Moment) {
        let end = moment(self.model.length_s);
        let one = &mut self.instances[instance];
        if one.state == State::Busy {
            one.busy += now.min(end) - one.busy_since.min(end);
        }
        one.state = State::Ended;
        let lived = now.min(end) - one.born.min(end);
        let (function, busy) = (one.function, one.busy);
        self.alive[function] -= 1;
        self.idle[function].retain(|other| *other != instance);
        let memory = |time: Moment| time as f64 / 1e9 * self.model.memory_mib;
        self.outcome.memory_mib_s += memory(lived);
        self.outcome.idle_mib_s += memory(lived - busy.min(lived));
    }
}
