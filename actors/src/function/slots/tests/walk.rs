//! Random sequences of everything that can be done to the table, against a model that recounts everything each time.

use std::collections::BTreeMap;

use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};

use super::*;
use crate::seeds::for_each_seed;

const QUEUE: usize = 4;

/// What the model knows of an instance.
#[derive(Debug, Clone)]
struct Modelled {
    endpoint: Arc<Endpoint>,
    in_flight: usize,
    served: u64,
    retired: bool,
    /// Grows whenever some instance gets room that had none; the highest is taken first.
    room_since: u64,
    since: Instant,
    asked: bool,
}

impl Modelled {
    fn capacity(&self) -> usize {
        self.endpoint.spec.concurrent_requests.get()
    }

    fn has_room(&self) -> bool {
        !self.retired && self.in_flight < self.capacity()
    }
}

struct Walk {
    random: StdRng,
    slots: Slots,
    model: BTreeMap<InstanceId, Modelled>,
    waiting: usize,
    /// Of the spec in force.
    revision: u64,
    /// Instances of the leases that are held; some of the instances may be gone.
    leases: Vec<InstanceId>,
    now: Instant,
    change: u64,
}

impl Walk {
    fn begin(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let slots = Slots::new(open(), QUEUE);
        Self {
            random,
            slots,
            model: BTreeMap::new(),
            waiting: 0,
            revision: 0,
            leases: Vec::new(),
            now: *START,
            change: 0,
        }
    }

    fn step(&mut self) {
        self.change += 1;
        self.now += Duration::from_secs(self.random.random_range(0..30));
        match self.random.random_range(0..22) {
            0..=1 => self.add(),
            2..=7 => self.take(),
            8..=9 => self.serve(),
            10..=14 => self.release(),
            15 => self.leave(),
            16..=17 => self.ask_idleness(),
            18 => self.retire(),
            19 => self.spare(),
            20 if self.random.random_bool(0.1) => self.change(),
            _ => self.remove(),
        }
        self.check();
    }

    fn expected_pick(&self, revision: u64) -> Option<InstanceId> {
        let acceptable = self.model.iter().filter(|(_, m)| m.has_room() && m.endpoint.revision >= revision);
        acceptable.max_by_key(|(_, m)| m.room_since).map(|(id, _)| *id)
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
        let keys = ["", "single-use = true", "concurrent-requests = 3"].choose(&mut self.random);
        let endpoint = endpoint(keys.expect("there are some"), self.random.random_range(1..4));
        self.slots.add(endpoint.clone(), self.now);
        let modelled = Modelled {
            endpoint: endpoint.clone(),
            in_flight: 0,
            served: 0,
            retired: false,
            room_since: self.change,
            since: self.now,
            asked: false,
        };
        self.model.insert(endpoint.instance, modelled);
    }

    fn take(&mut self) {
        let expected = if self.waiting == 0 { self.expected_pick(self.revision) } else { None };
        match (self.slots.take(self.now, full), expected) {
            (Acquired::Slot { endpoint, fresh }, Some(id)) => self.picked(id, &endpoint, fresh),
            (Acquired::Queued, None) if self.waiting < QUEUE => self.waiting += 1,
            (Acquired::Refused(Refusal::Saturated { waiting, .. }), None) => {
                assert_eq!((waiting, self.waiting), (QUEUE, QUEUE))
            }
            (taken, expected) => panic!("{taken:?}, expected {expected:?}"),
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
                self.slots.left_queue();
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
            assert_eq!(released, Released::Free, "the instance is gone");
            return;
        };
        let had_room = modelled.has_room();
        modelled.in_flight -= 1;
        modelled.retired |= !reusable;
        if !had_room && modelled.has_room() {
            modelled.room_since = self.change;
        }
        let idle = modelled.in_flight == 0;
        if idle {
            modelled.since = self.now;
        }
        let expected = match (modelled.retired, idle) {
            (true, true) => Released::Drained,
            (true, false) => Released::Free,
            (false, true) if std::mem::take(&mut modelled.asked) => Released::Idle,
            (false, _) if self.waiting > 0 => Released::HasWaiters,
            (false, _) => Released::Free,
        };
        assert_eq!(released, expected);
    }

    fn leave(&mut self) {
        if self.waiting > 0 {
            self.slots.left_queue();
            self.waiting -= 1;
        }
    }

    fn any_instance(&mut self) -> Option<InstanceId> {
        self.model.keys().copied().choose(&mut self.random)
    }

    fn ask_idleness(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let minimum = self.random.random_range(0..3);
        let revision = self.model[&id].endpoint.revision;
        let kept = self.model.values().filter(|m| !m.retired && m.endpoint.revision >= revision).count();
        let idleness = self.slots.idleness(id, KEEPALIVE, minimum, self.now);
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        let over = modelled.since + KEEPALIVE;
        let expected = match modelled.in_flight {
            0 if over > self.now => Idleness::Until(over),
            0 if self.waiting > 0 || kept <= minimum => Idleness::Needed,
            0 => Idleness::Retired,
            _ => Idleness::Busy,
        };
        assert_eq!(idleness, expected);
        modelled.asked |= idleness == Idleness::Busy;
        modelled.retired |= idleness == Idleness::Retired;
    }

    fn retire(&mut self) {
        let Some(id) = self.any_instance() else { return };
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        modelled.retired = true;
        assert_eq!(self.slots.retire(id), modelled.in_flight);
    }

    fn spare(&mut self) {
        let mut expected: Vec<_> = self.model.iter().filter(|(_, m)| !m.retired && m.in_flight == 0).collect();
        expected.sort_by_key(|(id, m)| (m.since, **id));
        if self.waiting > 0 {
            expected.clear();
        }
        let expected: Vec<_> = expected.into_iter().map(|(id, _)| *id).collect();
        let spares: Vec<_> = self.slots.idle_instances().iter().map(|spare| spare.instance).collect();
        assert_eq!(spares, expected);
        for (id, modelled) in &mut self.model {
            modelled.asked |= !modelled.retired && !expected.contains(id);
        }
        let Some(id) = self.any_instance() else { return };
        assert_eq!(self.slots.retire_idle(id), expected.contains(&id));
        let modelled = self.model.get_mut(&id).expect("it is in the model");
        modelled.retired |= expected.contains(&id);
    }

    fn change(&mut self) {
        self.revision = self.random.random_range(0..4);
        self.slots.open(open(), QUEUE, self.revision);
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
        for revision in 0..4 {
            assert_eq!(self.slots.usable(revision), useful().filter(|m| m.endpoint.revision >= revision).count());
        }
        for (id, modelled) in &self.model {
            let held = self.leases.iter().filter(|lease| *lease == id).count();
            let occupancy = self.slots.occupancy(*id).expect("it is seated");
            assert_eq!((occupancy.in_flight, occupancy.served), (held, modelled.served));
            assert_eq!(occupancy.since, modelled.since);
            assert!(held <= modelled.capacity(), "more requests at once than the instance takes");
            assert!(!modelled.endpoint.spec.single_use || modelled.served <= 1, "a single-use instance was used again");
        }
    }
}

#[test]
fn whatever_happens_the_table_agrees_with_a_recount() {
    for_each_seed(1_000, |seed| {
        let mut walk = Walk::begin(seed);
        for _ in 0..100 {
            walk.step();
        }
    });
}
