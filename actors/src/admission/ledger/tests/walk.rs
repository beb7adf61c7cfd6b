//! Random sequences of everything that can be done to the ledger, against a model that recounts everything each time.

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
    returning: bool,
    stuck: bool,
}

/// What the model knows of a place in the queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    function: FunctionKey,
    request: StartRequest,
    /// Counts from when it came to wait.
    came: u64,
    notified: bool,
}

struct Walk {
    random: StdRng,
    ledger: Ledger,
    held: Vec<Held>,
    queue: Vec<Waiting>,
    served: HashMap<FunctionKey, Instant>,
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
            served: HashMap::new(),
            steps: 0,
            now: at(0),
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        self.now += Duration::from_millis(self.random.random_range(0..3_000));
        match self.random.random_range(0..17) {
            0..=6 => self.ask(),
            7 => self.withdraw(),
            8..=9 => self.start(),
            10 => self.end(),
            11..=13 => self.release(),
            14 => self.choose(),
            15 => self.get_stuck(),
            _ => self.tell(),
        }
        self.check();
    }

    fn free(&self) -> u64 {
        LIMITS.memory - self.held.iter().map(|held| held.memory).sum::<u64>()
    }

    fn starting(&self, kind: StartKind) -> usize {
        self.held.iter().filter(|held| held.starting == Some(kind)).count()
    }

    /// The queue in its order, with what is left of memory and starts for each: as if all before it had theirs.
    fn lined_up(&self) -> Vec<(Waiting, Option<u64>, bool)> {
        let mut queue = self.queue.clone();
        queue.sort_by_key(|place| (place.request.urgency, place.came));
        let mut blocked = false;
        let mut line = Vec::new();
        for (index, place) in queue.iter().enumerate() {
            let claimed: u64 = queue[..index].iter().map(|before| before.request.memory).sum();
            let left = self.free().checked_sub(claimed).filter(|_| !blocked);
            blocked |= left.is_none_or(|left| left < place.request.memory);
            let before = queue[..index].iter().filter(|before| before.request.kind == place.request.kind).count();
            let bound = if place.request.kind == Process { LIMITS.process_starts } else { LIMITS.starts };
            line.push((*place, left, self.starting(place.request.kind) + before < bound));
        }
        line
    }

    fn admissible(&self) -> Vec<FunctionKey> {
        let may = |(place, left, starts): &(Waiting, Option<u64>, bool)| {
            (left.is_some_and(|left| left >= place.request.memory) && *starts).then_some(place.function)
        };
        self.lined_up().iter().filter_map(may).collect()
    }

    fn ask(&mut self) {
        let function = self.random.random_range(0..FUNCTIONS);
        let kind = if self.random.random() { Process } else { Isolated };
        let memory = *[100, 128, 300, 700, 1000, 1001].choose(&mut self.random).expect("there are some");
        let since = self.now - Duration::from_millis(self.random.random_range(0..20_000));
        let urgency = if self.random.random_bool(0.8) { Urgency::Caller(since) } else { Urgency::Minimum };
        let request = StartRequest { memory, kind, urgency };
        let instance = InstanceId::random();
        let decision = self.ledger.ask(function, instance, request, self.now);

        let place = self.queue.iter().position(|place| place.function == function);
        let came = place.map_or(self.steps, |index| self.queue.remove(index).came);
        if memory > LIMITS.memory {
            return assert_eq!(decision, Decision::Never);
        }
        let urgency = match (urgency, self.served.get(&function)) {
            (Urgency::Caller(since), Some(served)) => Urgency::Caller(since.max(*served)),
            (urgency, _) => urgency,
        };
        self.queue.push(Waiting { function, request: StartRequest { urgency, ..request }, came, notified: false });
        if self.admissible().contains(&function) {
            assert_eq!(decision, Decision::Granted);
            self.queue.pop();
            self.served.insert(function, self.now);
            self.held.push(Held { instance, function, memory, starting: Some(kind), returning: false, stuck: false });
        } else {
            assert_eq!(decision, Decision::Queued);
        }
    }

    fn withdraw(&mut self) {
        let function = self.random.random_range(0..FUNCTIONS);
        self.queue.retain(|place| place.function != function);
        if self.random.random() {
            self.ledger.withdraw(function);
        } else {
            self.ledger.forget(function);
            self.served.remove(&function);
        }
    }

    fn any(&mut self) -> Option<usize> {
        (0..self.held.len()).choose(&mut self.random)
    }

    fn start(&mut self) {
        let Some(index) = self.any() else { return };
        self.ledger.started(self.held[index].instance, self.now);
        self.held[index].starting = None;
    }

    fn end(&mut self) {
        let Some(index) = self.any() else { return };
        self.ledger.returning(self.held[index].instance, self.now);
        self.held[index].starting = None;
        self.held[index].returning = !self.held[index].stuck;
    }

    fn get_stuck(&mut self) {
        let Some(index) = self.any() else { return };
        self.ledger.stuck(self.held[index].instance, self.now);
        self.held[index] = Held { starting: None, returning: false, stuck: true, ..self.held[index] };
    }

    fn release(&mut self) {
        let Some(index) = self.any() else { return };
        let held = self.held.swap_remove(index);
        self.ledger.released(held.instance, self.now);
    }

    fn tell(&mut self) {
        let admissible = self.admissible();
        let mut expected = Vec::new();
        for function in admissible {
            let place = self.queue.iter_mut().find(|place| place.function == function).expect("it is in the queue");
            if !std::mem::replace(&mut place.notified, true) {
                expected.push(function);
            }
        }
        assert_eq!(self.ledger.take_notifications(), expected);
    }

    /// Of all ways to make the room, the one that the rules name.
    fn choose(&mut self) {
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
            if held.returning || held.stuck { 0 } else { held.memory }
        };
        let victims = self.ledger.victims(missing, idle.clone());
        let sum = |instances: &[InstanceId]| instances.iter().map(size).sum::<u64>();
        let all: Vec<_> = idle.iter().map(|spare| spare.instance).collect();
        if sum(&all) < missing {
            return assert_eq!(victims, []);
        }
        assert!(sum(&victims) >= missing, "not enough");
        for spared in &victims {
            let rest: Vec<_> = victims.iter().copied().filter(|victim| victim != spared).collect();
            assert!(sum(&rest) < missing, "one of them was not necessary");
        }
        let idle_since = |instance: &InstanceId| idle.iter().find(|spare| spare.instance == *instance);
        let latest = victims.iter().filter_map(idle_since).map(|spare| spare.idle_since).max().expect("there are some");
        let before = idle.iter().filter(|spare| spare.idle_since < latest).map(|spare| spare.instance);
        assert!(sum(&before.collect::<Vec<_>>()) < missing, "those that were idle longer would have done");
    }

    fn check(&self) {
        let ledger = &self.ledger;
        assert_eq!((ledger.free(), ledger.free() + ledger.taken()), (self.free(), LIMITS.memory));
        assert_eq!(ledger.starting, [Process, Isolated].map(|kind| self.starting(kind)));
        assert!(ledger.starting[0] <= LIMITS.process_starts && ledger.starting[1] <= LIMITS.starts);
        assert_eq!(ledger.waiting(), self.queue.len());
        assert_eq!(ledger.admissible(), self.admissible());
        let returning: u64 = self.held.iter().filter(|held| held.returning).map(|held| held.memory).sum();
        assert_eq!(ledger.returning, returning);
        assert_eq!(ledger.is_empty(), self.held.iter().all(|held| held.stuck));
        assert_eq!(ledger.holders(), self.held.iter().map(|held| held.function).collect());

        let line = self.lined_up();
        let short = line.iter().find(|(place, left, _)| left.is_none_or(|left| left < place.request.memory));
        let expected = short.and_then(|(place, left, starts)| {
            let missing = place.request.memory.saturating_sub(left.unwrap_or(0) + returning);
            (missing > 0 && *starts).then_some(Shortage { function: place.function, missing })
        });
        assert_eq!(ledger.shortage(), expected);
        for place in &self.queue {
            assert!(ledger.wait_reason(place.function, self.now).is_some());
        }
    }
}

#[test]
fn whatever_happens_the_ledger_agrees_with_a_recount() {
    for_each_seed(1_000, |seed| {
        let mut walk = Walk::begin(seed);
        for _ in 0..150 {
            walk.step();
        }
    });
}
