//! Paused instances: what they are charged, and how they get the rest of their memory back.

use super::*;

fn wake(instance: InstanceId, since: u64) -> WakeRequest {
    WakeRequest { instance, urgency: Urgency::Caller(at(since)) }
}

/// Has an instance of the function admitted and paused.
#[track_caller]
fn pause(ledger: &mut Ledger, function: FunctionKey, memory: u64, footprint: u64) -> InstanceId {
    let instance = admit(ledger, function, memory);
    ledger.set_footprint(instance, footprint);
    instance
}

#[test]
fn a_paused_instance_is_charged_what_it_holds() {
    let mut ledger = ledger();
    let paused = pause(&mut ledger, 1, 600, 50);
    assert_eq!((ledger.taken(), ledger.free()), (50, 950));
    ledger.request_wake(wake(paused, 1));
    assert_eq!(ledger.admit_next(at(1)), Some(Admitted::Wake { function: 1, instance: paused }));
    assert_eq!((ledger.taken(), ledger.admit_next(at(1))), (600, None));
    // A second request is granted at once: it has its memory.
    ledger.request_wake(wake(paused, 1));
    assert_eq!(ledger.admit_next(at(1)), Some(Admitted::Wake { function: 1, instance: paused }));
    ledger.set_footprint(paused, 2_000);
    assert_eq!(ledger.taken(), 600, "never more than it declares");
    ledger.set_footprint(paused, 70);
    ledger.release(paused, at(2));
    assert_eq!((ledger.taken(), ledger.is_empty()), (0, true));
}

#[test]
fn paused_instances_precede_starts_and_are_not_overtaken() {
    let mut ledger = ledger();
    let [first, second] = [pause(&mut ledger, 1, 500, 100), pause(&mut ledger, 2, 500, 100)];
    let held = admit(&mut ledger, 3, 700);
    waits(&mut ledger, 4, caller(300, Isolated, 0));
    ledger.request_wake(wake(second, 6));
    ledger.request_wake(wake(first, 5));
    assert_eq!(ledger.admit_next(at(7)), None);
    assert_eq!(ledger.shortage(), Some(Shortage { function: 1, missing: 300, is_wake: true }));
    ledger.release(held, at(8));
    let order = [first, second].map(Some);
    let woken = |admitted| match admitted {
        Some(Admitted::Wake { instance, .. }) => Some(instance),
        _ => None,
    };
    assert_eq!([(); 2].map(|()| woken(ledger.admit_next(at(8)))), order);
    assert_eq!((ledger.admit_next(at(8)), ledger.free()), (None, 0));
}

#[test]
fn a_wake_that_is_withdrawn_or_whose_instance_ends_blocks_no_other() {
    let ends: [fn(&mut Ledger, InstanceId); 2] = [Ledger::withdraw_wake, |it, id| it.set_stopping(id, at(3))];
    for end in ends {
        let mut ledger = ledger();
        let paused = pause(&mut ledger, 1, 500, 100);
        admit(&mut ledger, 2, 700);
        ledger.request_wake(wake(paused, 1));
        waits(&mut ledger, 3, caller(150, Isolated, 2));
        end(&mut ledger, paused);
        assert_eq!((admitted(&mut ledger, 3), ledger.taken()), (vec![3], 950));
    }
    let mut ledger = ledger();
    let paused = pause(&mut ledger, 1, 500, 100);
    ledger.set_stopping(paused, at(1));
    ledger.request_wake(wake(paused, 1));
    ledger.set_footprint(paused, 10);
    assert_eq!((ledger.admit_next(at(2)), ledger.taken(), ledger.waiting()), (None, 100, 0));
}

#[test]
fn explains_what_a_paused_instance_waits_for() {
    let mut ledger = ledger();
    let paused = pause(&mut ledger, 1, 500, 100);
    admit(&mut ledger, 2, 700);
    ledger.request_wake(wake(paused, 1));
    let (why, after) = ledger.wait_reason(1, at(2)).unwrap();
    assert_eq!(why, "a paused instance needs 400 MiB more, and 200 of 1000 MiB are free");
    assert_eq!((after, ledger.wait_reason(2, at(2))), (MAX_RETRY_AFTER, None));
}

#[test]
fn a_paused_instance_releases_what_it_is_charged_when_it_ends() {
    let mut ledger = ledger();
    let paused = pause(&mut ledger, 1, 500, 20);
    assert_eq!(steps(&ledger, [paused]), [(paused, Rung::Ended, 20)]);
}
