//! Random sequences of ledger operations, compared with a model that recounts everything after each one.

use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};

use super::*;
use crate::seeds::for_each_seed;

const LIMITS: HostLimits = HostLimits { memory: 1000, process_starts: 2, starts: 3 };
const FUNCTIONS: u64 = 6;

/// What the model knows of an instance.
#[derive(Debug, Clone, Copy)]
struct Held {
    instance: InstanceId,
    function: FunctionKey,
    /// What it is charged.
    memory: u64,
    declared: u64,
    /// What is expected back of that, unless it is ending.
    releasing: u64,
    starting: Option<StartKind>,
    stopping: bool,
    stuck: bool,
}

/// What the model knows of a request in the queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    function: FunctionKey,
    /// The paused instance that is to run again. `None`: a new one is to start.
    instance: Option<InstanceId>,
    memory: u64,
    kind: StartKind,
    urgency: Urgency,
    /// The step in which it entered the queue.
    arrival: u64,
}

impl Waiting {
    fn is_start(&self, kind: StartKind) -> bool {
        self.instance.is_none() && self.kind == kind
    }
}

impl Held {
    fn is_started(&self) -> bool {
        self.starting.is_none() && !self.stopping && !self.stuck
    }
}

struct Walk {
    random: StdRng,
    ledger: Ledger,
    held: Vec<Held>,
    queue: Vec<Waiting>,
    admitted: HashMap<FunctionKey, Instant>,
    steps: u64,
    now: Instant,
}

impl Walk {
    fn begin(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            ledger: Ledger::new(LIMITS),
            held: Vec::new(),
            queue: Vec::new(),
            admitted: HashMap::new(),
            steps: 0,
            now: at(0),
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        self.now += Duration::from_millis(self.random.random_range(0..3_000));
        match self.random.random_range(0..25) {
            0..=6 => self.request(),
            7 => self.withdraw(),
            8..=9 => self.set_started(),
            10 => self.set_stopping(),
            11..=13 => self.release(),
            14 => self.set_pausing(),
            15 => self.set_stuck(),
            20..=21 => self.set_footprint(),
            22..=23 => self.request_wake(),
            24 => self.withdraw_wake(),
            _ => self.admit(),
        }
        self.check();
    }

    fn free(&self) -> u64 {
        LIMITS.memory - self.held.iter().map(|held| held.memory).sum::<u64>()
    }

    fn starting(&self, kind: StartKind) -> usize {
        self.held.iter().filter(|held| held.starting == Some(kind)).count()
    }

    /// Returns the queue in its order. Each request comes with the memory that is left after all before it (`None`: none),
    /// and whether a start is left.
    fn lined_up(&self) -> Vec<(Waiting, Option<u64>, bool)> {
        let mut queue = self.queue.clone();
        queue.sort_by_key(|waiting| (waiting.instance.is_none(), waiting.urgency, waiting.arrival));
        let mut blocked = false;
        let mut line = Vec::new();
        for (index, waiting) in queue.iter().enumerate() {
            let claimed: u64 = queue[..index].iter().map(|before| before.memory).sum();
            let left = self.free().checked_sub(claimed).filter(|_| !blocked);
            blocked |= left.is_none_or(|left| left < waiting.memory);
            let before = queue[..index].iter().filter(|before| before.is_start(waiting.kind)).count();
            let bound = if waiting.kind == Process { LIMITS.process_starts } else { LIMITS.starts };
            let has_start = waiting.instance.is_some() || self.starting(waiting.kind) + before < bound;
            line.push((*waiting, left, has_start));
        }
        line
    }

    fn admissible(&self) -> Option<Waiting> {
        let admissible = |(waiting, left, starts): &(Waiting, Option<u64>, bool)| {
            (left.is_some_and(|left| left >= waiting.memory) && *starts).then_some(*waiting)
        };
        self.lined_up().iter().find_map(admissible)
    }

    fn request(&mut self) {
        let function = self.random.random_range(0..FUNCTIONS);
        let kind = if self.random.random() { Process } else { Isolated };
        let memory = *[100, 128, 300, 700, 1000, 1001].choose(&mut self.random).expect("there are some");
        let since = self.now - Duration::from_millis(self.random.random_range(0..20_000));
        let urgency = if self.random.random_bool(0.8) { Urgency::Caller(since) } else { Urgency::Minimum };
        let request = StartRequest { memory, kind, urgency };
        let result = self.ledger.request(function, request);

        let is_earlier = |waiting: &Waiting| waiting.function == function && waiting.instance.is_none();
        let earlier = self.queue.iter().position(is_earlier);
        let arrival = earlier.map_or(self.steps, |index| self.queue.remove(index).arrival);
        assert_eq!(result.is_err(), memory > LIMITS.memory);
        if result.is_ok() {
            let urgency = match (urgency, self.admitted.get(&function)) {
                (Urgency::Caller(since), Some(admitted)) => Urgency::Caller(since.max(*admitted)),
                (urgency, _) => urgency,
            };
            self.queue.push(Waiting { function, instance: None, memory, kind, urgency, arrival });
        }
    }

    fn admit(&mut self) {
        let (expected, admitted) = (self.admissible(), self.ledger.admit_next(self.now));
        let (expected, admitted) = match (expected, admitted) {
            (Some(expected), Some(admitted)) => (expected, admitted),
            (expected, admitted) => return assert!(expected.is_none() && admitted.is_none(), "{expected:?}"),
        };
        self.queue.retain(|waiting| waiting.arrival != expected.arrival);
        match (admitted, expected.instance) {
            (Admitted::Start(AdmittedStart { function, instance, kind }), None) => {
                assert_eq!((function, kind), (expected.function, expected.kind));
                self.admitted.insert(function, self.now);
                let (memory, starting) = (expected.memory, Some(kind));
                let (declared, releasing, stopping, stuck) = (memory, 0, false, false);
                self.held.push(Held { instance, function, memory, declared, releasing, starting, stopping, stuck });
            }
            (Admitted::Wake { function, instance }, Some(wanted)) => {
                assert_eq!((function, instance), (expected.function, wanted));
                let held = self.held.iter_mut().find(|held| held.instance == instance).expect("it is held");
                held.memory = held.declared;
            }
            (admitted, expected) => panic!("{admitted:?}, expected {expected:?}"),
        }
    }

    fn is_waking(&self, instance: InstanceId) -> bool {
        self.queue.iter().any(|waiting| waiting.instance == Some(instance))
    }

    fn set_footprint(&mut self) {
        let Some(index) = self.any() else { return };
        let (held, memory) = (self.held[index], self.random.random_range(1..800));
        self.ledger.set_footprint(held.instance, memory);
        if held.is_started() && !self.is_waking(held.instance) {
            (self.held[index].memory, self.held[index].releasing) = (memory.min(held.memory), 0);
        }
    }

    fn request_wake(&mut self) {
        let Some(index) = self.any() else { return };
        let held = self.held[index];
        let urgency = if self.random.random() { Urgency::Caller(self.now) } else { Urgency::Minimum };
        self.ledger.request_wake(WakeRequest { instance: held.instance, urgency });
        if held.is_started() {
            let instance = Some(held.instance);
            let earlier = self.queue.iter().position(|waiting| waiting.instance == instance);
            let arrival = earlier.map_or(self.steps, |index| self.queue.remove(index).arrival);
            let memory = held.declared - held.memory;
            self.held[index].releasing = 0;
            self.queue.push(Waiting { function: held.function, instance, memory, kind: Isolated, urgency, arrival });
        }
    }

    fn withdraw_wake(&mut self) {
        let Some(index) = self.any() else { return };
        let instance = self.held[index].instance;
        self.ledger.withdraw_wake(instance);
        self.forget_wake(instance);
    }

    fn forget_wake(&mut self, instance: InstanceId) {
        self.queue.retain(|waiting| waiting.instance != Some(instance));
    }

    fn withdraw(&mut self) {
        let function = self.random.random_range(0..FUNCTIONS);
        self.queue.retain(|waiting| waiting.function != function || waiting.instance.is_some());
        if self.random.random() {
            self.ledger.withdraw(function);
        } else {
            self.ledger.forget(function);
            self.admitted.remove(&function);
        }
    }

    fn any(&mut self) -> Option<usize> {
        (0..self.held.len()).choose(&mut self.random)
    }

    fn set_started(&mut self) {
        let Some(index) = self.any() else { return };
        self.ledger.set_started(self.held[index].instance, self.now);
        self.held[index].starting = None;
    }

    fn set_stopping(&mut self) {
        let Some(index) = self.any() else { return };
        self.ledger.set_stopping(self.held[index].instance, self.now);
        self.held[index].starting = None;
        (self.held[index].stopping, self.held[index].releasing) = (!self.held[index].stuck, 0);
        self.forget_wake(self.held[index].instance);
    }

    fn set_stuck(&mut self) {
        let Some(index) = self.any() else { return };
        self.ledger.set_stuck(self.held[index].instance, self.now);
        self.held[index] = Held { starting: None, releasing: 0, stopping: false, stuck: true, ..self.held[index] };
        self.forget_wake(self.held[index].instance);
    }

    fn release(&mut self) {
        let Some(index) = self.any() else { return };
        let held = self.held.swap_remove(index);
        self.ledger.release(held.instance, self.now);
        self.forget_wake(held.instance);
    }

    /// Checks that exactly what is whole can take steps, and that they release all that it is charged.
    fn check_steps(&self) {
        let delay = Duration::ZERO;
        let pause = Some(Pausable { footprint: 50, delay });
        let idle = |held: &Held| IdleInstance { instance: held.instance, idle_since: at(0), rate: 0.0, pause, delay };
        let steps = self.ledger.steps(self.held.iter().map(idle).collect());
        for held in &self.held {
            let released: u64 = steps.iter().filter(|it| it.instance == held.instance).map(|it| it.releases).sum();
            let is_whole = !held.stopping && !held.stuck && held.releasing == 0;
            assert_eq!(released, if is_whole { held.memory } else { 0 });
        }
    }

    fn set_pausing(&mut self) {
        let Some(index) = self.any() else { return };
        let (footprint, held) = (self.random.random_range(1..200), self.held[index]);
        self.ledger.set_pausing(held.instance, footprint);
        if held.is_started() && held.releasing == 0 {
            self.held[index].releasing = held.memory.saturating_sub(footprint);
        }
    }

    fn check(&self) {
        self.check_steps();
        let ledger = &self.ledger;
        assert_eq!((ledger.free(), ledger.free() + ledger.taken()), (self.free(), LIMITS.memory));
        assert_eq!(ledger.starting, [Process, Isolated].map(|kind| self.starting(kind)));
        assert!(ledger.starting[0] <= LIMITS.process_starts && ledger.starting[1] <= LIMITS.starts);
        let waiting: BTreeSet<_> = self.queue.iter().map(|waiting| waiting.function).collect();
        assert_eq!(ledger.waiting(), waiting.len());
        let releasing = |held: &Held| if held.stopping { held.memory } else { held.releasing };
        let stopping: u64 = self.held.iter().map(releasing).sum();
        assert_eq!(ledger.stopping, stopping);
        assert_eq!(ledger.is_empty(), self.held.iter().all(|held| held.stuck));
        assert_eq!(ledger.holders(), self.held.iter().map(|held| held.function).collect());

        let line = self.lined_up();
        let short = line.iter().find(|(waiting, left, _)| left.is_none_or(|left| left < waiting.memory));
        let expected = short.and_then(|(waiting, left, starts)| {
            let missing = waiting.memory.saturating_sub(left.unwrap_or(0) + stopping);
            let is_wake = waiting.instance.is_some();
            (missing > 0 && *starts).then_some(Shortage { function: waiting.function, missing, is_wake })
        });
        assert_eq!(ledger.shortage(), expected);
        for waiting in &self.queue {
            assert!(ledger.wait_reason(waiting.function, self.now).is_some());
        }
    }
}

#[test]
fn the_ledger_agrees_with_a_recount_after_every_operation() {
    for_each_seed(1_000, |seed| {
        let mut walk = Walk::begin(seed);
        for _ in 0..150 {
            walk.step();
        }
    });
}
