//! The database against its model, and files that cannot be opened.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::tempdir;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use unifaas_actors::inbox::{
    CallbackState, Command, CommandSender as _, DeadLetter, DeadReason, DeliveryRecord, Firing, Found, InboxReport,
    InvocationId, MemoryStore, NewInvocation, Record, RecordedResponse, Settle, Settlement, State, Store, StoreFact,
    StoreWriter, StoredRequest, UnixMillis,
};

use super::{
    sqlite::{OpenError, SqliteStore},
    stats::InboxStats,
    thread::{StoreConfig, StoreThread},
};

const LIMIT: u64 = 1 << 30;
const STEPS: usize = 400;

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, LIMIT).unwrap()
}

fn new(random: &mut StdRng) -> NewInvocation {
    let trigger = format!("t{}", random.random_range(0..2));
    NewInvocation {
        function: ["a", "b"][random.random_range(0..2)].into(),
        request: StoredRequest::new("PUT", "/x?y", Bytes::from(vec![b'x'; random.random_range(0..3)]))
            .header("accept", "text/plain"),
        key: random.random_bool(0.5).then(|| format!("k{}", random.random_range(0..4)).into()),
        callback: random.random_bool(0.2).then(|| "http://host/".into()),
        delay: Duration::from_secs(random.random_range(0..3)),
        max_age: Duration::from_secs(60),
        queue: 5,
        firing: random.random_bool(0.2).then(|| Firing { trigger, instant: UnixMillis(random.random_range(0..9)) }),
        for_site: random.random_bool(0.2),
    }
}

/// Returns an invocation without a key.
pub fn new_invocation() -> NewInvocation {
    NewInvocation { key: None, firing: None, for_site: false, ..new(&mut StdRng::seed_from_u64(1)) }
}

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

#[test]
fn a_database_has_one_owner_and_is_not_for_others_to_read() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("inbox.db");
    let first = open(&path);
    assert!(matches!(SqliteStore::open(&path, LIMIT), Err(OpenError::InUse(_))));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(first);
    open(&path);
}

#[test]
fn files_that_are_no_database_are_left_alone() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("inbox.db");
    let text = "this is not a database, however long it may be ".repeat(200);
    fs::write(&path, &text).unwrap();
    let error = SqliteStore::open(&path, LIMIT).unwrap_err();
    assert!(matches!(error, OpenError::Store { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn new_work_is_refused_past_the_limit_and_ends_are_recorded_all_the_same() {
    let directory = tempdir().unwrap();
    let mut store = SqliteStore::open(&directory.path().join("inbox.db"), 300 << 10).unwrap();
    let (mut random, now) = (StdRng::seed_from_u64(1), UnixMillis(1));
    let mut stored = 0;
    while store.has_space().is_ok() {
        store.begin().unwrap();
        let request = StoredRequest::new("POST", "/", Bytes::from(vec![b'x'; 10_000]));
        let new = NewInvocation { request, key: None, firing: None, for_site: false, queue: 999, ..new(&mut random) };
        assert!(store.enqueue(&new, 0, now).unwrap().is_ok());
        store.commit().unwrap();
        stored += 1;
    }
    assert!((10..40).contains(&stored), "{stored}");
    store.begin().unwrap();
    assert!(store.start(1, 0).unwrap().is_some());
    let response = RecordedResponse { status: 200, headers: Vec::new(), body: Some(Bytes::from_static(b"r")) };
    let settlement = Settlement::Done { status: 200 };
    let (response, keep) = (Some(response), Duration::from_secs(1));
    let settle = Settle { seq: 1, epoch: 1, was_running: true, settlement, response, keep };
    assert!(store.settle(&settle, now).unwrap().is_some());
    store.commit().unwrap();
}

#[tokio::test]
async fn a_thread_that_has_failed_refuses_everything_at_once() {
    let directory = tempdir().unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let config = StoreConfig { path: directory.path().join("inbox.db"), limit: LIMIT, log };
    let stats = Arc::<InboxStats>::default();
    let store = StoreThread::new(config, stats.clone());
    store.start(Arc::new(|fact| assert!(!matches!(fact, StoreFact::Queued(_)), "a fault")));
    let enqueue = async || {
        let (reply, answer) = oneshot::channel();
        store.send(Command::Enqueue(Box::new(new_invocation()), reply)).unwrap();
        timeout(Duration::from_secs(30), answer).await.expect("an answer")
    };
    for _ in 0..3 {
        assert!(enqueue().await.is_err(), "no answer says that it is stored");
    }
    let store_report = || stats.overview(InboxReport::default(), UnixMillis(0)).store;
    assert!(!store_report().is_open && store_report().problem.unwrap().contains("has failed"));
}

#[tokio::test]
async fn the_log_does_not_grow_from_one_kill_to_the_next() {
    let (mut sizes, mut before) = (Vec::new(), None::<tempfile::TempDir>);
    for _ in 0..4 {
        let directory = tempdir().unwrap();
        let path = directory.path().join("inbox.db");
        let files = ["inbox.db", "inbox.db-wal"];
        if let Some(before) = &before {
            for file in files {
                fs::copy(before.path().join(file), directory.path().join(file)).unwrap();
            }
        }
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let store = StoreThread::new(StoreConfig { path, limit: LIMIT, log }, Arc::default());
        store.start(Arc::new(drop));
        for _ in 0..50 {
            let (reply, answer) = oneshot::channel();
            let request = StoredRequest::new("POST", "/", Bytes::from(vec![b'x'; 20_000]));
            let new = NewInvocation { request, queue: 999, ..new_invocation() };
            store.send(Command::Enqueue(Box::new(new), reply)).unwrap();
            answer.await.unwrap().unwrap();
        }
        // A killed daemon leaves the files as they are now.
        let killed = tempdir().unwrap();
        for file in files {
            fs::copy(directory.path().join(file), killed.path().join(file)).unwrap();
        }
        sizes.push(fs::metadata(killed.path().join(files[1])).unwrap().len());
        store.close("the test ends");
        before = Some(killed);
    }
    assert!(sizes[3] < 2 * sizes[0], "{sizes:?}");
}

/// Records of the test below, and with `UNIFAAS_FIGURES`.
const ENDED: u32 = 100_000;
const MANY_ENDED: u32 = 1_000_000;

#[test]
fn ended_records_do_not_hold_up_the_start() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("inbox.db");
    drop(open(&path));
    let count = if env::var_os("UNIFAAS_FIGURES").is_some() { MANY_ENDED } else { ENDED };
    let fill = format!(
        "PRAGMA synchronous = OFF; BEGIN;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
        INSERT INTO invocation (id, function, state, due, accepted, deadline, ended, status, expires)
            SELECT randomblob(16), 'f' || (i % 10), 2 + (i % 10 = 0), i, i, i, i, 200, {count} + i FROM n;
        INSERT INTO response (seq, head, body) SELECT seq, x'00', randomblob(64) FROM invocation;
        COMMIT;"
    );
    rusqlite::Connection::open(&path).unwrap().execute_batch(&fill).unwrap();
    let began = Instant::now();
    let writer = StoreWriter::open(open(&path), UnixMillis(1), drop).unwrap();
    let took = began.elapsed();
    println!("{count} ended records: open after {took:?}");
    assert_eq!((writer.unended(), writer.dead().map(|(_, dead)| dead as u32).sum::<u32>()), (0, count / 10));
    assert!(took < Duration::from_secs(1), "{took:?}");
}
