//! The queue and the selection of victims, case by case. `walk.rs` compares random sequences with a model.

mod paused;
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

/// Admits the next request, which is one for a start.
#[track_caller]
fn admit_start(ledger: &mut Ledger, now: u64) -> Option<AdmittedStart> {
    ledger.admit_next(at(now)).map(|admitted| match admitted {
        Admitted::Start(admitted) => admitted,
        Admitted::Wake { instance, .. } => panic!("{instance} was woken"),
    })
}

/// Requests an instance that is admitted at once.
#[track_caller]
fn start(ledger: &mut Ledger, function: FunctionKey, request: StartRequest, now: u64) -> InstanceId {
    ledger.request(function, request).unwrap();
    let admitted = admit_start(ledger, now).expect("it is admitted");
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
    std::iter::from_fn(|| admit_start(ledger, now)).map(|admitted| admitted.function).collect()
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
    let why = ledger.request(2, caller(1001, Isolated, 1)).unwrap_err();
    assert_eq!(why, "an instance needs 1001 MiB, and all instances together may use 1000 MiB (--memory-budget)");
    assert_eq!(ledger.waiting(), 1);
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
    let first = admit_start(&mut ledger, 60).unwrap();
    assert_eq!(first.function, 1);
    waits(&mut ledger, 1, caller(1000, Isolated, 1));
    ledger.release(first.instance, at(61));
    let second = admit_start(&mut ledger, 61).unwrap();
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
    assert_eq!(ledger.shortage(), Some(Shortage { function: 2, missing: 500, is_wake: false }));
    ledger.set_stopping(a, at(3));
    assert_eq!(ledger.shortage(), Some(Shortage { function: 2, missing: 100, is_wake: false }));
    ledger.set_stopping(b, at(3));
    assert_eq!(ledger.shortage(), None);
}

#[test]
fn memory_of_a_stuck_instance_stays_taken_and_is_not_expected_back() {
    let mut ledger = ledger();
    let [stuck, idle] = [400, 500].map(|memory| admit(&mut ledger, 1, memory));
    waits(&mut ledger, 2, caller(600, Isolated, 1));
    ledger.set_stopping(stuck, at(2));
    assert_eq!(
        (ledger.shortage(), ledger.is_empty()),
        (Some(Shortage { function: 2, missing: 100, is_wake: false }), false)
    );
    for _ in 0..2 {
        ledger.set_stuck(stuck, at(3));
        // A late report has no effect.
        ledger.set_stopping(stuck, at(3));
    }
    assert_eq!(
        (ledger.shortage(), ledger.taken()),
        (Some(Shortage { function: 2, missing: 500, is_wake: false }), 900)
    );
    assert_eq!(steps(&ledger, [stuck, idle]), [(idle, Rung::Paused, 470), (idle, Rung::Ended, 30)]);
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
    assert_eq!(ledger.shortage(), Some(Shortage { function: 3, missing: 150, is_wake: false }));
}

/// Returns the steps that idle instances can take, and what each releases. A pause leaves them 30 MiB.
fn steps<const N: usize>(ledger: &Ledger, instances: [InstanceId; N]) -> Vec<(InstanceId, Rung, u64)> {
    let pause = Some(Pausable { footprint: 30, delay: Duration::from_millis(1) });
    let delay = Duration::from_millis(100);
    let idle = instances.map(|instance| IdleInstance { instance, idle_since: at(0), rate: 1.0, pause, delay });
    ledger.steps(idle.to_vec()).into_iter().map(|step| (step.instance, step.to, step.releases)).collect()
}

#[test]
fn an_instance_that_is_being_paused_or_stopped_takes_no_step() {
    let mut ledger = ledger();
    let [a, b, small] = [100, 100, 30].map(|memory| admit(&mut ledger, 1, memory));
    let both = [(b, Rung::Paused, 70), (b, Rung::Ended, 30)];
    ledger.set_stopping(a, at(1));
    assert_eq!(steps(&ledger, [a, b, InstanceId::random()]), both);
    // It holds what it would hold while it is paused.
    assert_eq!(steps(&ledger, [small]), [(small, Rung::Ended, 30)]);
    ledger.set_pausing(b, 30);
    assert_eq!(steps(&ledger, [a, b]), []);
    ledger.set_footprint(b, 100);
    assert_eq!(steps(&ledger, [b]), both);
}

#[test]
fn memory_of_an_instance_that_is_being_paused_is_expected_back() {
    let mut ledger = ledger();
    let [a, b] = [500, 500].map(|memory| admit(&mut ledger, 1, memory));
    waits(&mut ledger, 2, caller(600, Isolated, 1));
    let missing = |ledger: &Ledger| ledger.shortage().map_or(0, |shortage| shortage.missing);
    assert_eq!(missing(&ledger), 600);
    ledger.set_pausing(a, 100);
    ledger.set_pausing(a, 100);
    assert_eq!(missing(&ledger), 200);
    // It holds more than was expected.
    ledger.set_footprint(a, 150);
    assert_eq!((missing(&ledger), ledger.free()), (250, 350));
    // It is wanted again, or ends, before it is paused.
    ledger.set_pausing(b, 100);
    assert_eq!(missing(&ledger), 0);
    ledger.set_footprint(b, 500);
    assert_eq!(missing(&ledger), 250);
    ledger.set_pausing(b, 100);
    ledger.set_stopping(b, at(3));
    assert_eq!(missing(&ledger), 0);
    ledger.release(b, at(4));
    assert_eq!((ledger.free(), admitted(&mut ledger, 4)), (850, vec![2]));
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

#[test]
fn a_template_starts_alone_and_nothing_is_evicted_for_it() {
    let template = |memory| StartRequest { memory, kind: Isolated, urgency: Urgency::Template(at(0)) };
    let mut ledger = ledger();
    let booting = start(&mut ledger, 1, minimum(100), 0);
    for function in [2, 3] {
        ledger.request(function, template(100)).unwrap();
    }
    assert!(admitted(&mut ledger, 0).is_empty());
    ledger.set_started(booting, at(1));
    assert_eq!(admitted(&mut ledger, 1), [2], "nothing else starts, and no more than one");
    assert_eq!((admitted(&mut ledger, 2), ledger.waiting()), (vec![], 1));
    let template_of_two = *ledger.holdings.iter().find(|(_, holding)| holding.is_template).expect("it is there").0;
    // Others do not wait for it.
    let other = start(&mut ledger, 4, minimum(100), 3);
    for instance in [other, template_of_two] {
        ledger.set_started(instance, at(4));
    }
    assert!(admitted(&mut ledger, 4).is_empty(), "the other template is there until nothing is left of it");
    ledger.set_stopping(template_of_two, at(5));
    assert!(admitted(&mut ledger, 5).is_empty());
    ledger.release(template_of_two, at(6));
    assert_eq!(admitted(&mut ledger, 6), [3]);

    let mut ledger = self::ledger();
    admit(&mut ledger, 1, 950);
    waits(&mut ledger, 2, template(100));
    assert_eq!(ledger.shortage(), None);
    ledger.request(3, minimum(100)).unwrap();
    assert_eq!(ledger.shortage(), Some(Shortage { function: 3, missing: 50, is_wake: false }));
}

#[test]
fn a_template_that_has_waited_starts_beside_others_and_takes_no_start_of_theirs() {
    let late = TEMPLATE_PATIENCE.as_secs();
    let template = StartRequest { memory: 100, kind: Isolated, urgency: Urgency::Template(at(0)) };
    let mut ledger = ledger();
    start(&mut ledger, 1, minimum(100), 0);
    ledger.request(2, template).unwrap();
    assert!(admitted(&mut ledger, late - 1).is_empty());
    assert_eq!([late - 1, late].map(|now| ledger.next_template(at(now))), [Some(at(late)), None]);
    assert_eq!((admitted(&mut ledger, late), ledger.starting()), (vec![2], 1));
    ledger.request(3, StartRequest { urgency: Urgency::Template(at(7)), ..template }).unwrap();
    ledger.request(2, StartRequest { urgency: Urgency::Template(at(5)), ..template }).unwrap();
    ledger.request(4, minimum(100)).unwrap();
    assert_eq!(ledger.next_template(at(8)), Some(at(5 + late)), "that of the first one");
}

#[test]
fn a_template_ends_when_a_request_lacks_its_memory() {
    let mut ledger = ledger();
    let template = StartRequest { memory: 400, kind: Isolated, urgency: Urgency::Template(at(0)) };
    ledger.request(1, template).unwrap();
    assert_eq!((admitted(&mut ledger, 0), ledger.end_template(at(0))), (vec![1], None));
    admit(&mut ledger, 2, 500);
    // Also for a request of the function itself.
    ledger.request(1, minimum(300)).unwrap();
    let (function, instance) = ledger.end_template(at(1)).unwrap();
    assert_eq!((function, ledger.shortage(), ledger.end_template(at(1))), (1, None, None));
    ledger.release(instance, at(2));
    assert_eq!(admitted(&mut ledger, 2), [1]);
}
