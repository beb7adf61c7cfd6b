//! The queue and the choice of victims, case by case. Random sequences against a model are in `walk.rs`.

mod walk;

use std::sync::LazyLock;

use StartKind::{Isolated, Process};

use super::*;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

/// A thousand MiB, one process and two others starting at once.
fn ledger() -> Ledger {
    Ledger::new(HostLimits { memory: 1000, process_starts: 1, starts: 2 })
}

fn caller(memory: u64, kind: StartKind, since: u64) -> StartRequest {
    StartRequest { memory, kind, urgency: Urgency::Caller(at(since)) }
}

fn minimum(memory: u64) -> StartRequest {
    StartRequest { memory, kind: StartKind::Isolated, urgency: Urgency::Minimum }
}

/// Has an instance of the function admitted, started and seen ready.
#[track_caller]
fn admit(ledger: &mut Ledger, function: FunctionKey, memory: u64) -> InstanceId {
    let instance = InstanceId::random();
    let request = StartRequest { memory, kind: StartKind::Isolated, urgency: Urgency::Minimum };
    assert_eq!(ledger.ask(function, instance, request, at(0)), Decision::Granted);
    ledger.started(instance, at(0));
    instance
}

#[track_caller]
fn waits(ledger: &mut Ledger, function: FunctionKey, request: StartRequest) {
    assert_eq!(ledger.ask(function, InstanceId::random(), request, at(50)), Decision::Queued);
}

#[test]
fn what_was_given_back_can_be_given_again_and_nothing_else() {
    let mut ledger = ledger();
    let first = admit(&mut ledger, 1, 600);
    admit(&mut ledger, 2, 400);
    waits(&mut ledger, 3, caller(100, Isolated, 1));
    ledger.returning(first, at(2));
    assert_eq!((ledger.free(), ledger.take_notifications()), (0, vec![]));
    ledger.released(first, at(3));
    ledger.released(first, at(3));
    assert_eq!((ledger.free(), ledger.taken(), ledger.take_notifications()), (600, 400, vec![3]));
}

#[test]
fn who_asks_for_more_than_there_is_does_not_stand_in_the_way() {
    let mut ledger = ledger();
    admit(&mut ledger, 1, 600);
    waits(&mut ledger, 2, caller(500, Isolated, 1));
    waits(&mut ledger, 3, caller(300, Isolated, 2));
    assert_eq!(ledger.ask(2, InstanceId::random(), caller(1001, Isolated, 1), at(50)), Decision::Never);
    assert_eq!((ledger.waiting(), ledger.take_notifications()), (1, vec![3]));
}

#[test]
fn who_waits_longest_comes_first_and_nobody_overtakes_a_large_one() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 1, 960);
    waits(&mut ledger, 2, caller(50, Isolated, 7));
    waits(&mut ledger, 3, caller(500, Isolated, 5));
    waits(&mut ledger, 4, caller(60, Isolated, 6));
    assert!(ledger.take_notifications().is_empty());
    ledger.released(held, at(9));
    assert_eq!(ledger.take_notifications(), [3, 4], "two may start at once");
    assert!(ledger.take_notifications().is_empty(), "they have been told");
}

#[test]
fn callers_come_before_a_minimum() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 1, 1000);
    waits(&mut ledger, 2, minimum(500));
    waits(&mut ledger, 3, minimum(500));
    waits(&mut ledger, 4, caller(600, Isolated, 100));
    ledger.released(held, at(9));
    assert_eq!(ledger.take_notifications(), [4]);
    // Whoever comes to have a caller goes up.
    assert_eq!(ledger.ask(3, InstanceId::random(), caller(400, Isolated, 90), at(90)), Decision::Granted);
}

#[test]
fn who_was_served_goes_to_the_back() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 9, 1000);
    waits(&mut ledger, 1, caller(1000, Isolated, 1));
    waits(&mut ledger, 2, caller(1000, Isolated, 2));
    ledger.released(held, at(60));
    let instance = InstanceId::random();
    assert_eq!(ledger.ask(1, instance, caller(1000, Isolated, 1), at(60)), Decision::Granted);
    waits(&mut ledger, 1, caller(1000, Isolated, 1));
    ledger.released(instance, at(61));
    assert_eq!(ledger.take_notifications(), [2]);
    ledger.forget(1);
    let request = caller(1000, Isolated, 1);
    assert_eq!(ledger.ask(1, instance, request, at(62)), Decision::Granted, "what was forgotten has no past");
}

#[test]
fn starts_of_a_kind_have_a_bound_together_until_they_are_ready_or_given_up() {
    let mut ledger = ledger();
    let [a, b, p] = [(); 3].map(|()| InstanceId::random());
    assert_eq!(ledger.ask(1, a, minimum(10), at(0)), Decision::Granted);
    assert_eq!(ledger.ask(2, b, minimum(10), at(0)), Decision::Granted);
    waits(&mut ledger, 3, minimum(10));
    assert_eq!(
        ledger.ask(4, p, caller(10, Process, 5), at(5)),
        Decision::Granted,
        "it overtakes, but takes nothing away"
    );
    waits(&mut ledger, 5, caller(10, Process, 6));
    assert_eq!((ledger.starting(), ledger.take_notifications()), (3, vec![]));
    ledger.started(a, at(6));
    ledger.started(a, at(6));
    assert_eq!((ledger.starting(), ledger.take_notifications()), (2, vec![3]));
    ledger.returning(p, at(7));
    assert_eq!((ledger.starting(), ledger.take_notifications()), (1, vec![5]));
    ledger.released(b, at(7));
    assert_eq!((ledger.starting(), ledger.taken()), (0, 20));
}

#[test]
fn who_waits_for_a_start_keeps_its_memory() {
    let mut ledger = ledger();
    for function in 1..=2 {
        ledger.ask(function, InstanceId::random(), minimum(300), at(0));
    }
    waits(&mut ledger, 3, caller(300, Isolated, 1));
    waits(&mut ledger, 4, caller(200, Process, 2));
    let request = caller(100, Process, 2);
    assert_eq!(ledger.ask(4, InstanceId::random(), request, at(2)), Decision::Granted);
}

#[test]
fn the_shortage_is_what_the_first_lacks_beyond_what_comes_back() {
    let mut ledger = ledger();
    let [a, b] = [400, 500].map(|memory| admit(&mut ledger, 1, memory));
    assert_eq!(ledger.shortage(), None);
    waits(&mut ledger, 2, caller(600, Isolated, 1));
    waits(&mut ledger, 3, caller(900, Isolated, 2));
    assert_eq!(ledger.shortage(), Some(Shortage { function: 2, missing: 500 }));
    ledger.returning(a, at(3));
    assert_eq!(ledger.shortage(), Some(Shortage { function: 2, missing: 100 }));
    ledger.returning(b, at(3));
    assert_eq!(ledger.shortage(), None);
}

#[test]
fn what_is_stuck_stays_taken_and_nobody_counts_on_it() {
    let mut ledger = ledger();
    let [stuck, idle] = [400, 500].map(|memory| admit(&mut ledger, 1, memory));
    waits(&mut ledger, 2, caller(600, Isolated, 1));
    ledger.returning(stuck, at(2));
    assert_eq!((ledger.shortage(), ledger.is_empty()), (Some(Shortage { function: 2, missing: 100 }), false));
    for _ in 0..2 {
        ledger.stuck(stuck, at(3));
        // Whoever has seen it being ended may say so once more.
        ledger.returning(stuck, at(3));
    }
    assert_eq!((ledger.shortage(), ledger.taken()), (Some(Shortage { function: 2, missing: 500 }), 900));
    let candidates = [stuck, idle].map(|instance| IdleInstance { instance, idle_since: at(0) });
    assert_eq!(ledger.victims(500, candidates.to_vec()), [idle]);
    ledger.released(idle, at(4));
    assert_eq!((ledger.take_notifications(), ledger.is_empty(), ledger.taken()), (vec![2], true, 400));
    ledger.released(stuck, at(5));
    assert_eq!((ledger.taken(), ledger.free()), (0, 1000));
}

#[test]
fn nobody_makes_room_for_one_who_may_not_start() {
    let mut ledger = ledger();
    admit(&mut ledger, 1, 900);
    let starting = InstanceId::random();
    ledger.ask(2, starting, caller(50, Process, 1), at(1));
    waits(&mut ledger, 3, caller(200, Process, 2));
    assert_eq!(ledger.shortage(), None);
    ledger.started(starting, at(3));
    assert_eq!(ledger.shortage(), Some(Shortage { function: 3, missing: 150 }));
}

/// Instances of that size, idle since a second more each; the choice among them, by position.
#[track_caller]
fn check_victims(missing: u64, sizes: &[u64], expected: &[usize]) {
    let mut ledger = ledger();
    let instances: Vec<_> = sizes.iter().map(|size| admit(&mut ledger, 1, *size)).collect();
    let spare =
        |(second, instance): (usize, &InstanceId)| IdleInstance { instance: *instance, idle_since: at(second as u64) };
    // Whoever lists them may do it in any order.
    let idle = instances.iter().enumerate().map(spare).rev().collect();
    let victims = ledger.victims(missing, idle);
    let positions = victims.iter().map(|victim| instances.iter().position(|instance| instance == victim).unwrap());
    assert_eq!(positions.collect::<Vec<_>>(), expected, "{missing} of {sizes:?}");
}

#[test]
fn those_that_were_idle_longest_are_ended_and_no_more_than_it_takes() {
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
fn what_is_coming_back_already_is_no_victim() {
    let mut ledger = ledger();
    let [a, b] = [100, 100].map(|memory| admit(&mut ledger, 1, memory));
    ledger.returning(a, at(1));
    let idle = [a, b, InstanceId::random()].map(|instance| IdleInstance { instance, idle_since: at(0) });
    assert_eq!(ledger.victims(100, idle.to_vec()), [b]);
    assert_eq!(ledger.victims(101, idle.to_vec()), []);
}

#[test]
fn whoever_waits_is_told_for_what_and_for_how_long() {
    let mut ledger = ledger();
    let held = admit(&mut ledger, 1, 900);
    for second in 1..=10 {
        let instance = admit(&mut ledger, 1, 100);
        ledger.released(instance, at(second));
    }
    assert_eq!(ledger.wait_reason(2, at(10)), None, "it does not wait");
    waits(&mut ledger, 2, caller(200, Isolated, 1));
    waits(&mut ledger, 3, caller(400, Isolated, 2));
    let (why, after) = ledger.wait_reason(2, at(11)).unwrap();
    assert_eq!(why, "an instance needs 200 MiB, and 100 of 1000 MiB are free");
    assert_eq!(after, Duration::from_secs(1), "a hundred MiB come back every second");
    assert_eq!(ledger.wait_reason(3, at(11)).unwrap().1, Duration::from_secs(5));
    ledger.returning(held, at(11));
    assert_eq!(ledger.wait_reason(2, at(11)).unwrap().1, Duration::ZERO);
    assert_eq!(ledger.too_large(2000).1, LONGEST_WAIT);
}

#[test]
fn whoever_waits_for_a_start_is_told_so() {
    let mut ledger = ledger();
    let starting = InstanceId::random();
    ledger.ask(1, starting, caller(10, Process, 0), at(0));
    waits(&mut ledger, 2, caller(10, Process, 1));
    let (why, after) = ledger.wait_reason(2, at(2)).unwrap();
    assert_eq!((why.as_str(), after), ("as many instances are starting as may at once (1)", LONGEST_WAIT));
}
