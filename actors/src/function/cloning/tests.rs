//! When a snapshot is due, and which failed restores discard it.

use super::*;
use crate::wall_time::WallTime;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn snapshot() -> SnapshotInfo {
    SnapshotInfo { bytes: 7, taken: WallTime::now() }
}

fn failed(why: &str) -> RestoreError {
    RestoreError::Failed(why.to_owned())
}

/// Records so many restores that took too long beside each other, and returns which of them discard the snapshot.
fn time_out<const COUNT: usize>(cloning: &mut Cloning, now: Instant) -> [bool; COUNT] {
    let error = RestoreError::TimedOut("2 s".to_owned());
    [(); COUNT].map(|()| cloning.restore_failed(&error, false, now - secs(2), now))
}

fn cloning() -> Cloning {
    let mut cloning = Cloning::default();
    cloning.configure(true, None);
    cloning
}

fn is_due(cloning: &Cloning, now: Instant) -> bool {
    cloning.template_due(now).is_some()
}

fn state(cloning: &Cloning) -> &'static str {
    cloning.status().map_or("off", |status| status.name)
}

fn made(cloning: &mut Cloning, now: Instant) {
    let id = InstanceId::random();
    cloning.template_started(id);
    assert_eq!(state(cloning), "making");
    cloning.captured(id, snapshot(), now);
    assert_eq!(state(cloning), "ready");
}

#[test]
fn snapshot_is_due_after_a_cold_start_that_could_have_been_a_restore() {
    let (mut cloning, now) = (cloning(), Instant::now());
    assert!(cloning.may_restore() && !is_due(&cloning, now));
    cloning.started_cold(true, now, now);
    assert!(is_due(&cloning, now) && cloning.next_template(now) == Some(now + TEMPLATE_PATIENCE));
    assert_eq!(cloning.next_template(now + TEMPLATE_PATIENCE), None);
    made(&mut cloning, now);
    assert!(!is_due(&cloning, now));
    cloning.started_cold(false, now, now);
    assert!(!is_due(&cloning, now), "a cold start that was ordered says nothing");
    cloning.started_cold(true, now + secs(1), now + secs(1));
    assert!(is_due(&cloning, now + secs(1)), "the snapshot does not fit any more");
}

#[test]
fn instances_that_were_ordered_before_a_snapshot_say_nothing_of_it() {
    let (mut cloning, now, id) = (cloning(), Instant::now(), InstanceId::random());
    cloning.started_cold(true, now, now);
    cloning.template_started(id);
    cloning.captured(id, snapshot(), now + secs(2));
    cloning.started_cold(true, now + secs(1), now + secs(3));
    assert!(!is_due(&cloning, now + secs(3)));
    cloning.started_cold(true, now + secs(3), now + secs(4));
    assert!(is_due(&cloning, now + secs(4)));
}

#[test]
fn function_that_wants_no_snapshot_has_none() {
    let (mut cloning, now) = (Cloning::default(), Instant::now());
    cloning.started_cold(true, now, now);
    assert!(!cloning.may_restore() && !is_due(&cloning, now) && !cloning.order(now));
    assert_eq!(cloning.status(), None);
    cloning.configure(true, Some(snapshot()));
    assert_eq!(state(&cloning), "ready");
}

#[test]
fn failed_captures_are_tried_again_three_times() {
    let (mut cloning, mut now) = (cloning(), Instant::now());
    cloning.started_cold(true, now, now);
    for pause in [60, 600, 3600] {
        let id = InstanceId::random();
        cloning.template_started(id);
        cloning.capture_failed(InstanceId::random(), "another one", now);
        assert_eq!(state(&cloning), "making");
        cloning.capture_failed(id, "full", now);
        assert_eq!((state(&cloning), cloning.next_template(now)), ("failing", Some(now + secs(pause))));
        assert!(!is_due(&cloning, now));
        now += secs(pause);
        assert!(is_due(&cloning, now));
    }
    let id = InstanceId::random();
    cloning.template_started(id);
    cloning.capture_failed(id, "full", now);
    assert_eq!((state(&cloning), cloning.next_template(now)), ("failing", None));
    cloning.started_cold(true, now, now);
    assert!(!is_due(&cloning, now + secs(100_000)));
    cloning.configure(true, None);
    assert_eq!((state(&cloning), cloning.status().unwrap().error), ("none", None));
}

#[test]
fn interrupted_capture_is_no_failure() {
    let (mut cloning, now) = (cloning(), Instant::now());
    cloning.started_cold(true, now, now);
    let id = InstanceId::random();
    cloning.template_started(id);
    cloning.interrupted(id, now);
    assert_eq!((state(&cloning), cloning.next_template(now)), ("none", Some(now + secs(60))));
}

#[test]
fn each_failed_restore_is_followed_by_a_cold_start() {
    let (mut cloning, now) = (cloning(), Instant::now());
    cloning.started_cold(true, now, now);
    made(&mut cloning, now);
    assert!(!cloning.restore_failed(&failed("corrupt"), true, now, now), "the first one may be bad luck");
    assert_eq!([cloning.may_restore(), cloning.may_restore()], [false, true]);
    assert!(cloning.restore_failed(&failed("corrupt"), true, now + secs(3598), now + secs(3598)));
    assert_eq!(state(&cloning), "none");
    assert!(!cloning.may_restore());
    cloning.started_cold(false, now, now);
    assert!(is_due(&cloning, now), "it is made anew");
    made(&mut cloning, now);
    assert!(cloning.restore_failed(&failed("corrupt"), true, now + secs(3599), now + secs(3599)));
    assert_eq!(state(&cloning), "failing");
    assert!(!cloning.may_restore() && !cloning.may_restore());
    assert!(cloning.order(now) && is_due(&cloning, now));
}

#[test]
fn failed_restores_count_for_an_hour() {
    let (mut cloning, now) = (cloning(), Instant::now());
    cloning.configure(true, Some(snapshot()));
    for hours in 0..5 {
        assert!(!cloning.restore_failed(&failed("slow"), true, now + secs(hours * 3600), now + secs(hours * 3600)));
    }
    assert_eq!((state(&cloning), cloning.status().unwrap().failures), ("ready", 5));
}

#[test]
fn failed_restores_of_a_burst_discard_one_snapshot() {
    let (mut cloning, now) = (cloning(), Instant::now());
    cloning.started_cold(true, now, now);
    made(&mut cloning, now);
    let discards = [1, 2, 3, 4].map(|at| cloning.restore_failed(&failed("killed"), true, now, now + secs(at)));
    assert_eq!(discards, [false, true, false, false]);
    assert_eq!([(); 5].map(|()| cloning.may_restore()), [false, false, false, false, true]);
    cloning.started_cold(false, now + secs(5), now + secs(5));
    assert!(is_due(&cloning, now + secs(5)), "it is made anew");
    made(&mut cloning, now);
    assert!(cloning.restore_failed(&failed("killed"), true, now + secs(6), now + secs(7)));
    assert_eq!(state(&cloning), "failing");
}

#[test]
fn restores_that_take_too_long_on_a_busy_host_do_not_count() {
    let (mut cloning, now) = (cloning(), Instant::now());
    made(&mut cloning, now);
    for hours in 1..9 {
        let now = now + secs(hours * 1200);
        assert_eq!(time_out(&mut cloning, now), [false; 50], "{hours}");
        assert_eq!(time_out(&mut cloning, now + secs(60)), [false; 50], "{hours}");
        cloning.restored();
    }
    assert_eq!((state(&cloning), cloning.status().unwrap().failures), ("ready", 800));
    assert!(!cloning.may_restore(), "the next ones are cold");
}

#[test]
fn restores_that_take_too_long_without_another_start_count() {
    let (mut cloning, now) = (cloning(), Instant::now());
    made(&mut cloning, now);
    let late = RestoreError::TimedOut("2 s".to_owned());
    let discards = [2, 4].map(|at| cloning.restore_failed(&late, true, now + secs(at - 1), now + secs(at)));
    assert_eq!(discards, [false, true]);
    made(&mut cloning, now);
    assert!(cloning.restore_failed(&late, true, now + secs(5), now + secs(6)));
    assert_eq!(state(&cloning), "failing");
}

#[test]
fn errors_count_on_a_busy_host_as_well() {
    let (mut cloning, now) = (cloning(), Instant::now());
    made(&mut cloning, now);
    assert_eq!(time_out(&mut cloning, now), [false; 2]);
    let discards = [2, 4].map(|at| cloning.restore_failed(&failed("corrupt"), false, now, now + secs(at)));
    assert_eq!(discards, [false, true]);
}

#[test]
fn snapshot_whose_clones_always_hang_is_discarded_on_a_host_that_is_always_busy() {
    let (mut cloning, start) = (cloning(), Instant::now());
    for (at, discards) in [(100, [false, true, false]), (400, [true, false, false])] {
        made(&mut cloning, start + secs(at));
        for spell in 1..3 {
            assert_eq!(time_out(&mut cloning, start + secs(at + spell * 60)), [false; 3]);
        }
        assert_eq!(time_out(&mut cloning, start + secs(at + 180)), discards);
    }
    assert_eq!(state(&cloning), "failing");
}
