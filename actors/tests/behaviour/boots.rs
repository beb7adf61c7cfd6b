//! Boots that fail, and which callers they fail.

use unifaas_actors::{
    Outcome, Refusal,
    sandbox::{LaunchError, SandboxExit},
};

use crate::support::*;

fn exits(after: u64) -> Script {
    Script {
        ready_after: None,
        exit_after: Some((ms(after), SandboxExit::Code(3))),
        prints: "one\ntwo\nno such file",
        ..Script::default()
    }
}

#[test]
fn an_exit_during_the_boot_fails_the_caller_at_once_with_the_last_output() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.next(exits(40));
        let asked_at = Instant::now();
        let Err(Refusal::BootFailed { exit, output, .. }) = rig.acquire().await else { panic!() };
        assert_eq!(asked_at.elapsed(), ms(50), "10 ms until it is launched, then 40 ms");
        assert_eq!((exit, output), (SandboxExit::Code(3), vec!["one".into(), "two".into(), "no such file".to_owned()]));
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn a_failed_boot_fails_only_the_callers_that_shared_it() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 4");
        rig.fake.next(exits(40));
        let requests = rig.requests(10).await;
        assert_eq!(rig.fake.launched(), 3);
        let (mut failed, mut leases) = (0, Vec::new());
        for request in requests {
            match request.await.unwrap() {
                Ok(lease) => leases.push(lease),
                Err(Refusal::BootFailed { .. }) => failed += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        // Three boots had room for twelve; the two that are left have room for eight of the ten.
        assert_eq!((failed, leases.len(), rig.fake.launched()), (2, 8, 3));
        drop(leases);
        rig.finish().await;
    });
}

#[test]
fn callers_beyond_the_maximum_get_another_boot() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        rig.fake.next(exits(40));
        let mut requests = rig.requests(3).await;
        let first = requests.remove(0).await.unwrap();
        assert!(matches!(first, Err(Refusal::BootFailed { .. })));
        for request in requests {
            request.await.unwrap().unwrap();
        }
        assert_eq!(rig.fake.launched(), 2);
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_is_not_ready_in_time_is_stopped() {
    with_paused_clock(async {
        let rig = Rig::new("boot-timeout = 2");
        rig.fake.next(Script { ready_after: None, prints: "still loading", ..Script::default() });
        let asked_at = Instant::now();
        let refusal = rig.acquire().await.unwrap_err();
        assert_eq!(refusal.to_string(), "the instance was not ready within 2.000 s: silent");
        let Refusal::BootTimedOut { output, .. } = refusal else { panic!() };
        assert_eq!(output, ["still loading"]);
        assert_eq!(asked_at.elapsed(), secs(2), "the time counts from the order, not from the launch");
        sleep(ms(50)).await;
        assert_eq!(rig.fake.held(), 0);
        rig.finish().await;
    });
}

#[test]
fn the_reason_of_a_boot_timeout_is_awaited_for_a_second() {
    with_paused_clock(async {
        let rig = Rig::new("boot-timeout = 2");
        rig.fake.next(Script { ready_after: None, explained_after: Some(ms(400)), ..Script::default() });
        rig.fake.next(Script { ready_after: None, explained_after: None, ..Script::default() });
        for (expected, after) in [("silent", ms(2_400)), ("the reason could not be found out", secs(3))] {
            let asked_at = Instant::now();
            let Err(Refusal::BootTimedOut { why, .. }) = rig.acquire().await else { panic!() };
            assert_eq!((&*why, asked_at.elapsed()), (expected, after));
        }
        rig.finish().await;
    });
}

#[test]
fn a_launch_beyond_the_boot_timeout_fails_the_caller_in_time_and_is_stopped_later() {
    with_paused_clock(async {
        let rig = Rig::new("boot-timeout = 2");
        rig.fake.next(Script { launch_after: secs(10), ..Script::default() });
        assert!(matches!(rig.acquire().await, Err(Refusal::BootTimedOut { .. })));
        sleep(secs(7)).await;
        assert_eq!((rig.fake.held(), rig.fake.running(), rig.states().await), (1, 0, vec!["launching"]));
        sleep(secs(2)).await;
        assert_eq!((rig.fake.held(), rig.fake.terminated()), (0, 1));
        rig.finish().await;
    });
}

#[test]
fn a_failed_launch_gives_its_reason() {
    with_paused_clock(async {
        let rig = Rig::new("");
        for (error, outcome) in [
            (LaunchError::Missing("there is no /dev/kvm".into()), Outcome::StartFailed),
            (LaunchError::Refused("no such image".into()), Outcome::StartFailed),
            (LaunchError::Exhausted("no port is left".into()), Outcome::HostSaturated),
        ] {
            rig.fake.next(Script { launch: Launch::Fails(error.clone()), ..Script::default() });
            let refusal = rig.acquire().await.unwrap_err();
            assert_eq!((refusal.outcome(), refusal.to_string()), (outcome, error.to_string()));
        }
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn counts_every_boot_and_times_successful_ones() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true");
        rig.fake.next(exits(40));
        rig.acquire().await.unwrap_err();
        rig.acquire().await.unwrap();
        rig.acquire().await.unwrap();
        let stats = rig.snapshot().await.stats;
        assert_eq!((stats.instances_started, stats.boot_seconds.count), (3, 2));
        assert!((stats.boot_seconds.sum - 0.2).abs() < 1e-9, "{}", stats.boot_seconds.sum);
        rig.finish().await;
    });
}
