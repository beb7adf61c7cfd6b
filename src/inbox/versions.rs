//! Databases of other versions: an older one is brought up to date, and a newer one is left alone.

use std::{fs, time::Duration};

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::tempdir;
use unifaas_actors::inbox::{
    CallbackState, DeadReason, InvocationId, NewInvocation, State, Store as _, Stored, StoredRequest, TriggerRecord,
    UnixMillis,
};

use super::{
    sqlite::{OpenError, SqliteStore},
    tests::new_invocation,
};

/// A database as version 1 wrote it. It never changes.
const VERSION_1: &str = include_str!("fixtures/version-1.sql");
const LIMIT: u64 = 1 << 30;
/// When the first invocation was accepted, and when the daemon starts again.
const FIRST: u64 = 1_790_000_000_000;
const NOW: UnixMillis = UnixMillis(FIRST + 100_000);

/// Returns the id of the fixture's invocation with a number.
fn id(number: u8) -> InvocationId {
    InvocationId(u128::from_be_bytes([number; 16]))
}

#[test]
fn a_database_of_version_1_is_brought_up_to_date_and_loses_nothing() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("inbox.db");
    Connection::open(&path).unwrap().execute_batch(VERSION_1).unwrap();
    let mut store = SqliteStore::open(&path, LIMIT).unwrap();
    store.begin().unwrap();

    let entries = store.recover(NOW).unwrap();
    let entries: Vec<_> = entries.iter().map(|it| (it.seq, &*it.function, it.due.0, it.epoch, it.attempts)).collect();
    assert_eq!(entries, [(1, "a", FIRST + 60_000, 0, 0), (2, "a", NOW.0, 2, 1)], "what ran is queued again");
    let order = StoredRequest {
        client: Some([192, 0, 2, 7].into()),
        is_tls: true,
        ..StoredRequest::new("PUT", "/order?id=1", Bytes::from_static(b"the order"))
    };
    let order = order.header("content-type", "text/plain").header("x-request-id", "r1");
    assert_eq!(store.request(id(1)).unwrap().as_ref(), Some(&order));
    let fired = StoredRequest::new("POST", "/slow", Bytes::new()).header("ce-id", "cron/a/0/2026-09-21T14:13:20Z");
    assert_eq!(store.request(id(2)).unwrap(), Some(fired));

    let done = store.response(id(3)).unwrap().unwrap();
    assert_eq!(done.record.state, State::Done { ended: UnixMillis(FIRST + 2500), status: 201 });
    assert_eq!(done.response.unwrap().body.as_deref(), Some(&b"made"[..]));
    let dead: Vec<_> = store.dead(None, 0, 9).unwrap().into_iter().map(|it| (it.id, it.state)).collect();
    let of = |after, reason, status| State::Dead { ended: UnixMillis(FIRST + after), reason, status: Some(status) };
    let (failed, rejected) = (DeadReason::AttemptsExhausted, DeadReason::Rejected);
    assert_eq!(dead, [(id(4), of(9000, failed, 503)), (id(5), of(4500, rejected, 404))]);
    assert_eq!(store.request(id(4)).unwrap().unwrap().body, "a body");
    let response = store.response(id(5)).unwrap().unwrap().response.unwrap();
    assert_eq!((response.status, response.body), (404, None));
    let undelivered = store.undelivered().unwrap();
    assert_eq!(undelivered.iter().map(|it| (it.seq, it.due.0)).collect::<Vec<_>>(), [(4, FIRST + 9000)]);
    let callback = store.find(id(4)).unwrap().unwrap().callback.unwrap();
    assert_eq!((&*callback.url, callback.attempts), ("https://receiver.example/dead", 2));
    assert_eq!(callback.state, CallbackState::Waiting);

    // The keys, the firings and the numbers go on.
    let again = NewInvocation { function: "a".into(), request: order, key: Some("key-1".into()), ..new_invocation() };
    let (stored, entry) = store.enqueue(&again, 2, NOW).unwrap().unwrap();
    assert_eq!((stored, entry), (Stored { id: id(1), is_duplicate: true }, None));
    let settled = store.open_trigger("cron/a/0", NOW).unwrap();
    assert_eq!(settled, TriggerRecord { settled: UnixMillis(FIRST), has_fired: true });
    let (_, entry) = store.enqueue(&new_invocation(), 0, NOW).unwrap().unwrap();
    assert_eq!(entry.unwrap().seq, 10);
    store.commit().unwrap();

    drop(store);
    let mut store = SqliteStore::open(&path, LIMIT).unwrap();
    assert_eq!(store.recover(NOW.after(Duration::from_secs(1))).unwrap().len(), 3, "it is of this version now");
}

#[test]
fn a_database_of_a_newer_version_is_left_as_it_is() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("inbox.db");
    drop(SqliteStore::open(&path, LIMIT).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path, LIMIT).unwrap_err();
    assert!(matches!(error, OpenError::Newer { version: 99, .. }));
    assert!(error.to_string().contains("was written by a newer version of the daemon"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}
