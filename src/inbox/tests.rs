//! The database and its thread: owners, files that cannot be opened, limits, damage.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::tempdir;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use unifaas_actors::inbox::{
    Command, CommandSender as _, Firing, InboxReport, NewInvocation, RecordedResponse, Settle, Settlement, Store,
    StoreFact, StoreWriter, StoredRequest, UnixMillis,
};

use super::{
    sqlite::{OpenError, SqliteStore},
    stats::InboxStats,
    thread::{StoreConfig, StoreThread},
};

const LIMIT: u64 = 1 << 30;
/// Changes of one walk.
pub const STEPS: usize = 400;

/// Opens a database.
pub fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, LIMIT).unwrap()
}

/// Returns some invocation.
pub fn new(random: &mut StdRng) -> NewInvocation {
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
