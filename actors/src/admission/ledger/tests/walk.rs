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
    memory: u64,
    starting: Option<StartKind>,
    stopping: bool,
    stuck: bool,
}

/// What the model knows of a request in the queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    function: FunctionKey,
    request: StartRequest,
    /// The step in which it entered the queue.
    arrival: u64,
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
        match self.random.random_range(0..20) {
            0..=6 => self.request(),
            7 => self.withdraw(),
            8..=9 => self.set_started(),
            10 => self.set_stopping(),
            11..=13 => self.release(),
            14 => self.select_victims(),
            15 => self.set_stuck(),
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
        queue.sort_by_key(|waiting| (waiting.request.urgency, waiting.arrival));
        let mut blocked = false;
        let mut line = Vec::new();
        for (index, waiting) in queue.iter().enumerate() {
            let claimed: u64 = queue[..index].iter().map(|before| before.request.memory).sum();
            let left = self.free().checked_sub(claimed).filter(|_| !blocked);
            blocked |= left.is_none_or(|left| left < waiting.request.memory);
            let before = queue[..index].iter().filter(|before| before.request.kind == waiting.request.kind).count();
            let bound = if waiting.request.kind == Process { LIMITS.process_starts } else { LIMITS.starts };
            line.push((*waiting, left, self.starting(waiting.request.kind) + before < bound));
        }
        line
    }

    fn admissible(&self) -> Vec<FunctionKey> {
        let admissible = |(waiting, left, starts): &(Waiting, Option<u64>, bool)| {
            (left.is_some_and(|left| left >= waiting.request.memory) && *starts).then_some(waiting.function)
        };
        self.lined_up().iter().filter_map(admissible).collect()
    }

    fn request(&mut self) {
        let function = self.random.random_range(0..FUNCTIONS);
        let kind = if self.random.random() { Process } else { Isolated };
        let memory = *[100, 128, 300, 700, 1000, 1001].choose(&mut self.random).expect("there are some");
        let since = self.now - Duration::from_millis(self.random.random_range(0..20_000));
        let urgency = if self.random.random_bool(0.8) { Urgency::Caller(since) } else { Urgency::Minimum };
        let request = StartRequest { memory, kind, urgency };
        let result = self.ledger.request(function, request);

        let earlier = self.queue.iter().position(|waiting| waiting.function == function);
        let arrival = earlier.map_or(self.steps, |index| self.queue.remove(index).arrival);
        assert_eq!(result.is_err(), memory > LIMITS.memory);
        if result.is_ok() {
            let urgency = match (urgency, self.admitted.get(&function)) {
                (Urgency::Caller(since), Some(admitted)) => Urgency::Caller(since.max(*admitted)),
                (urgency, _) => urgency,
            };
            self.queue.push(Waiting { function, request: StartRequest { urgency, ..request }, arrival });
        }
    }

    fn admit(&mut self) {
        let expected = self.admissible().first().copied();
        let admitted = self.ledger.admit_next(self.now);
        assert_eq!(admitted.map(|admitted| admitted.function), expected);
        let Some(Admitted { function, instance, kind }) = admitted else { return };
        let position = self.queue.iter().position(|waiting| waiting.function == function).expect("it is in the queue");
        let StartRequest { memory, kind: requested, .. } = self.queue.remove(position).request;
        assert_eq!(kind, requested);
        self.admitted.insert(function, self.now);
        self.held.push(Held { instance, function, memory, starting: Some(kind), stopping: false, stuck: false });
    }

    fn withdraw(&mut self) {
        let function = self.random.random_range(0..FUNCTIONS);
        self.queue.retain(|waiting| waiting.function != function);
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
        self.held[index].stopping = !self.held[index].stuck;
    }

    fn set_stuck(&mut self) {
        let Some(index) = self.any() else { return };
        self.ledger.set_stuck(self.held[index].instance, self.now);
        self.held[index] = Held { starting: None, stopping: false, stuck: true, ..self.held[index] };
    }

    fn release(&mut self) {
        let Some(index) = self.any() else { return };
        let held = self.held.swap_remove(index);
        self.ledger.release(held.instance, self.now);
    }

    /// Checks the selection against the rules: enough, none unnecessary, the longest idle ones.
    fn select_victims(&mut self) {
        let missing = self.random.random_range(1..900);
        let mut idle = Vec::new();
        for held in &self.held {
            if self.random.random_bool(0.7) {
                let idle_since = at(0) + Duration::from_secs(self.random.random_range(0..1_000));
                idle.push(IdleInstance { instance: held.instance, idle_since });
            }
        }
        let size = |instance: &InstanceId| {
            let held = self.held.iter().find(|held| held.instance == *instance).expect("it is held");
            if held.stopping || held.stuck { 0 } else { held.memory }
        };
        let victims = self.ledger.select_victims(missing, idle.clone());
        let sum = |instances: &[InstanceId]| instances.iter().map(size).sum::<u64>();
        let all: Vec<_> = idle.iter().map(|idle| idle.instance).collect();
        if sum(&all) < missing {
            return assert_eq!(victims, []);
        }
        assert!(sum(&victims) >= missing, "not enough");
        for kept in &victims {
            let rest: Vec<_> = victims.iter().copied().filter(|victim| victim != kept).collect();
            assert!(sum(&rest) < missing, "a victim was unnecessary");
        }
        let idle_since = |instance: &InstanceId| idle.iter().find(|idle| idle.instance == *instance);
        let latest = victims.iter().filter_map(idle_since).map(|idle| idle.idle_since).max().expect("there are some");
        let before = idle.iter().filter(|idle| idle.idle_since < latest).map(|idle| idle.instance);
        assert!(sum(&before.collect::<Vec<_>>()) < missing, "the longer idle ones would have sufficed");
    }

    fn check(&self) {
        let ledger = &self.ledger;
        assert_eq!((ledger.free(), ledger.free() + ledger.taken()), (self.free(), LIMITS.memory));
        assert_eq!(ledger.starting, [Process, Isolated].map(|kind| self.starting(kind)));
        assert!(ledger.starting[0] <= LIMITS.process_starts && ledger.starting[1] <= LIMITS.starts);
        assert_eq!(ledger.waiting(), self.queue.len());
        let stopping: u64 = self.held.iter().filter(|held| held.stopping).map(|held| held.memory).sum();
        assert_eq!(ledger.stopping, stopping);
        assert_eq!(ledger.is_empty(), self.held.iter().all(|held| held.stuck));
        assert_eq!(ledger.holders(), self.held.iter().map(|held| held.function).collect());

        let line = self.lined_up();
        let short = line.iter().find(|(waiting, left, _)| left.is_none_or(|left| left < waiting.request.memory));
        let expected = short.and_then(|(waiting, left, starts)| {
            let missing = waiting.request.memory.saturating_sub(left.unwrap_or(0) + stopping);
            (missing > 0 && *starts).then_some(Shortage { function: waiting.function, missing })
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
