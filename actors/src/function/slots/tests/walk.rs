//! Random sequences of slot table operations, compared with a model that recounts everything after each one.

use std::collections::BTreeMap;

use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};

use super::*;
use crate::seeds::for_each_seed;

const QUEUE: usize = 4;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEP_PAUSED: Duration = Duration::from_secs(100);

/// What the model knows of an instance.
#[derive(Debug, Clone)]
struct Modelled {
    endpoint: Arc<Endpoint>,
    in_flight: usize,
    served: u64,
    retired: bool,
    /// The step in which it last got a free slot; the highest is taken first.
    free_since: u64,
    since: Instant,
    notify: bool,
    idle_check: Option<Instant>,
    pause: PauseState,
}

impl Modelled {
    fn capacity(&self) -> usize {
        self.endpoint.spec.concurrent_requests.get()
    }

    fn runs(&self) -> bool {
        matches!(self.pause, PauseState::Running | PauseState::Unpausable)
    }

    fn is_waking(&self) -> bool {
        !self.retired && matches!(self.pause, PauseState::Waking { .. })
    }

    fn has_free_slot(&self) -> bool {
        !self.retired && self.runs() && self.in_flight < self.capacity()
    }
}

struct Walk {
    random: StdRng,
    slots: Slots,
    model: BTreeMap<InstanceId, Modelled>,
    waiting: usize,
    /// Of the spec in force.
    revision: u64,
    /// The instances of all leases; some of these instances may have been removed.
    leases: Vec<InstanceId>,
    now: Instant,
    steps: u64,
}

impl Walk {
    fn begin(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            slots: Slots::new(open(QUEUE)),
            model: BTreeMap::new(),
            waiting: 0,
            revision: 1,
            leases: Vec::new(),
            now: *START,
            steps: 0,
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        self.now += Duration::from_secs(self.random.random_range(0..30));
        match self.random.random_range(0..32) {
            0..=1 => self.add(),
            2..=7 => self.acquire(),
            8..=9 => self.serve(),
            10..=14 => self.release(),
            15 => self.leave_queue(),
            16..=17 => self.expire(),
            22..=23 => self.wake_next(),
            24..=26 => self.resumed(),
            27..=28 => self.resume(),
            29 => self.stop_waking(),
            30 => self.pause_idle(),
            31 => self.paused_externally(),
            18 => self.retire(),
            19 => self.retire_idle(),
            20 if self.random.random_bool(0.1) => self.configure(),
            _ => self.remove(),
        }
        self.check();
    }

    fn expected_pick(&self, revision: u64) -> Option<InstanceId> {
        let accepted = self.model.iter().filter(|(_, m)| m.has_free_slot() && m.endpoint.revision >= revision);
        accepted.max_by_key(|(_, m)| m.free_since).map(|(id, _)| *id)
    }

    fn picked(&mut self, expected: InstanceId, endpoint: &Endpoint, fresh: bool) {
        assert_eq!(endpoint.instance, expected, "another one was used more recently");
        let modelled = self.model.get_mut(&expected).expect("it was picked from the model");
        assert_eq!(fresh, modelled.served == 0);
        if modelled.in_flight == 0 {
            modelled.since = self.now;
        }
        modelled.in_flight += 1;
        modelled.served += 1;
        modelled.retired |= modelled.endpoint.spec.single_use;
        self.leases.push(expected);
    }

    fn add(&mut self) {
        let keys = ["", "single-use = true", "concurrent-requests = 3", "min-instances = 2"].choose(&mut self.random);
        let keep_paused = if self.random.random() { "keep-paused = 100\n" } else { "" };
        let keys = format!("{keep_paused}{}", keys.expect("there are some"));
        let endpoint = endpoint(&keys, self.random.random_range(1..4));
        self.slots.add(endpoint.clone(), self.now);
        let modelled = Modelled {
            endpoint: endpoint.clone(),
            in_flight: 0,
            served: 0,
            retired: false,
            free_since: self.steps,
            since: self.now,
            notify: false,
            idle_check: Some(self.now + KEEPALIVE),
            pause: PauseState::Running,
        };
        self.model.insert(endpoint.instance, modelled);
    }

    fn acquire(&mut self) {
        let expected = if self.waiting == 0 { self.expected_pick(self.revision) } else { None };
        match (self.slots.acquire(self.now, full), expected) {
            (Acquired::Slot { endpoint, fresh }, Some(id)) => self.picked(id, &endpoint, fresh),
            (Acquired::Queued, None) if self.waiting < QUEUE => self.waiting += 1,
            (Acquired::Refused(Refusal::Saturated { waiting, .. }), None) => {
                assert_eq!((waiting, self.waiting), (QUEUE, QUEUE))
            }
            (acquired, expected) => panic!("{acquired:?}, expected {expected:?}"),
        }
    }

    /// Serves the head of the queue.
    fn serve(&mut self) {
        if self.waiting == 0 {
            return;
        }
        let revision = self.random.random_range(0..4);
        match (self.slots.take_ready(revision, self.now), self.expected_pick(revision)) {
            (Some((endpoint, fresh)), Some(id)) => {
                assert!(endpoint.revision >= revision);
                self.picked(id, &endpoint, fresh);
                self.slots.leave_queue();
                self.waiting -= 1;
            }
            (None, None) => {}
            (taken, expected) => panic!("{taken:?}, expected {expected:?}"),
        }
    }

    fn release(&mut self) {
        let Some(position) = (0..self.leases.len()).choose(&mut self.random) else { return };
        let id = self.leases.swap_remove(position);
        let reusable = self.random.random_bool(0.9);
        let released = self.slots.release(id, reusable, self.now);
        let Some(modelled) = self.model.get_mut(&id) else {
            assert_eq!(released, Released::Free, "the instance was removed");
            return;
        };
        let had_free_slot = modelled.has_free_slot();
        modelled.in_flight -= 1;
        modelled.retired |= !reusable;
        if !had_free_slot && modelled.has_free_slot() {
            modelled.free_since = self.steps;
        }
        let idle = modelled.in_flight == 0;
        if idle {
            modelled.since = self.now;
        }
        let expected = match (modelled.retired, idle) {
            (true, true) => Released::Drained,
            (true, false) => Released::Free,
            (false, true) if std::mem::take(&mut modelled.notify) => Released::Idle,
            (false, _) if self.waiting > 0 => Released::HasWaiters,
            (false, _) => Released::Free,
        };
        assert_eq!(released, expected);
        if released == Released::Idle {
            modelled.idle_check = Some(self.now + KEEPALIVE);
        }
    }

    fn leave_queue(&mut self) {
        if self.waiting > 0 {
            self.slots.leave_queue();
            self.waiting -= 1;
        }
    }

    fn any_instance(&mut self) -> Option<InstanceId> {
        self.model.keys().copied().choose(&mut self.random)
    }

    fn usable(&self, revision: u64) -> usize {
        let counts = |m: &&Modelled| !m.retired && m.endpoint.revision >= revision && m.pause != PauseState::Paused;
        self.model.values().filter(counts).count()
    }

    fn expire(&mut self) {
        let is_due = |m: &Modelled| !m.retired && m.idle_check.is_some_and(|check| check <= self.now);
        let mut due: Vec<_> = self.model.iter().filter(|(_, m)| is_due(m)).map(|(id, m)| (m.since, *id)).collect();
        due.sort();
        let mut expected = Expired::default();
        for (_, id) in due {
            let kept = self.usable(self.model[&id].endpoint.revision);
            let modelled = self.model.get_mut(&id).expect("it is in the model");
            let over = modelled.since + KEEPALIVE;
            match modelled.in_flight {
                0 if modelled.pause == PauseState::Paused && self.waiting > 0 => {
                    modelled.idle_check = Some(self.now + Duration::from_secs(1))
                }
                0 if modelled.pause == PauseState::Paused => {
                    modelled.retired = true;
                    expected.retired.push(id);
                }
                0 if over > self.now => modelled.idle_check = Some(over),
                0 if self.waiting > 0 || kept <= modelled.endpoint.spec.min_instances => {
                    modelled.idle_check = Some(self.now + KEEPALIVE)
                }
                0 if modelled.pause == PauseState::Running && !modelled.endpoint.spec.keep_paused.is_zero() => {
                    modelled.pause = PauseState::Paused;
                    modelled.idle_check = Some(self.now + KEEP_PAUSED);
                    expected.paused.push(id);
                }
                0 => {
                    modelled.retired = true;
                    expected.retired.push(id);
                }
                _ => {
                    modelled.idle_check = None;
                    modelled.notify = true;
                }
            }
        }
        assert_eq!(self.slots.expire(self.now, None), expected);
    }

    /// Wakes the paused instance that was used last.
    fn wake_next(&mut self) {
        let is_resumable =
            |m: &Modelled| !m.retired && m.pause == PauseState::Paused && m.endpoint.revision >= self.revision;
        let paused = self.model.iter().filter(|(_, m)| is_resumable(m));
        let expected = paused.max_by_key(|(id, m)| (m.since, **id)).map(|(id, _)| *id);
        assert_eq!(self.slots.wake_next(self.revision, self.now), expected);
        if let Some(modelled) = expected.and_then(|id| self.model.get_mut(&id)) {
            (modelled.pause, modelled.idle_check) = (PauseState::Waking { since: self.now }, None);
        }
    }

    /// Resumes an instance that has its memory, or is not wanted any more.
    fn resume(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        let since = match modelled.pause {
            PauseState::Waking { since } if !modelled.retired => Some(since),
            _ => None,
        };
        assert_eq!(self.slots.resume(id), since);
        if since.is_some() {
            modelled.pause = PauseState::Resuming;
        }
    }

    fn stop_waking(&mut self) {
        let count = self.random.random_range(1..3);
        let mut waking: Vec<_> =
            self.model.iter().filter(|(_, m)| m.is_waking()).map(|(id, m)| (m.since, *id)).collect();
        waking.sort();
        let expected: Vec<_> = waking.into_iter().map(|(_, id)| id).take(count).collect();
        for id in &expected {
            let modelled = self.model.get_mut(id).expect("it is in the model");
            modelled.pause = PauseState::Paused;
            modelled.idle_check = Some(self.now + modelled.endpoint.spec.keep_paused);
        }
        assert_eq!(self.slots.stop_waking(count, self.now), expected);
    }

    /// Notes that an instance was resumed, or could not be paused. The message may come late or more than once.
    fn resumed(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let is_pausable = self.random.random_bool(0.8);
        self.slots.resumed(id, is_pausable, self.now);
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        if modelled.runs() {
            return;
        }
        modelled.pause = if is_pausable { PauseState::Running } else { PauseState::Unpausable };
        if is_pausable {
            modelled.since = self.now;
        }
        modelled.idle_check = Some(modelled.since + KEEPALIVE);
        modelled.free_since = self.steps;
    }

    /// Notes that another program has paused an instance. The message may come late.
    fn paused_externally(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        let is_busy = modelled.in_flight > 0;
        assert_eq!(self.slots.paused_externally(id, self.now), modelled.runs() && is_busy);
        if modelled.runs() && !is_busy {
            modelled.pause = PauseState::Paused;
            let until = self.now.max(modelled.since + KEEPALIVE);
            modelled.idle_check = Some(until + modelled.endpoint.spec.keep_paused);
        }
    }

    fn retire(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        modelled.retired = true;
        assert_eq!(self.slots.retire(id), modelled.in_flight);
    }

    /// The instances that are idle, without those that the minimum needs.
    fn expected_idle(&self) -> Vec<InstanceId> {
        let comes = |m: &Modelled| matches!(m.pause, PauseState::Waking { .. } | PauseState::Resuming);
        let is_idle = |m: &Modelled| !m.retired && m.in_flight == 0 && !comes(m);
        let mut idle: Vec<_> = self.model.iter().filter(|(_, m)| is_idle(m)).collect();
        idle.sort_by_key(|(id, m)| (m.since, **id));
        if self.waiting > 0 {
            // What is paused makes room for what wakes.
            let wakes = self.model.values().any(Modelled::is_waking);
            idle.retain(|(_, m)| wakes && m.pause == PauseState::Paused);
            return idle.into_iter().map(|(id, _)| *id).collect();
        }
        let mut kept = self.usable(self.revision);
        idle.retain(|(_, m)| {
            let counts = m.endpoint.revision >= self.revision
                && m.endpoint.spec.min_instances > 0
                && m.pause != PauseState::Paused;
            let needed = counts && kept <= m.endpoint.spec.min_instances;
            kept -= usize::from(counts && !needed);
            !needed
        });
        idle.into_iter().map(|(id, _)| *id).collect()
    }

    fn retire_idle(&mut self) {
        let expected = self.expected_idle();
        let idle: Vec<_> = self.slots.idle_instances().iter().map(|idle| idle.instance).collect();
        assert_eq!(idle, expected);
        if self.random.random() {
            self.slots.notify_when_idle();
            for modelled in self.model.values_mut() {
                modelled.notify |= !modelled.retired && (self.waiting > 0 || modelled.in_flight > 0);
            }
        }
        let Some(id) = self.any_instance() else { return };
        assert_eq!(self.slots.retire_idle(id), expected.contains(&id));
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        modelled.retired |= expected.contains(&id);
    }

    /// Pauses an instance for other functions.
    fn pause_idle(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let expected = self.expected_idle();
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        let is_pausable = modelled.pause == PauseState::Running && !modelled.endpoint.spec.keep_paused.is_zero();
        let is_paused = is_pausable && expected.contains(&id);
        assert_eq!(self.slots.pause_idle(id, self.now), is_paused);
        if is_paused {
            (modelled.pause, modelled.idle_check) = (PauseState::Paused, Some(self.now + KEEP_PAUSED));
        }
    }

    fn configure(&mut self) {
        self.revision = self.random.random_range(0..4);
        self.slots.configure(open(QUEUE), self.revision);
    }

    fn remove(&mut self) {
        let Some(id) = self.any_instance() else { return };
        self.slots.remove(id);
        self.model.remove(&id);
    }

    fn check(&self) {
        assert_eq!(self.slots.waiting(), self.waiting);
        let useful = || self.model.values().filter(|m| !m.retired);
        assert_eq!(self.slots.capacity(), useful().map(Modelled::capacity).sum::<usize>());
        assert_eq!(self.slots.next_idle_check(), useful().filter_map(|m| m.idle_check).min());
        for revision in 0..4 {
            assert_eq!(self.slots.usable(revision), self.usable(revision));
            let paused = useful().filter(|m| m.pause == PauseState::Paused && m.endpoint.revision >= revision);
            assert_eq!(self.slots.paused(revision), paused.count());
        }
        let (waking, resuming) =
            (useful().filter(|m| m.is_waking()), useful().filter(|m| m.pause == PauseState::Resuming));
        assert_eq!((self.slots.waking(), self.slots.resuming()), (waking.count(), resuming.count()));
        for (id, modelled) in &self.model {
            let held = self.leases.iter().filter(|lease| *lease == id).count();
            let occupancy = self.slots.occupancy(*id).expect("it is in the table");
            assert_eq!((occupancy.in_flight, occupancy.served), (held, modelled.served));
            assert_eq!(occupancy.since, modelled.since);
            assert!(held == 0 || modelled.runs(), "a paused instance serves a request");
            assert!(held <= modelled.capacity(), "more requests at once than the instance takes");
            assert!(!modelled.endpoint.spec.single_use || modelled.served <= 1, "a single-use instance was used again");
        }
    }
}

#[test]
fn the_table_agrees_with_a_recount_after_every_operation() {
    for_each_seed(1_000, |seed| {
        let mut walk = Walk::begin(seed);
        for _ in 0..100 {
            walk.step();
        }
    });
}
