//! The queue and the selection of victims, case by case. `walk.rs` compares random sequences with a model.

mod walk;

use std::sync::LazyLock;

use StartKind::{Isolated, Process};

use super::*;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

/// Has a thousand MiB, and lets one process and two isolated instances start at once.
fn ledger() -> Ledger {
    Ledger::new(HostLimits { memory: 1000, process_starts: 1, starts: 2 })
}

fn caller(memory: u64, kind: StartKind, since: u64) -> StartRequest {
    StartRequest { memory, kind, urgency: Urgency::Caller(at(since)) }
}

fn minimum(memory: u64) -> StartRequest {
    StartRequest { memory, kind: StartKind::Isolated, urgency: Urgency::Minimum }
}

/// Requests an instance that is admitted at once.
#[track_caller]
fn start(ledger: &mut Ledger, function: FunctionKey, request: StartRequest, now: u64) -> InstanceId {
    ledger.request(function, request).unwrap();
    let admitted = ledger.admit_next(at(now)).expect("it is admitted");
    assert_eq!((admitted.function, admitted.kind), (function, request.kind));
    admitted.instance
}

/// Has an instance of the function admitted and ready.
#[track_caller]
fn admit(ledger: &mut Ledger, function: FunctionKey, memory: u64) -> InstanceId {
    let instance = start(ledger, function, minimum(memory), 0);
    ledger.set_started(instance, at(0));
    instance
}

/// Requests an instance that has to wait.
#[track_caller]
fn waits(ledger: &mut Ledger, function: FunctionKey, request: StartRequest) {
    ledger.request(function, request).unwrap();
    assert!(admitted(ledger, 50).is_empty());
}

/// Admits whatever can be admitted; returns the functions in this order.
fn admitted(ledger: &mut Ledger, now: u64) -> Vec<FunctionKey> {
    std::iter::from_fn(|| ledger.admit_next(at(now))).map(|admitted| admitted.function).collect()
}

#[test]
fn released_memory_can_be_granted_again_once() {
    let mut ledger = ledger();
    let first = admit(&mut ledger, 1, 600);
    admit(&mut ledger, 2, 400);
    waits(&mut ledger, 3, caller(100, Isolated, 1));
    ledger.set_stopping(first, at(2));
    assert_eq!((ledger.free(), admitted(&mut ledger, 2)), (0, vec![]));
    ledger.release(first, at(3));
    ledger.release(first, at(3));
    assert_eq!((ledger.free(), ledger.taken()), (600, 400));
    assert_eq!((admitted(&mut ledger, 3), ledger.free()), (vec![3], 500));
}

#[test]
fn a_request_that_exceeds_the_host_blocks_no_other() {
    let mut ledger = ledger();
    admit(&mut ledger, 1, 600);
    waits(&mut ledger, 2, caller(500, Isolated, 1));
    waits(&mut ledger, 3, caller(300, Isolated, 2));
    let (why, retry_after) = ledger.request(2, caller(1001, Isolated, 1)).unwrap_err();
    assert_eq!(why, "an instance needs 1001 MiB, and all instances together may use 1000 MiB");
    assert_eq!((retry_after, ledger.waiting()), (MAX_RETRY_AFTER, 1));
    assert_eq!(admitted(&mut ledger, 50), [3]);
}

#[test]
fn the_longest_waiting_caller_is_first_and_a_large_request_is_not_overtaken() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 1, 960);
    waits(&mut ledger, 2, caller(50, Isolated, 7));
    waits(&mut ledger, 3, caller(500, Isolated, 5));
    waits(&mut ledger, 4, caller(60, Isolated, 6));
    ledger.release(held, at(9));
    assert_eq!(admitted(&mut ledger, 9), [3, 4], "two may start at once");
}

#[test]
fn callers_precede_minimums() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 1, 1000);
    waits(&mut ledger, 2, minimum(500));
    waits(&mut ledger, 3, minimum(500));
    waits(&mut ledger, 4, caller(600, Isolated, 100));
    ledger.release(held, at(9));
    assert_eq!(admitted(&mut ledger, 90), [4]);
    // A function that gets a caller moves forward.
    start(&mut ledger, 3, caller(400, Isolated, 90), 90);
}

#[test]
fn an_admitted_function_goes_to_the_back() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 9, 1000);
    waits(&mut ledger, 1, caller(1000, Isolated, 1));
    waits(&mut ledger, 2, caller(1000, Isolated, 2));
    ledger.release(held, at(60));
    let first = ledger.admit_next(at(60)).unwrap();
    assert_eq!(first.function, 1);
    waits(&mut ledger, 1, caller(1000, Isolated, 1));
    ledger.release(first.instance, at(61));
    let second = ledger.admit_next(at(61)).unwrap();
    assert_eq!(second.function, 2);
    ledger.forget(1);
    waits(&mut ledger, 2, caller(1000, Isolated, 2));
    waits(&mut ledger, 1, caller(1000, Isolated, 3));
    ledger.release(second.instance, at(62));
    assert_eq!(admitted(&mut ledger, 62), [1], "a forgotten function has no past");
}

#[test]
fn starts_of_a_kind_are_bounded_until_they_are_ready() {
    let mut ledger = ledger();
    let a = start(&mut ledger, 1, minimum(10), 0);
    let b = start(&mut ledger, 2, minimum(10), 0);
    waits(&mut ledger, 3, minimum(10));
    // It overtakes, but takes nothing away.
    let process = start(&mut ledger, 4, caller(10, Process, 5), 5);
    waits(&mut ledger, 5, caller(10, Process, 6));
    assert_eq!(ledger.starting(), 3);
    ledger.set_started(a, at(6));
    ledger.set_started(a, at(6));
    assert_eq!((ledger.starting(), admitted(&mut ledger, 6)), (2, vec![3]));
    ledger.set_stopping(process, at(7));
    assert_eq!((ledger.starting(), admitted(&mut ledger, 7)), (2, vec![5]));
    ledger.release(b, at(7));
    assert_eq!((ledger.starting(), ledger.taken()), (2, 40));
}

#[test]
fn a_request_that_waits_for_a_start_keeps_its_memory() {
    let mut ledger = ledger();
    for function in 1..=2 {
        start(&mut ledger, function, minimum(300), 0);
    }
    waits(&mut ledger, 3, caller(300, Isolated, 1));
    waits(&mut ledger, 4, caller(200, Process, 2));
    start(&mut ledger, 4, caller(100, Process, 2), 2);
}

#[test]
fn the_shortage_is_what_stopping_instances_will_not_release() {
    let mut ledger = ledger();
    let [a, b] = [400, 500].map(|memory| admit(&mut ledger, 1, memory));
    assert_eq!(ledger.shortage(), None);
    waits(&mut ledger, 2, caller(600, Isolated, 1));
    waits(&mut ledger, 3, caller(900, Isolated, 2));
    assert_eq!(ledger.shortage(), Some(Shortage { function: 2, missing: 500 }));
    ledger.set_stopping(a, at(3));
    assert_eq!(ledger.shortage(), Some(Shortage { function: 2, missing: 100 }));
    ledger.set_stopping(b, at(3));
    assert_eq!(ledger.shortage(), None);
}

#[test]
fn memory_of_a_stuck_instance_stays_taken_and_is_not_expected_back() {
    let mut ledger = ledger();
    let [stuck, idle] = [400, 500].map(|memory| admit(&mut ledger, 1, memory));
    waits(&mut ledger, 2, caller(600, Isolated, 1));
    ledger.set_stopping(stuck, at(2));
    assert_eq!((ledger.shortage(), ledger.is_empty()), (Some(Shortage { function: 2, missing: 100 }), false));
    for _ in 0..2 {
        ledger.set_stuck(stuck, at(3));
        // A late report has no effect.
        ledger.set_stopping(stuck, at(3));
    }
    assert_eq!((ledger.shortage(), ledger.taken()), (Some(Shortage { function: 2, missing: 500 }), 900));
    let candidates = [stuck, idle].map(|instance| IdleInstance { instance, idle_since: at(0) });
    assert_eq!(ledger.select_victims(500, candidates.to_vec()), [idle]);
    ledger.release(idle, at(4));
    assert_eq!((ledger.is_empty(), ledger.taken()), (true, 400));
    assert_eq!((admitted(&mut ledger, 4), ledger.is_empty()), (vec![2], false));
    ledger.release(stuck, at(5));
    assert_eq!((ledger.taken(), ledger.free()), (600, 400));
}

#[test]
fn a_request_that_lacks_a_start_causes_no_shortage() {
    let mut ledger = ledger();
    admit(&mut ledger, 1, 900);
    let starting = start(&mut ledger, 2, caller(50, Process, 1), 1);
    waits(&mut ledger, 3, caller(200, Process, 2));
    assert_eq!(ledger.shortage(), None);
    ledger.set_started(starting, at(3));
    assert_eq!(ledger.shortage(), Some(Shortage { function: 3, missing: 150 }));
}

/// Checks the selection, by position, among instances of those sizes, each idle for a second less than the one before.
#[track_caller]
fn check_victims(missing: u64, sizes: &[u64], expected: &[usize]) {
    let mut ledger = ledger();
    let instances: Vec<_> = sizes.iter().map(|size| admit(&mut ledger, 1, *size)).collect();
    let idle =
        |(second, instance): (usize, &InstanceId)| IdleInstance { instance: *instance, idle_since: at(second as u64) };
    // The order in which they are reported does not matter.
    let candidates = instances.iter().enumerate().map(idle).rev().collect();
    let victims = ledger.select_victims(missing, candidates);
    let positions = victims.iter().map(|victim| instances.iter().position(|instance| instance == victim).unwrap());
    assert_eq!(positions.collect::<Vec<_>>(), expected, "{missing} of {sizes:?}");
}

#[test]
fn selects_the_longest_idle_instances_and_no_more_than_necessary() {
    check_victims(100, &[100, 100, 100], &[0]);
    check_victims(101, &[100, 100, 100], &[0, 1]);
    check_victims(300, &[100, 100, 100], &[0, 1, 2]);
    check_victims(301, &[100, 100, 100], &[]);
    check_victims(300, &[100, 300], &[1]);
    check_victims(300, &[50, 100, 200, 50], &[1, 2]);
    check_victims(310, &[50, 10, 250], &[0, 1, 2]);
    check_victims(300, &[], &[]);
}

#[test]
fn selects_no_instance_that_is_stopping_already() {
    let mut ledger = ledger();
    let [a, b] = [100, 100].map(|memory| admit(&mut ledger, 1, memory));
    ledger.set_stopping(a, at(1));
    let idle = [a, b, InstanceId::random()].map(|instance| IdleInstance { instance, idle_since: at(0) });
    assert_eq!(ledger.select_victims(100, idle.to_vec()), [b]);
    assert_eq!(ledger.select_victims(101, idle.to_vec()), []);
}

#[test]
fn explains_a_wait_for_memory_with_its_expected_duration() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 1, 900);
    for second in 1..=10 {
        let instance = admit(&mut ledger, 1, 100);
        ledger.release(instance, at(second));
    }
    assert_eq!(ledger.wait_reason(2, at(10)), None, "it does not wait");
    waits(&mut ledger, 2, caller(200, Isolated, 1));
    waits(&mut ledger, 3, caller(400, Isolated, 2));
    let (why, after) = ledger.wait_reason(2, at(11)).unwrap();
    assert_eq!(why, "an instance needs 200 MiB, and 100 of 1000 MiB are free");
    assert_eq!(after, Duration::from_secs(1), "a hundred MiB are released every second");
    assert_eq!(ledger.wait_reason(3, at(11)).unwrap().1, Duration::from_secs(5));
    ledger.set_stopping(held, at(11));
    assert_eq!(ledger.wait_reason(2, at(11)).unwrap().1, Duration::ZERO);
}

#[test]
fn explains_a_wait_for_a_start() {
    let mut ledger = ledger();
    start(&mut ledger, 1, caller(10, Process, 0), 0);
    waits(&mut ledger, 2, caller(10, Process, 1));
    let (why, after) = ledger.wait_reason(2, at(2)).unwrap();
    assert_eq!((why.as_str(), after), ("as many instances are starting as may at once (1)", MAX_RETRY_AFTER));
}
