//! Random schedules in virtual time: commits that fail, daemons that are killed, late and repeated outcomes, clocks that
//! jump. Scheduler and writer are the daemon's; the store is the model.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::oneshot;

use super::{
    pending::Limits,
    scheduler::{Action, Scheduler},
    store::Removal,
    *,
};
use crate::{seeds::for_each_seed, spec::AsyncSpec};

const FUNCTIONS: [&str; 3] = ["a", "b", "c"];
const STEPS: usize = 60;
const CONCURRENCY: usize = 2;
const ALL: usize = 3;
const MAX_AGE: Duration = Duration::from_secs(20);

/// A store whose commits fail while `fails` is set.
struct Faulty {
    store: MemoryStore,
    fails: Arc<Mutex<bool>>,
}

macro_rules! delegate {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, $($arg: $type),*) -> $result { self.store.$name($($arg),*) })*
    };
}

impl Store for Faulty {
    fn commit(&mut self) -> Result<(), StoreError> {
        if *self.fails.lock().unwrap() {
            return Err(StoreError::Full("simulated".to_owned()));
        }
        self.store.commit()
    }

    fn rollback(&mut self) {
        self.store.rollback();
    }

    delegate! {
        begin() -> Result<(), StoreError>;
        has_space() -> Result<(), String>;
        enqueue(new: &NewInvocation, unended: usize, now: UnixMillis)
            -> Result<Result<(Stored, Option<Entry>), EnqueueRefusal>, StoreError>;
        start(seq: Seq, epoch: u32) -> Result<Option<Begun>, StoreError>;
        settle(settle: &Settle, now: UnixMillis) -> Result<Option<Record>, StoreError>;
        remove(id: InvocationId) -> Result<Removal, StoreError>;
        redrive(id: InvocationId, now: UnixMillis) -> Result<Option<Record>, StoreError>;
        find(id: InvocationId) -> Result<Option<Record>, StoreError>;
        response(id: InvocationId) -> Result<Option<Found>, StoreError>;
        request(id: InvocationId) -> Result<Option<StoredRequest>, StoreError>;
        handover(id: InvocationId) -> Result<Option<Begun>, StoreError>;
        handovers(limit: usize) -> Result<Vec<InvocationId>, StoreError>;
        import(letter: &DeadLetter, now: UnixMillis) -> Result<bool, StoreError>;
        keep_here(id: InvocationId) -> Result<Option<(Entry, Entry)>, StoreError>;
        dead(function: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Record>, StoreError>;
        undelivered() -> Result<Vec<Entry>, StoreError>;
        result(seq: Seq, epoch: u32) -> Result<Option<Found>, StoreError>;
        record_delivery(seq: Seq, epoch: u32, delivery: DeliveryRecord) -> Result<(), StoreError>;
        purge(now: UnixMillis, limit: usize) -> Result<Purged, StoreError>;
        recover(now: UnixMillis) -> Result<Vec<Entry>, StoreError>;
        open_trigger(trigger: &str, seen: UnixMillis) -> Result<TriggerRecord, StoreError>;
        count_dead() -> Result<Vec<(Name, usize)>, StoreError>;
        bytes() -> u64;
    }
}

/// The limits, while some functions are not there.
struct Present(BTreeSet<&'static str>);

impl Limits for Present {
    fn of(&self, function: &str) -> usize {
        if self.0.contains(function) { CONCURRENCY } else { 0 }
    }

    fn of_all(&self) -> usize {
        ALL
    }
}

struct World {
    random: StdRng,
    now: UnixMillis,
    present: Present,
    spec: AsyncSpec,
    fails: Arc<Mutex<bool>>,
    writer: Option<StoreWriter<Faulty>>,
    scheduler: Scheduler,
    facts: Arc<Mutex<Vec<StoreFact>>>,
    /// Attempts that instances are making: number and epoch.
    running: Vec<(Seq, u32)>,
    /// Outcomes of attempts that a killed daemon had made.
    late: Vec<(Seq, u32)>,
    /// Accepted and not removed since.
    accepted: BTreeMap<Seq, InvocationId>,
    /// The last outcome of each, with its epoch.
    outcomes: HashMap<(Seq, u32), Outcome>,
}

impl World {
    fn begin(seed: u64) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            now: UnixMillis(1_000_000),
            present: Present(FUNCTIONS.into()),
            spec: AsyncSpec { backoff_max: Duration::from_secs(4), ..AsyncSpec::default() },
            fails: Arc::default(),
            writer: None,
            scheduler: Scheduler::default(),
            facts: Arc::default(),
            running: Vec::new(),
            late: Vec::new(),
            accepted: BTreeMap::new(),
            outcomes: HashMap::new(),
        };
        world.open(MemoryStore::default());
        world
    }

    fn open(&mut self, store: MemoryStore) {
        let (facts, fails) = (self.facts.clone(), self.fails.clone());
        facts.lock().unwrap().clear();
        self.scheduler = Scheduler::default();
        let store = Faulty { store, fails };
        let report = move |fact| facts.lock().unwrap().push(fact);
        self.writer = Some(StoreWriter::open(store, self.now, report).unwrap());
    }

    fn writer(&mut self) -> &mut StoreWriter<Faulty> {
        self.writer.as_mut().unwrap()
    }

    fn ask<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, mut answer) = oneshot::channel();
        let now = self.now;
        self.writer().run(vec![command(reply)], now);
        answer.try_recv().ok()
    }

    fn step(&mut self) {
        // The clock may jump back.
        let (jumps, ahead) = (self.random.random_ratio(1, 40), self.random.random_range(0..2_000));
        self.now = UnixMillis(if jumps { self.now.0 - ahead } else { self.now.0 + ahead });
        match self.random.random_range(0..100) {
            0..30 => self.enqueue(),
            30..65 => self.end_attempt(),
            65..70 => self.late_outcome(),
            70..75 => self.remove(),
            75..79 => self.redrive(),
            79..84 => self.kill(),
            84..90 => {
                let fails = self.random.random_bool(0.5);
                *self.fails.lock().unwrap() = fails;
            }
            90..95 => {
                let function = FUNCTIONS[self.random.random_range(0..FUNCTIONS.len())];
                if !self.present.0.remove(function) {
                    self.present.0.insert(function);
                }
            }
            _ => {}
        }
        self.settle_down();
        self.check();
    }

    fn enqueue(&mut self) {
        let key = self.random.random_bool(0.5).then(|| format!("k{}", self.random.random_range(0..8)).into());
        let new = NewInvocation {
            function: FUNCTIONS[self.random.random_range(0..FUNCTIONS.len())].into(),
            request: StoredRequest::new("POST", "/", Bytes::new()),
            key,
            callback: None,
            delay: Duration::from_millis(self.random.random_range(0..3_000)),
            max_age: MAX_AGE,
            queue: 6,
            firing: None,
            for_site: false,
        };
        let before: BTreeSet<_> = self.accepted.values().copied().collect();
        if let Some(Ok(stored)) = self.ask(|reply| Command::Enqueue(Box::new(new), reply)) {
            assert_eq!(stored.is_duplicate, before.contains(&stored.id));
            if !stored.is_duplicate {
                let store = &self.writer.as_mut().unwrap().store().store;
                let record = store.records().find(|record| record.id == stored.id).expect("it was accepted");
                self.accepted.insert(record.seq, stored.id);
            }
        }
    }

    /// An instance answers, or fails.
    fn end_attempt(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.running.len());
        let (seq, epoch) = self.running.swap_remove(index);
        let retry_after = self.random.random_bool(0.2).then_some(Duration::from_secs(3));
        let outcome = match self.random.random_range(0..10) {
            0..4 => Outcome::Answered { status: 200, retry_after: None },
            4..6 => Outcome::Answered { status: 503, retry_after },
            6 => Outcome::Answered { status: 404, retry_after: None },
            7 => Outcome::Failed,
            _ => Outcome::Untouched { retry_after },
        };
        self.outcomes.insert((seq, epoch), outcome);
        self.attempted(seq, epoch, outcome);
        if self.random.random_ratio(1, 5) {
            // It is reported twice.
            self.attempted(seq, epoch, Outcome::Answered { status: 200, retry_after: None });
        }
    }

    fn late_outcome(&mut self) {
        if let Some((seq, epoch)) = self.late.pop() {
            let before = self.records();
            self.attempted(seq, epoch, Outcome::Answered { status: 200, retry_after: None });
            assert_eq!(self.records(), before, "a late outcome changes nothing");
        }
    }

    fn attempted(&mut self, seq: Seq, epoch: u32, outcome: Outcome) {
        let random = self.random.random();
        let settlement = self.scheduler.attempted((seq, epoch), outcome, &self.spec, self.now, random);
        if let Some(settlement) = settlement {
            self.record((seq, epoch), true, settlement);
        }
    }

    fn record(&mut self, (seq, epoch): (Seq, u32), was_running: bool, settlement: Settlement) {
        if let Settlement::Dead { reason: DeadReason::Expired, .. } = settlement {
            let deadline = self.records().iter().find(|record| record.seq == seq).map(|record| record.deadline);
            assert!(deadline.is_none_or(|deadline| self.now >= deadline));
        }
        let (response, keep) = (None, Duration::from_secs(3600));
        let settle = Settle { seq, epoch, was_running, settlement, response, keep };
        let now = self.now;
        self.writer().run(vec![Command::Settle(Box::new(settle))], now);
    }

    fn remove(&mut self) {
        let index = self.random.random_range(0..self.accepted.len().max(1));
        let Some((seq, id)) = self.accepted.iter().nth(index).map(|(seq, id)| (*seq, *id)) else { return };
        if let Some(Removal::Cancelled(_) | Removal::Forgotten { .. }) = self.ask(|reply| Command::Remove(id, reply)) {
            self.accepted.remove(&seq);
        }
    }

    fn redrive(&mut self) {
        let index = self.random.random_range(0..self.accepted.len().max(1));
        if let Some(id) = self.accepted.values().nth(index).copied() {
            self.ask(|reply| Command::Redrive(id, reply));
        }
    }

    /// SIGKILL: the instances end with the daemon, and what was not committed is lost.
    fn kill(&mut self) {
        let mut writer = self.writer.take().unwrap();
        *self.fails.lock().unwrap() = false;
        let mut store = writer.store().store.clone();
        store.rollback();
        self.late.append(&mut self.running);
        self.open(store);
    }

    /// Passes facts on and does what is due, until nothing is.
    fn settle_down(&mut self) {
        for _ in 0..10_000 {
            let facts = std::mem::take(&mut *self.facts.lock().unwrap());
            let were_none = facts.is_empty();
            facts.into_iter().for_each(|fact| self.scheduler.learn(fact));
            let attempts = self.spec.attempts.get();
            match self.scheduler.next_action(self.now, &self.present, |_| attempts) {
                Some(Action::Start(entry)) => self.start(entry),
                Some(Action::End(entry, settlement)) => self.record((entry.seq, entry.epoch), false, settlement),
                None if were_none => return,
                None => {}
            }
        }
        panic!("there is always something to do");
    }

    fn start(&mut self, entry: Entry) {
        let (seq, epoch) = (entry.seq, entry.epoch);
        match self.ask(|reply| Command::Start { seq, epoch, reply }) {
            Some(Some(begun)) => {
                assert!(self.running.iter().all(|(other, _)| *other != seq), "it runs twice at once");
                assert!(self.now < begun.record.deadline, "it has expired");
                self.running.push((seq, begun.record.epoch));
            }
            Some(None) => self.scheduler.not_begun(seq, true, self.now),
            None => self.scheduler.not_begun(seq, false, self.now),
        }
    }

    fn records(&mut self) -> Vec<Record> {
        self.writer().store().store.records().cloned().collect()
    }

    fn check(&mut self) {
        let records = self.records();
        let seqs: Vec<_> = records.iter().map(|record| record.seq).collect();
        let accepted: Vec<_> = self.accepted.keys().copied().collect();
        assert_eq!(seqs, accepted, "queued + running + done + dead = accepted");
        let is_unended = |record: &&Record| !record.state.is_ended();
        assert_eq!(self.writer().unended(), records.iter().filter(is_unended).count());
        let is_dead = |record: &&Record| matches!(record.state, State::Dead { .. });
        let dead: usize = self.writer().dead().map(|(_, count)| count).sum();
        assert_eq!(dead, records.iter().filter(is_dead).count());
        assert!(self.running.len() <= ALL);
        for function in FUNCTIONS {
            let running = records.iter().filter(|it| &*it.function == function && it.state == State::Running).count();
            assert!(running <= CONCURRENCY, "{function}: {running}");
        }
        let attempts = self.spec.attempts.get() as u32;
        for record in &records {
            assert!(record.attempts <= attempts, "{record:?}");
            let last = self.outcomes.get(&(record.seq, record.epoch));
            match record.state {
                State::Dead { reason: DeadReason::Rejected, .. } => {
                    assert!(matches!(last, Some(Outcome::Answered { status: 404, .. })), "{record:?} {last:?}");
                }
                State::Dead { reason: DeadReason::AttemptsExhausted, .. } => assert_eq!(record.attempts, attempts),
                // Checked when that was decided: the clock may have jumped back since.
                State::Dead { reason: DeadReason::Expired, .. } => {}
                State::Done { .. } => {
                    assert!(matches!(last, Some(Outcome::Answered { status: 200, .. })), "{record:?} {last:?}");
                }
                State::Queued { .. } | State::Running => {}
            }
        }
    }

    /// With a store that works and all functions, everything ends.
    fn finish(&mut self) {
        *self.fails.lock().unwrap() = false;
        self.present = Present(FUNCTIONS.into());
        for _ in 0..10_000 {
            // Writes what could not be written.
            let now = self.now;
            self.writer().run(Vec::new(), now);
            self.settle_down();
            self.check();
            if self.records().iter().all(|record| record.state.is_ended()) {
                return assert!(self.scheduler.is_idle());
            }
            self.now = self.now.after(Duration::from_millis(500));
            self.end_attempt();
        }
        panic!("something does not end: {:?}", self.records());
    }
}

#[test]
fn every_invocation_ends_once_and_for_a_true_reason() {
    for_each_seed(10_000, |seed| {
        let mut world = World::begin(seed);
        (0..STEPS).for_each(|_| world.step());
        world.finish();
    });
}
