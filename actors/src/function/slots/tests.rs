//! The table of slots, case by case. Random sequences against a model are in `walk.rs`.

mod walk;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::LazyLock,
};

use super::*;
use crate::spec::FunctionSpec;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

const KEEPALIVE: Duration = Duration::from_secs(60);

fn endpoint(keys: &str, revision: u64) -> Arc<Endpoint> {
    let text = format!("{keys}\n[process]\ncommand = [\"f\"]\n");
    let spec = Arc::new(FunctionSpec::parse("f", Path::new("/r/f"), &text).unwrap());
    Arc::new(Endpoint::new(InstanceId::random(), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), spec, revision))
}

fn open() -> Intake {
    Intake::Open { max_body: None }
}

/// A table that lets two callers wait.
fn slots() -> Slots {
    Slots::new(open(), 2)
}

fn add(slots: &mut Slots, keys: &str, revision: u64) -> InstanceId {
    let endpoint = endpoint(keys, revision);
    slots.add(endpoint.clone(), at(0));
    endpoint.instance
}

fn full(slots: &Slots) -> Refusal {
    Refusal::Saturated { waiting: slots.waiting(), retry_after: Duration::ZERO }
}

/// Takes a slot that is free; says of which instance, and whether it is the instance's first.
#[track_caller]
fn take(slots: &mut Slots) -> (InstanceId, bool) {
    match slots.take(at(1), full) {
        Acquired::Slot { endpoint, fresh } => (endpoint.instance, fresh),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn wait(slots: &mut Slots) {
    let taken = slots.take(at(1), full);
    assert!(matches!(taken, Acquired::Queued), "{taken:?}");
}

#[track_caller]
fn refused(slots: &mut Slots) -> Refusal {
    match slots.take(at(1), full) {
        Acquired::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_serves_as_many_requests_at_once_as_its_spec_says() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    assert_eq!([take(&mut slots), take(&mut slots), take(&mut slots)], [(id, true), (id, false), (id, false)]);
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(2)), Released::HasWaiters);
    assert_eq!(slots.occupancy(id).unwrap().in_flight, 2);
    assert_eq!(slots.capacity(), 3);
}

#[test]
fn newcomers_do_not_overtake_those_who_wait() {
    let mut slots = slots();
    wait(&mut slots);
    add(&mut slots, "", 1);
    wait(&mut slots);
    assert!(slots.take_ready(0, at(1)).is_some(), "the head of the queue gets the slot");
}

#[test]
fn a_full_queue_refuses_and_a_place_that_is_left_is_free_again() {
    let mut slots = slots();
    wait(&mut slots);
    wait(&mut slots);
    assert_eq!(refused(&mut slots), Refusal::Saturated { waiting: 2, retry_after: Duration::ZERO });
    slots.left_queue();
    assert_eq!(slots.waiting(), 1);
    wait(&mut slots);
}

#[test]
fn a_shut_gate_refuses_even_while_there_are_free_slots() {
    let mut slots = slots();
    add(&mut slots, "", 1);
    slots.open(Intake::Misconfigured("typo".into()), 0, 1);
    assert_eq!(refused(&mut slots), Refusal::Misconfigured { reason: "typo".into() });
    slots.open(Intake::Draining, 0, 1);
    assert_eq!(refused(&mut slots), Refusal::Draining);
    slots.open(open(), 1, 1);
    take(&mut slots);
}

#[test]
fn the_largest_body_is_that_of_the_open_gate() {
    let mut slots = Slots::new(Intake::Open { max_body: Some(7) }, 1);
    assert_eq!(slots.max_body(), Some(7));
    slots.open(Intake::Draining, 0, 1);
    assert_eq!(slots.max_body(), None);
}

#[test]
fn the_most_recently_used_instance_is_taken_first() {
    let mut slots = slots();
    let [a, b, c] = [(); 3].map(|()| add(&mut slots, "", 1));
    assert_eq!([take(&mut slots).0, take(&mut slots).0, take(&mut slots).0], [c, b, a]);
    for id in [b, c, a] {
        assert_eq!(slots.release(id, true, at(2)), Released::Free);
    }
    assert_eq!([take(&mut slots).0, take(&mut slots).0, take(&mut slots).0], [a, c, b]);
}

#[test]
fn a_single_use_instance_serves_once() {
    let mut slots = slots();
    let id = add(&mut slots, "single-use = true", 1);
    assert_eq!(take(&mut slots), (id, true));
    assert_eq!((slots.usable(0), slots.capacity()), (0, 0));
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(2)), Released::Drained);
    assert!(slots.take_ready(0, at(2)).is_none());
}

#[test]
fn a_retired_instance_finishes_what_it_serves_and_gets_nothing_new() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    take(&mut slots);
    take(&mut slots);
    assert_eq!(slots.retire(id), 2);
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(2)), Released::Free);
    assert_eq!(slots.release(id, true, at(2)), Released::Drained);
    assert!(slots.take_ready(0, at(2)).is_none());
}

#[test]
fn an_instance_that_failed_a_request_gets_no_other_and_finishes_those_it_has() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    take(&mut slots);
    take(&mut slots);
    assert_eq!(slots.release(id, false, at(2)), Released::Free);
    wait(&mut slots);
    assert_eq!(slots.usable(0), 0);
    assert_eq!(slots.release(id, true, at(2)), Released::Drained);
}

#[test]
fn slots_of_an_instance_that_is_gone_come_back_to_nobody() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 3", 1);
    take(&mut slots);
    take(&mut slots);
    slots.remove(id);
    for reusable in [true, false] {
        assert_eq!(slots.release(id, reusable, at(2)), Released::Free);
    }
    assert!(slots.occupancy(id).is_none());
    assert_eq!((slots.retire(id), slots.usable(0), slots.capacity()), (0, 0, 0));
    wait(&mut slots);
}

#[test]
fn a_request_accepts_only_instances_that_are_new_enough() {
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
fn newcomers_get_no_instance_of_an_older_spec() {
    let mut slots = slots();
    let old = add(&mut slots, "", 1);
    slots.open(open(), 2, 2);
    wait(&mut slots);
    assert!(slots.take_ready(1, at(1)).is_some_and(|(endpoint, _)| endpoint.instance == old), "they came before it");
    slots.left_queue();
    let new = add(&mut slots, "", 2);
    assert_eq!(take(&mut slots), (new, true));
}

/// How idle the only instance is, in a function that wants `minimum` ready.
fn idleness(slots: &mut Slots, id: InstanceId, minimum: usize, now: u64) -> Idleness {
    slots.idleness(id, KEEPALIVE, minimum, at(now))
}

#[test]
fn keepalive_counts_from_the_last_return() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 2", 1);
    assert_eq!(idleness(&mut slots, id, 0, 59), Idleness::Until(at(60)));
    take(&mut slots);
    take(&mut slots);
    slots.release(id, true, at(80));
    assert_eq!(idleness(&mut slots, id, 0, 500), Idleness::Busy, "one request is still being served");
    assert_eq!(slots.release(id, true, at(510)), Released::Idle);
    assert_eq!(idleness(&mut slots, id, 0, 511), Idleness::Until(at(570)));
    assert_eq!(idleness(&mut slots, id, 0, 570), Idleness::Retired);
    wait(&mut slots);
}

#[test]
fn an_instance_asks_once_to_be_told_that_it_is_idle() {
    let mut slots = slots();
    let id = add(&mut slots, "", 1);
    take(&mut slots);
    assert_eq!(idleness(&mut slots, id, 0, 100), Idleness::Busy);
    assert_eq!(slots.release(id, true, at(101)), Released::Idle);
    take(&mut slots);
    assert_eq!(slots.release(id, true, at(102)), Released::Free);
}

#[test]
fn somebody_who_waits_does_not_keep_an_instance_from_learning_that_it_is_idle() {
    let mut slots = slots();
    let id = add(&mut slots, "", 1);
    take(&mut slots);
    idleness(&mut slots, id, 0, 100);
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(101)), Released::Idle);
}

#[test]
fn the_minimum_is_kept_whatever_the_keepalive() {
    let mut slots = slots();
    let [a, b, c] = [(); 3].map(|()| add(&mut slots, "", 1));
    assert_eq!(idleness(&mut slots, a, 2, 100), Idleness::Retired);
    assert_eq!(idleness(&mut slots, b, 2, 100), Idleness::Needed);
    // One that failed a request does not count towards the minimum, nor does one of an older spec.
    add(&mut slots, "", 0);
    assert_eq!(idleness(&mut slots, c, 2, 100), Idleness::Needed);
    assert_eq!(idleness(&mut slots, b, 1, 100), Idleness::Retired);
}

#[test]
fn an_idle_instance_is_kept_for_those_who_wait() {
    let mut slots = slots();
    wait(&mut slots);
    let id = add(&mut slots, "", 1);
    assert_eq!(slots.idleness(id, Duration::ZERO, 0, at(0)), Idleness::Needed, "nobody has been served yet");
    slots.left_queue();
    assert_eq!(slots.idleness(id, Duration::ZERO, 0, at(0)), Idleness::Retired);
}

#[test]
fn an_instance_that_is_not_seated_is_as_good_as_retired() {
    assert_eq!(idleness(&mut slots(), InstanceId::random(), 5, 100), Idleness::Retired);
}

fn idle_instances(slots: &mut Slots) -> Vec<InstanceId> {
    slots.idle_instances().iter().map(|spare| spare.instance).collect()
}

#[test]
fn idle_instances_can_be_spared_those_that_were_used_last_at_last() {
    let mut slots = slots();
    let [a, b, c] = [(); 3].map(|()| add(&mut slots, "", 1));
    assert_eq!([take(&mut slots).0, take(&mut slots).0], [c, b]);
    assert_eq!(idle_instances(&mut slots), [a]);
    assert_eq!(slots.release(b, true, at(2)), Released::Idle, "it was looked for");
    assert_eq!(slots.release(c, true, at(3)), Released::Idle);
    let idle = slots.idle_instances();
    assert_eq!(
        idle.iter().map(|spare| (spare.instance, spare.idle_since)).collect::<Vec<_>>(),
        [(a, at(0)), (b, at(2)), (c, at(3))]
    );
    assert!(slots.retire_idle(b));
    assert!(!slots.retire_idle(b));
    take(&mut slots);
    assert!(!slots.retire_idle(c), "a caller was faster");
    assert_eq!(idle_instances(&mut slots), [a]);
}

#[test]
fn a_minimum_and_those_who_wait_spare_nothing() {
    let mut slots = slots();
    wait(&mut slots);
    for _ in 0..3 {
        add(&mut slots, "min-instances = 1", 1);
    }
    assert_eq!(idle_instances(&mut slots), []);
    slots.left_queue();
    let [a, b] = idle_instances(&mut slots)[..] else { panic!() };
    assert!(slots.retire_idle(a) && slots.retire_idle(b));
    assert_eq!(idle_instances(&mut slots), []);
    // One of an older spec does not count towards the minimum, and is not needed for it.
    slots.open(open(), 2, 2);
    let [c, d] = [(); 2].map(|()| add(&mut slots, "min-instances = 1", 2));
    let spare = idle_instances(&mut slots);
    assert!(spare.len() == 2 && (spare.contains(&c) != spare.contains(&d)), "{spare:?}");
}

#[test]
fn occupancy_tells_since_when_an_instance_is_busy_or_idle() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 2", 1);
    take(&mut slots);
    slots.take(at(5), full);
    let busy = slots.occupancy(id).unwrap();
    assert_eq!((busy.in_flight, busy.served, busy.since), (2, 2, at(1)));
    slots.release(id, true, at(6));
    slots.release(id, true, at(7));
    let idle = slots.occupancy(id).unwrap();
    assert_eq!((idle.in_flight, idle.served, idle.since), (0, 2, at(7)));
}
