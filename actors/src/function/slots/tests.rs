//! The slot table, case by case. `idle.rs` and `paused.rs` have the cases about idle and paused instances; `walk.rs` compares random sequences with a
//! model.

mod idle;
mod paused;
mod walk;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::LazyLock,
    time::Duration,
};

use super::*;
use crate::{boot::BootClock, spec::FunctionSpec};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

/// Returns an endpoint of an instance with a keepalive of 60 s, which is paused only if `keys` say so.
fn endpoint(keys: &str, revision: u64) -> Arc<Endpoint> {
    let reached = SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into();
    let clock = BootClock::new(Instant::now());
    Arc::new(Endpoint::new(InstanceId::random(), reached, spec(keys), revision, clock))
}

fn spec(keys: &str) -> Arc<FunctionSpec> {
    let never_paused = if keys.contains("keep-paused") { "" } else { "keep-paused = 0\n" };
    let text = format!("{never_paused}{keys}\n[process]\ncommand = [\"f\"]\n");
    Arc::new(FunctionSpec::parse("f", Path::new("/r/f"), &text).unwrap())
}

fn open(queue: usize) -> Intake {
    Intake::Open(spec(&format!("queue = {queue}")))
}

/// Returns a table in which two callers may wait.
fn slots() -> Slots {
    Slots::new(open(2))
}

fn add(slots: &mut Slots, keys: &str, revision: u64) -> InstanceId {
    let endpoint = endpoint(keys, revision);
    slots.add(endpoint.clone(), at(0));
    endpoint.instance
}

fn full(slots: &Slots) -> Refusal {
    Refusal::Saturated { waiting: slots.waiting(), retry_after: Duration::ZERO }
}

/// Acquires a free slot. Returns its instance, and whether it is the instance's first request.
#[track_caller]
fn acquire(slots: &mut Slots) -> (InstanceId, bool) {
    match slots.acquire(at(1), full) {
        Acquired::Slot { endpoint, fresh } => (endpoint.instance, fresh),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn wait(slots: &mut Slots) {
    let acquired = slots.acquire(at(1), full);
    assert!(matches!(acquired, Acquired::Queued), "{acquired:?}");
}

#[track_caller]
fn refused(slots: &mut Slots) -> Refusal {
    match slots.acquire(at(1), full) {
        Acquired::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_serves_as_many_requests_at_once_as_its_spec_allows() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    assert_eq!([acquire(&mut slots), acquire(&mut slots), acquire(&mut slots)], [(id, true), (id, false), (id, false)]);
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(2)), Released::HasWaiters);
    assert_eq!(slots.occupancy(id).unwrap().in_flight, 2);
    assert_eq!(slots.capacity(), 3);
}

#[test]
fn new_callers_do_not_overtake_waiting_ones() {
    let mut slots = slots();
    wait(&mut slots);
    add(&mut slots, "", 1);
    wait(&mut slots);
    assert!(slots.take_ready(0, at(1)).is_some(), "the head of the queue gets the slot");
}

#[test]
fn a_full_queue_refuses_until_a_caller_leaves_it() {
    let mut slots = slots();
    wait(&mut slots);
    wait(&mut slots);
    assert_eq!(refused(&mut slots), Refusal::Saturated { waiting: 2, retry_after: Duration::ZERO });
    slots.leave_queue();
    assert_eq!(slots.waiting(), 1);
    wait(&mut slots);
}

#[test]
fn a_closed_intake_refuses_although_slots_are_free() {
    let mut slots = slots();
    add(&mut slots, "", 1);
    slots.configure(Intake::Misconfigured("typo".into()), 1);
    assert_eq!(refused(&mut slots), Refusal::Misconfigured { reason: "typo".into() });
    slots.configure(Intake::Draining, 1);
    assert_eq!(refused(&mut slots), Refusal::Draining);
    slots.configure(open(1), 1);
    acquire(&mut slots);
}

#[test]
fn the_largest_body_is_that_of_the_open_intake() {
    let mut slots = Slots::new(Intake::Open(spec("max-body = 7")));
    assert_eq!(slots.max_body(), Some(7 << 20));
    slots.configure(Intake::Draining, 1);
    assert_eq!(slots.max_body(), None);
}

#[test]
fn takes_the_most_recently_used_instance_first() {
    let mut slots = slots();
    let [a, b, c] = [(); 3].map(|()| add(&mut slots, "", 1));
    assert_eq!([acquire(&mut slots).0, acquire(&mut slots).0, acquire(&mut slots).0], [c, b, a]);
    for id in [b, c, a] {
        assert_eq!(slots.release(id, true, at(2)), Released::Free);
    }
    assert_eq!([acquire(&mut slots).0, acquire(&mut slots).0, acquire(&mut slots).0], [a, c, b]);
}

#[test]
fn a_single_use_instance_serves_once() {
    let mut slots = slots();
    let id = add(&mut slots, "single-use = true", 1);
    assert_eq!(acquire(&mut slots), (id, true));
    assert_eq!((slots.usable(0), slots.capacity()), (0, 0));
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(2)), Released::Drained);
    assert!(slots.take_ready(0, at(2)).is_none());
}

#[test]
fn a_retired_instance_finishes_its_requests_and_gets_no_new_ones() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    acquire(&mut slots);
    acquire(&mut slots);
    assert_eq!(slots.retire(id), 2);
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(2)), Released::Free);
    assert_eq!(slots.release(id, true, at(2)), Released::Drained);
    assert!(slots.take_ready(0, at(2)).is_none());
}

#[test]
fn an_instance_that_failed_a_request_finishes_the_others_and_gets_no_new_ones() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    acquire(&mut slots);
    acquire(&mut slots);
    assert_eq!(slots.release(id, false, at(2)), Released::Free);
    wait(&mut slots);
    assert_eq!(slots.usable(0), 0);
    assert_eq!(slots.release(id, true, at(2)), Released::Drained);
}

#[test]
fn slots_of_a_removed_instance_are_not_reused() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    acquire(&mut slots);
    acquire(&mut slots);
    slots.remove(id);
    for reusable in [true, false] {
        assert_eq!(slots.release(id, reusable, at(2)), Released::Free);
    }
    assert!(slots.occupancy(id).is_none());
    assert_eq!((slots.retire(id), slots.usable(0), slots.capacity()), (0, 0, 0));
    wait(&mut slots);
}

#[test]
fn an_instance_that_is_not_live_is_not_taken_before_it_is_removed() {
    let mut slots = slots();
    let ended = endpoint("", 1);
    let live = add(&mut slots, "", 1);
    slots.add(ended.clone(), at(0));
    ended.set_draining();
    assert_eq!(acquire(&mut slots).0, live);
    wait(&mut slots);
    assert!(slots.take_ready(0, at(1)).is_none());
}

#[test]
fn callers_accept_only_instances_that_are_new_enough() {
    let mut slots = slots();
    let [old, new, newest] = [1, 2, 3].map(|revision| add(&mut slots, "", revision));
    assert_eq!([slots.usable(1), slots.usable(2), slots.usable(3), slots.usable(4)], [3, 2, 1, 0]);
    let mut take = |revision| slots.take_ready(revision, at(1)).map(|(endpoint, _)| endpoint.instance);
    assert_eq!(take(3), Some(newest));
    assert_eq!(take(3), None);
    assert_eq!(take(2), Some(new));
    assert_eq!(take(2), None);
    assert_eq!(take(1), Some(old));
}

#[test]
fn new_callers_get_no_instance_of_an_older_spec() {
    let mut slots = slots();
    let old = add(&mut slots, "", 1);
    slots.configure(open(2), 2);
    wait(&mut slots);
    let taken = slots.take_ready(1, at(1));
    assert!(taken.is_some_and(|(endpoint, _)| endpoint.instance == old), "earlier callers do");
    slots.leave_queue();
    let new = add(&mut slots, "", 2);
    assert_eq!(acquire(&mut slots), (new, true));
}

#[test]
fn occupancy_tells_since_when_an_instance_is_busy_or_idle() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 2", 1);
    acquire(&mut slots);
    slots.acquire(at(5), full);
    let busy = slots.occupancy(id).unwrap();
    assert_eq!((busy.in_flight, busy.served, busy.since), (2, 2, at(1)));
    slots.release(id, true, at(6));
    slots.release(id, true, at(7));
    let idle = slots.occupancy(id).unwrap();
    assert_eq!((idle.in_flight, idle.served, idle.since), (0, 2, at(7)));
}
