//! Idle instances: keepalive, minimums, and what the function can do without.

use super::*;

fn idle(slots: &Slots) -> Vec<InstanceId> {
    slots.idle_instances().iter().map(|idle| idle.instance).collect()
}

#[test]
fn keepalive_counts_from_the_last_release() {
    let mut slots = slots();
    let id = add(&mut slots, "concurrent-requests = 2", 1);
    assert_eq!((slots.next_idle_check(), slots.expire(at(59), None).retired), (Some(at(60)), vec![]));
    acquire(&mut slots);
    acquire(&mut slots);
    slots.release(id, true, at(30));
    slots.release(id, true, at(40));
    assert_eq!((slots.expire(at(60), None).retired, slots.next_idle_check()), (vec![], Some(at(100))));
    assert_eq!((slots.expire(at(100), None).retired, slots.next_idle_check()), (vec![id], None));
    wait(&mut slots);
}

#[test]
fn a_busy_instance_notifies_once_when_it_becomes_idle() {
    let mut slots = slots();
    let id = add(&mut slots, "", 1);
    acquire(&mut slots);
    assert_eq!((slots.expire(at(100), None).retired, slots.next_idle_check()), (vec![], None));
    assert_eq!(slots.release(id, true, at(101)), Released::Idle);
    assert_eq!(slots.next_idle_check(), Some(at(161)));
    acquire(&mut slots);
    assert_eq!(slots.release(id, true, at(102)), Released::Free);
    assert_eq!((slots.expire(at(161), None).retired, slots.next_idle_check()), (vec![], Some(at(162))));
    assert_eq!(slots.expire(at(162), None).retired, [id]);
}

#[test]
fn an_instance_notifies_that_it_is_idle_although_callers_wait() {
    let mut slots = slots();
    let id = add(&mut slots, "", 1);
    acquire(&mut slots);
    slots.expire(at(100), None);
    wait(&mut slots);
    assert_eq!(slots.release(id, true, at(101)), Released::Idle);
}

#[test]
fn the_minimum_outlives_its_keepalive() {
    let mut slots = slots();
    let [_, _, _] = [(); 3].map(|()| add(&mut slots, "min-instances = 2", 1));
    // An instance of an older spec does not count towards the minimum.
    let old = add(&mut slots, "", 0);
    let expired = slots.expire(at(100), None).retired;
    assert!(expired.len() == 2 && expired.contains(&old), "{expired:?}");
    assert_eq!((slots.usable(1), slots.next_idle_check()), (2, Some(at(160))));
    assert_eq!(slots.expire(at(160), None).retired, []);
}

#[test]
fn an_idle_instance_is_kept_for_waiting_callers() {
    let mut slots = slots();
    wait(&mut slots);
    let id = add(&mut slots, "keepalive = 0", 1);
    assert_eq!(slots.expire(at(0), None).retired, [], "no caller has been served yet");
    slots.leave_queue();
    assert_eq!(slots.next_idle_check(), Some(at(1)), "a keepalive of zero is checked every second");
    assert_eq!(slots.expire(at(1), None).retired, [id]);
}

#[test]
fn a_retired_or_removed_instance_does_not_expire() {
    let mut slots = slots();
    let [retired, removed] = [(); 2].map(|()| add(&mut slots, "", 1));
    slots.retire(retired);
    slots.remove(removed);
    assert_eq!((slots.next_idle_check(), slots.expire(at(100), None).retired), (None, vec![]));
}

#[test]
fn idle_instances_are_reported_longest_idle_first() {
    let mut slots = slots();
    let [a, b, c] = [(); 3].map(|()| add(&mut slots, "", 1));
    assert_eq!([acquire(&mut slots).0, acquire(&mut slots).0], [c, b]);
    assert_eq!(idle(&slots), [a]);
    slots.notify_when_idle();
    assert_eq!(slots.release(b, true, at(2)), Released::Idle);
    assert_eq!(slots.release(c, true, at(3)), Released::Idle);
    let reported = slots.idle_instances();
    assert_eq!(
        reported.iter().map(|idle| (idle.instance, idle.idle_since)).collect::<Vec<_>>(),
        [(a, at(0)), (b, at(2)), (c, at(3))]
    );
    assert!(slots.retire_idle(b));
    assert!(!slots.retire_idle(b));
    acquire(&mut slots);
    assert!(!slots.retire_idle(c), "a caller was faster");
    assert_eq!(idle(&slots), [a]);
}

#[test]
fn waiting_callers_and_the_minimum_need_idle_instances() {
    let mut slots = slots();
    wait(&mut slots);
    for _ in 0..3 {
        add(&mut slots, "min-instances = 1", 1);
    }
    assert_eq!(idle(&slots), []);
    slots.leave_queue();
    let [a, b] = idle(&slots)[..] else { panic!() };
    assert!(slots.retire_idle(a) && slots.retire_idle(b));
    assert_eq!(idle(&slots), []);
    // An instance of an older spec does not count towards the minimum, and is not needed for it.
    slots.configure(open(2), 2);
    let [c, d] = [(); 2].map(|()| add(&mut slots, "min-instances = 1", 2));
    let dispensable = idle(&slots);
    assert!(dispensable.len() == 2 && (dispensable.contains(&c) != dispensable.contains(&d)), "{dispensable:?}");
}
