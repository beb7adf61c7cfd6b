//! Paused instances: when they are paused, that they get no requests, and how they come back.

use super::*;

const KEYS: &str = "keep-paused = 100";

fn expired(paused: &[InstanceId], retired: &[InstanceId]) -> Expired {
    Expired { paused: paused.to_vec(), retired: retired.to_vec() }
}

#[test]
fn an_idle_instance_is_paused_and_then_retired() {
    let mut slots = slots();
    let id = add(&mut slots, KEYS, 1);
    assert_eq!(slots.expire(at(59), None), expired(&[], &[]));
    assert_eq!(slots.expire(at(60), None), expired(&[id], &[]));
    assert_eq!((slots.paused(1), slots.usable(1), slots.next_idle_check()), (1, 0, Some(at(160))));
    assert_eq!(slots.counts(), ReadyCounts { idle: 0, busy: 0, paused: 1 });
    assert_eq!(slots.expire(at(160), None), expired(&[], &[id]));
    assert_eq!(slots.wake_next(1, at(161)), None);
}

#[test]
fn an_instance_with_a_request_or_a_caller_is_not_paused() {
    let mut slots = slots();
    let id = add(&mut slots, KEYS, 1);
    acquire(&mut slots);
    wait(&mut slots);
    assert_eq!(slots.expire(at(100), None), expired(&[], &[]));
    slots.release(id, true, at(101));
    assert_eq!(slots.expire(at(200), None), expired(&[], &[]), "a caller waits");
    slots.leave_queue();
    assert_eq!(slots.expire(at(300), None), expired(&[id], &[]));
}

#[test]
fn a_caller_waits_for_a_paused_instance_and_gets_it_once_it_is_resumed() {
    let mut slots = slots();
    let id = add(&mut slots, KEYS, 1);
    slots.expire(at(60), None);
    wait(&mut slots);
    assert_eq!(slots.expire(at(160), None), expired(&[], &[]), "it is about to be resumed");
    assert_eq!((slots.wake_next(1, at(161)), slots.wake_next(1, at(161))), (Some(id), None));
    assert_eq!((slots.waking(), slots.resuming(), slots.is_paused(id)), (1, 0, false));
    assert_eq!((slots.resume(id), slots.resume(id)), (Some(at(161)), None));
    assert_eq!((slots.waking(), slots.resuming(), slots.usable(1)), (0, 1, 1));
    assert!(slots.take_ready(1, at(161)).is_none());
    slots.resumed(id, true, at(162));
    assert!(slots.take_ready(1, at(162)).is_some_and(|(endpoint, _)| endpoint.instance == id));
    slots.leave_queue();
    assert_eq!(slots.release(id, true, at(170)), Released::Free);
    assert_eq!(slots.expire(at(222), None), expired(&[], &[]));
    assert_eq!(slots.expire(at(230), None), expired(&[id], &[]), "it can be paused again");
}

#[test]
fn the_instance_that_was_used_last_is_resumed_first() {
    let mut slots = slots();
    let [older, newer] = [1, 2].map(|seconds| {
        let endpoint = endpoint(KEYS, 1);
        slots.add(endpoint.clone(), at(seconds));
        endpoint.instance
    });
    assert_eq!(slots.expire(at(100), None), expired(&[older, newer], &[]));
    assert_eq!([(); 3].map(|()| slots.wake_next(1, at(101))), [Some(newer), Some(older), None]);
}

#[test]
fn an_instance_that_cannot_be_paused_serves_on_and_is_stopped_after_its_keepalive() {
    let mut slots = slots();
    let id = add(&mut slots, KEYS, 1);
    assert_eq!(slots.expire(at(60), None), expired(&[id], &[]));
    wait(&mut slots);
    slots.resumed(id, false, at(61));
    assert!(slots.take_ready(1, at(61)).is_some());
    slots.leave_queue();
    slots.release(id, true, at(70));
    assert_eq!(slots.expire(at(129), None), expired(&[], &[]));
    assert_eq!(slots.expire(at(130), None), expired(&[], &[id]));
}

#[test]
fn the_minimum_is_not_paused() {
    let mut slots = slots();
    let ids = [(); 3].map(|()| add(&mut slots, "keep-paused = 100\nmin-instances = 1", 1));
    let paused = slots.expire(at(60), None).paused;
    assert_eq!((paused.len(), slots.usable(1)), (2, 1));
    assert_eq!(slots.expire(at(120), None), expired(&[], &[]));
    // The function can do without those that are paused.
    let idle: Vec<_> = slots.idle_instances().iter().map(|idle| idle.instance).collect();
    assert!(idle.len() == 2 && idle.iter().all(|id| paused.contains(id) && ids.contains(id)), "{idle:?}");
    assert!(slots.retire_idle(paused[0]));
    assert_eq!(slots.wake_next(1, at(121)), Some(paused[1]));
}

#[test]
fn an_instance_that_was_retired_or_has_ended_while_it_was_paused_is_not_resumed() {
    let mut slots = slots();
    let [retired, removed, resuming] = [(); 3].map(|()| add(&mut slots, KEYS, 1));
    slots.expire(at(60), None);
    assert_eq!((slots.retire(retired), slots.remove(removed)), (0, 0));
    assert_eq!(slots.wake_next(2, at(60)), None, "it is too old");
    assert_eq!(slots.wake_next(1, at(60)), Some(resuming));
    slots.retire(resuming);
    assert_eq!(slots.resume(resuming), None);
    slots.resumed(resuming, true, at(61));
    slots.resumed(removed, true, at(61));
    assert!(slots.take_ready(1, at(61)).is_none());
    assert_eq!((slots.resuming(), slots.next_idle_check()), (0, None));
}

#[test]
fn a_waking_instance_that_no_caller_needs_any_more_is_left_paused() {
    let mut slots = slots();
    let [older, newer] = [1, 2].map(|seconds| {
        let endpoint = endpoint(KEYS, 1);
        slots.add(endpoint.clone(), at(seconds));
        endpoint.instance
    });
    slots.expire(at(100), None);
    wait(&mut slots);
    assert_eq!(slots.idle_instances(), [], "callers wait");
    assert_eq!(slots.wake_next(1, at(101)), Some(newer));
    // The other one may make room for it.
    let idle: Vec<_> = slots.idle_instances().iter().map(|idle| (idle.instance, idle.idle_since, idle.runs)).collect();
    assert_eq!(idle, [(older, at(1), false)]);
    assert_eq!(slots.wake_next(1, at(101)), Some(older));
    assert_eq!((slots.idle_instances(), slots.waking()), (vec![], 2));
    assert_eq!(slots.stop_waking(1, at(102)), [older]);
    slots.leave_queue();
    assert_eq!(slots.stop_waking(9, at(103)), [newer]);
    assert_eq!((slots.waking(), slots.paused(1), slots.resume(newer)), (0, 2, None));
    assert_eq!(slots.next_idle_check(), Some(at(202)));
    assert_eq!(slots.expire(at(203), None), expired(&[], &[older, newer]));
}

#[test]
fn an_idle_instance_can_be_paused_before_its_keepalive() {
    let mut slots = slots();
    let [id, unpausable] = ["keep-paused = 100", ""].map(|keys| add(&mut slots, keys, 1));
    let pausable = |slots: &Slots| {
        let idle = slots.idle_instances();
        idle.iter().filter(|idle| idle.is_pausable).map(|idle| idle.instance).collect::<Vec<_>>()
    };
    assert_eq!((slots.idle_instances().len(), pausable(&slots)), (2, vec![id]));
    assert!(!slots.pause_idle(unpausable, at(1)));
    assert!(slots.pause_idle(id, at(2)) && !slots.pause_idle(id, at(2)));
    assert_eq!((slots.paused(1), slots.next_idle_check(), pausable(&slots)), (1, Some(at(60)), vec![]));
    assert_eq!(slots.expire(at(60), None), expired(&[], &[unpausable]));
    assert_eq!(slots.expire(at(102), None), expired(&[], &[id]));
}

#[test]
fn an_idle_instance_that_another_program_has_paused_is_resumed_for_the_next_caller() {
    let mut slots = slots();
    let [kept, unkept] = [KEYS, ""].map(|keys| add(&mut slots, keys, 1));
    assert!([kept, unkept].iter().all(|id| !slots.paused_externally(*id, at(10))));
    assert_eq!((slots.paused(1), slots.next_idle_check()), (2, Some(at(60))));
    assert_eq!(slots.expire(at(60), None), expired(&[], &[unkept]), "as if it had been paused after its keepalive");
    wait(&mut slots);
    assert_eq!(slots.wake_next(1, at(60)), Some(kept));
    assert_eq!(slots.resume(kept), Some(at(60)));
    assert!(!slots.paused_externally(kept, at(61)), "it is being resumed anyway");
    slots.resumed(kept, true, at(61));
    assert!(slots.take_ready(1, at(61)).is_some_and(|(endpoint, _)| endpoint.instance == kept));
}

#[test]
fn a_busy_instance_that_another_program_has_paused_is_resumed_at_once_and_keeps_its_slots() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 2", 1);
    acquire(&mut slots);
    assert!(slots.paused_externally(id, at(10)));
    assert_eq!((slots.paused(1), slots.usable(1)), (0, 1));
    acquire(&mut slots);
    slots.resumed(id, true, at(11));
    slots.release(id, true, at(12));
    assert!(slots.take_ready(1, at(12)).is_some());
    assert!(slots.take_ready(1, at(12)).is_none(), "it was added twice");
}

#[test]
fn the_last_paused_instance_is_kept_while_a_request_is_expected() {
    let mut slots = slots();
    let [older, newer] = [(); 2].map(|()| add(&mut slots, KEYS, 1));
    acquire(&mut slots);
    slots.release(newer, true, at(20));
    slots.expire(at(80), None);
    assert_eq!(slots.paused(1), 2);
    assert_eq!(slots.expire(at(180), Some(at(300))), expired(&[], &[older]));
    assert_eq!((slots.paused(1), slots.next_idle_check()), (1, Some(at(300))));
    assert_eq!(slots.expire(at(300), None), expired(&[], &[newer]));
    slots.remove(newer);
    assert_eq!(slots.last_served(), Some(at(20)));
}

#[test]
fn an_instance_that_was_started_ahead_of_requests_is_paused_unless_a_caller_waits() {
    let mut slots = slots();
    wait(&mut slots);
    let id = add(&mut slots, KEYS, 1);
    assert!(!slots.pause_unused(id, at(500)));
    slots.leave_queue();
    assert!(slots.pause_unused(id, at(500)) && !slots.pause_unused(id, at(500)));
    assert_eq!((slots.is_running(), slots.last_served(), slots.next_idle_check()), (false, None, Some(at(500))));
}
