//! The database against its model.

use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::tempdir;
use unifaas_actors::inbox::{
    CallbackState, DeadLetter, DeadReason, DeliveryRecord, Found, InvocationId, MemoryStore, Record, RecordedResponse,
    Settle, Settlement, State, Store as _, UnixMillis,
};

use super::{
    sqlite::SqliteStore,
    tests::{STEPS, new, open},
};

/// Both stores, and the ids that each has given to a number.
struct Pair {
    random: StdRng,
    now: UnixMillis,
    sqlite: SqliteStore,
    model: MemoryStore,
    ids: Vec<(InvocationId, InvocationId)>,
    unended: usize,
}

/// A record without its id, which is random.
fn shown(record: Option<Record>) -> Option<Record> {
    record.map(|record| Record { id: InvocationId(0), ..record })
}

impl Pair {
    fn step(&mut self) {
        self.now = UnixMillis(self.now.0 + self.random.random_range(0..2000));
        let now = self.now;
        self.sqlite.begin().unwrap();
        self.model.begin().unwrap();
        let some = self.random.random_range(0..self.ids.len().max(1));
        let (seq, epoch) = (some as u64 + 1, self.random.random_range(0..3));
        // There is no such invocation.
        let pair = self.ids.get(some).copied().unwrap_or((InvocationId(1), InvocationId(1)));
        match self.random.random_range(0..13) {
            0..3 => {
                let new = new(&mut self.random);
                let one = self.sqlite.enqueue(&new, self.unended, now).unwrap();
                let other = self.model.enqueue(&new, self.unended, now).unwrap();
                match (one, other) {
                    (Ok((one, entry)), Ok((other, other_entry))) => {
                        assert_eq!((one.is_duplicate, &entry), (other.is_duplicate, &other_entry));
                        match entry {
                            Some(_) => self.ids.push((one.id, other.id)),
                            None => assert!(self.ids.contains(&(one.id, other.id))),
                        }
                    }
                    (one, other) => assert_eq!(one.err(), other.err()),
                }
            }
            3..5 => {
                let one = self.sqlite.start(seq, epoch).unwrap();
                let other = self.model.start(seq, epoch).unwrap();
                let both = [one, other].map(|begun| begun.map(|begun| (shown(Some(begun.record)), begun.request)));
                assert_eq!(both[0], both[1]);
            }
            5..7 => {
                let settlement = match self.random.random_range(0..3) {
                    0 => Settlement::Done { status: 201 },
                    1 => Settlement::Retry { due: now.after(Duration::from_secs(1)), counts: epoch == 1 },
                    _ => Settlement::Dead { reason: DeadReason::Rejected, status: Some(404) },
                };
                let body = self.random.random_bool(0.5).then(|| Bytes::from_static(b"body"));
                let headers = vec![("x".to_owned(), b"y".to_vec())];
                let response = self.random.random_bool(0.7).then_some(RecordedResponse { status: 201, headers, body });
                // What never began has no attempt that could not count.
                let was_running = self.random.random_bool(0.8) || matches!(settlement, Settlement::Retry { .. });
                let settle = Settle { seq, epoch, was_running, settlement, response, keep: Duration::from_secs(9) };
                let one = self.sqlite.settle(&settle, now).unwrap();
                assert_eq!(shown(one), shown(self.model.settle(&settle, now).unwrap()));
            }
            7 => {
                let (one, other) = pair;
                assert_eq!(self.sqlite.remove(one).unwrap(), self.model.remove(other).unwrap());
            }
            8 => {
                let (one, other) = pair;
                let one = self.sqlite.redrive(one, now).unwrap();
                assert_eq!(shown(one), shown(self.model.redrive(other, now).unwrap()));
            }
            9 => {
                let state = [CallbackState::Waiting, CallbackState::Delivered, CallbackState::Failed];
                let state = state[self.random.random_range(0..3)];
                let delivery = DeliveryRecord { state, due: now.after(Duration::from_secs(2)), attempts: 7 };
                self.sqlite.record_delivery(seq, epoch, delivery).unwrap();
                self.model.record_delivery(seq, epoch, delivery).unwrap();
            }
            10 => {
                let (one, other) = pair;
                let waiting = [self.sqlite.handover(one).unwrap(), self.model.handover(other).unwrap()];
                let both = waiting.map(|waiting| waiting.map(|it| (shown(Some(it.record)), it.request)));
                assert_eq!(both[0], both[1]);
                assert_eq!(self.sqlite.keep_here(one).unwrap(), self.model.keep_here(other).unwrap());
            }
            11 => self.import(pair, now),
            _ => assert_eq!(self.sqlite.purge(now, 2).unwrap(), self.model.purge(now, 2).unwrap()),
        }
        if self.random.random_bool(0.1) {
            self.sqlite.rollback();
            self.model.rollback();
        } else {
            self.sqlite.commit().unwrap();
            self.model.commit().unwrap();
        }
        self.compare();
    }

    /// Stores a dead letter of the site, or an invocation again that the database has.
    fn import(&mut self, (known, known_to_model): (InvocationId, InvocationId), now: UnixMillis) {
        let is_known = self.random.random_bool(0.3) && known != InvocationId(1);
        let new = new(&mut self.random);
        let reason = DeadReason::AttemptsExhausted;
        let record = Record {
            seq: 0,
            id: InvocationId::random(),
            function: new.function,
            state: State::Dead { ended: now, reason, status: Some(500) },
            epoch: 3,
            attempts: 3,
            accepted: now,
            deadline: now.after(new.max_age),
            key: new.key,
            callback: None,
        };
        let response = RecordedResponse { status: 500, headers: Vec::new(), body: Some(Bytes::from_static(b"no")) };
        let letter = |id| {
            let found = Found { record: Record { id, ..record.clone() }, response: Some(response.clone()) };
            DeadLetter { found, request: new.request.clone(), keep: Duration::from_secs(9) }
        };
        let (one, other) = if is_known { (known, known_to_model) } else { (record.id, record.id) };
        let imported = self.sqlite.import(&letter(one), now).unwrap();
        assert_eq!(imported, self.model.import(&letter(other), now).unwrap());
        if imported && !is_known {
            self.ids.push((one, other));
        }
    }

    fn compare(&mut self) {
        self.sqlite.begin().unwrap();
        self.model.begin().unwrap();
        self.unended = 0;
        for (one, other) in self.ids.clone() {
            let (one, other) = (self.sqlite.response(one).unwrap(), self.model.response(other).unwrap());
            let both = [one, other].map(|found| found.map(|found| (shown(Some(found.record)), found.response)));
            assert_eq!(both[0], both[1]);
            self.unended += usize::from(matches!(&both[0], Some((Some(record), _)) if !record.state.is_ended()));
        }
        assert_eq!(self.sqlite.undelivered().unwrap(), self.model.undelivered().unwrap());
        for (seq, epoch) in (0..self.ids.len() as u64).zip([1, 2].into_iter().cycle()) {
            let (one, other) = (self.sqlite.result(seq, epoch).unwrap(), self.model.result(seq, epoch).unwrap());
            let both = [one, other].map(|found| found.map(|found| (shown(Some(found.record)), found.response)));
            assert_eq!(both[0], both[1]);
        }
        for function in [None, Some("a")] {
            let dead = |records: Vec<Record>| records.into_iter().map(|it| shown(Some(it))).collect::<Vec<_>>();
            let one = dead(self.sqlite.dead(function, 1, 3).unwrap());
            assert_eq!(one, dead(self.model.dead(function, 1, 3).unwrap()));
        }
        let waiting = (self.sqlite.handovers(9).unwrap().len(), self.model.handovers(9).unwrap().len());
        assert_eq!(waiting.0, waiting.1);
        let seen = UnixMillis(self.ids.len() as u64 % 11);
        assert_eq!(self.sqlite.open_trigger("t1", seen).unwrap(), self.model.open_trigger("t1", seen).unwrap());
        assert_eq!(self.sqlite.count_dead().unwrap(), self.model.count_dead().unwrap());
        self.sqlite.commit().unwrap();
        self.model.commit().unwrap();
    }
}

#[test]
fn the_database_does_what_its_model_does() {
    for seed in 0..8 {
        let directory = tempdir().unwrap();
        let path = directory.path().join("inbox.db");
        let (sqlite, model, random) = (open(&path), MemoryStore::default(), StdRng::seed_from_u64(seed));
        let mut pair = Pair { random, now: UnixMillis(1_000_000), sqlite, model, ids: Vec::new(), unended: 0 };
        for step in 0..STEPS {
            if step % 50 == 49 {
                // The next daemon, after a checkpoint or without.
                if step % 100 == 49 {
                    pair.sqlite.checkpoint().unwrap();
                }
                drop(std::mem::replace(&mut pair.sqlite, open(&directory.path().join("other.db"))));
                pair.sqlite = open(&path);
                pair.sqlite.begin().unwrap();
                pair.model.begin().unwrap();
                assert_eq!(pair.sqlite.recover(pair.now).unwrap(), pair.model.recover(pair.now).unwrap());
                pair.sqlite.commit().unwrap();
                pair.model.commit().unwrap();
            }
            pair.step();
        }
        assert!(pair.ids.len() > 5, "{}", pair.ids.len());
    }
}
