//! Functions whose starts keep failing: how often they are tried, what callers get, and how they recover.

use unifaas_actors::{
    Refusal,
    sandbox::{LaunchError, SandboxExit},
};

use crate::support::*;

fn exits() -> Script {
    Script {
        ready_after: None,
        exit_after: Some((ms(40), SandboxExit::Code(3))),
        prints: "no such file",
        ..Script::default()
    }
}

fn refused(error: LaunchError) -> Script {
    Script { launch: Launch::Fails(error), ..Script::default() }
}

/// Returns a rig whose function has just failed for the third time in a row: a pause of one second has begun.
async fn failing(keys: &str) -> Rig {
    let rig = Rig::new(keys);
    rig.fake.usually(exits());
    for _ in 0..3 {
        rig.acquire().await.expect_err("it exits");
    }
    rig
}

#[test]
fn the_first_failures_delay_no_caller() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.usually(exits());
        for _ in 0..2 {
            assert!(matches!(rig.acquire().await, Err(Refusal::BootFailed { .. })));
            assert_eq!(rig.snapshot().await.state, "serving");
        }
        let Err(Refusal::Failing { last, retry_after }) = rig.acquire().await else { panic!() };
        assert!(matches!(*last, Refusal::BootFailed { .. }));
        assert_eq!((retry_after, rig.fake.launched()), (secs(1), 3));
        rig.finish().await;
    });
}

#[test]
fn during_a_pause_callers_get_the_last_error_at_once() {
    with_paused_clock(async {
        let rig = failing("").await;
        sleep(ms(400)).await;
        let asked_at = Instant::now();
        let Err(Refusal::Failing { last, retry_after }) = rig.acquire().await else { panic!() };
        let Refusal::BootFailed { exit, output, .. } = *last else { panic!("{last:?}") };
        assert_eq!((exit, output), (SandboxExit::Code(3), vec!["no such file".to_owned()]));
        assert_eq!((asked_at.elapsed(), retry_after, rig.fake.launched()), (ms(0), ms(600), 3));
        rig.finish().await;
    });
}

#[test]
fn the_state_of_a_failing_function_can_be_seen() {
    with_paused_clock(async {
        let rig = failing("").await;
        sleep(ms(250)).await;
        let snapshot = rig.snapshot().await;
        let report = snapshot.failing.unwrap();
        assert_eq!((snapshot.state, report.failures, report.code), ("failing", 3, "boot_failed"));
        assert!((report.retry_seconds - 0.75).abs() < 1e-9 && report.error.contains("status 3"), "{report:?}");
        assert_eq!(rig.log.count("function keeps failing to start"), 1);

        rig.fake.usually(Script::default());
        sleep(secs(1)).await;
        drop(rig.acquire().await.unwrap());
        let snapshot = rig.snapshot().await;
        assert_eq!((snapshot.state, snapshot.failing), ("serving", None));
        assert_eq!(rig.log.count("function has recovered"), 1);
        rig.finish().await;
    });
}

#[test]
fn after_a_pause_all_callers_wait_for_one_start() {
    with_paused_clock(async {
        let rig = failing("").await;
        sleep(secs(1)).await;
        let asked_at = Instant::now();
        for request in rig.requests(10).await {
            let Err(Refusal::Failing { retry_after, .. }) = request.await.unwrap() else { panic!() };
            assert_eq!(retry_after, secs(2));
        }
        assert_eq!((rig.fake.launched(), asked_at.elapsed()), (4, ms(50)), "it exits 50 ms after the order");

        rig.fake.usually(Script::default());
        sleep(secs(2)).await;
        for request in rig.requests(10).await {
            request.await.unwrap().unwrap();
        }
        assert!(rig.fake.launched() > 5, "after the trial it gets as many as it needs");
        rig.finish().await;
    });
}

#[test]
fn pauses_grow_to_a_minute() {
    with_paused_clock(async {
        let rig = failing("").await;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let Err(Refusal::Failing { retry_after, .. }) = rig.acquire().await else { panic!() };
            sleep(retry_after).await;
            let Err(Refusal::Failing { retry_after, .. }) = rig.acquire().await else { panic!() };
            pauses.push(retry_after.as_secs());
        }
        assert_eq!((pauses, rig.fake.launched()), (vec![2, 4, 8, 16, 32, 60, 60, 60], 11));
        rig.finish().await;
    });
}

#[test]
fn simultaneous_failures_count_as_one() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.usually(exits());
        for request in rig.requests(50).await {
            assert!(matches!(request.await.unwrap(), Err(Refusal::BootFailed { .. })));
        }
        assert_eq!((rig.fake.launched(), rig.snapshot().await.state), (50, "serving"));
        rig.finish().await;
    });
}

#[test]
fn a_new_spec_is_tried_at_once() {
    with_paused_clock(async {
        let rig = failing("").await;
        rig.fake.usually(Script::default());
        rig.configure("keepalive = 61").await;
        rig.acquire().await.unwrap();
        assert_eq!(rig.snapshot().await.state, "serving");
        rig.finish().await;
    });
}

#[test]
fn callers_wait_for_an_existing_instance_during_a_pause() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let lease = rig.acquire().await.unwrap();
        rig.fake.usually(exits());
        let mut failed = 0;
        while rig.snapshot().await.state != "failing" {
            assert!(rig.request().await.await.unwrap().is_err());
            failed += 1;
        }
        assert_eq!(failed, 3);
        let waiting = rig.request().await;
        sleep(ms(500)).await;
        drop(lease);
        waiting.await.unwrap().unwrap();
        assert_eq!(rig.fake.launched(), 4);
        rig.finish().await;
    });
}

#[test]
fn timeouts_and_launch_errors_keep_their_codes() {
    with_paused_clock(async {
        let rig = Rig::new("boot-timeout = 2");
        rig.fake.usually(Script { ready_after: None, ..Script::default() });
        for _ in 0..3 {
            rig.acquire().await.unwrap_err();
        }
        let refusal = rig.acquire().await.unwrap_err();
        assert!(matches!(refusal.root(), Refusal::BootTimedOut { .. }), "{refusal:?}");
        assert_eq!(refusal.outcome().code(), "boot_timed_out");

        sleep(secs(1)).await;
        rig.fake.usually(refused(LaunchError::Missing("there is no /dev/kvm".into())));
        rig.acquire().await.unwrap_err();
        let refusal = rig.acquire().await.unwrap_err();
        assert_eq!(refusal.outcome().code(), "start_failed");
        assert!(refusal.to_string().contains("there is no /dev/kvm"), "{refusal}");
        rig.finish().await;
    });
}

#[test]
fn an_exhausted_host_is_not_a_failure_of_the_function() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.usually(refused(LaunchError::Exhausted("no port is left".into())));
        for _ in 0..10 {
            assert!(matches!(rig.acquire().await, Err(Refusal::HostSaturated { .. })));
        }
        assert_eq!((rig.snapshot().await.state, rig.fake.launched()), ("serving", 10));
        rig.fake.usually(Script::default());
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn a_minimum_is_retried_once_a_second_on_an_exhausted_host() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 3");
        rig.fake.usually(refused(LaunchError::Exhausted("no port is left".into())));
        sleep(secs(10)).await;
        assert!((10..=33).contains(&rig.fake.launched()), "{} starts", rig.fake.launched());
        rig.fake.usually(Script::default());
        sleep(ms(1_200)).await;
        assert_eq!(rig.states().await, ["idle", "idle", "idle"]);
        rig.finish().await;
    });
}

#[test]
fn a_failing_minimum_is_retried_after_growing_pauses() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 1");
        rig.fake.usually(exits());
        let mut attempts = Vec::new();
        for _ in 0..1_000 {
            sleep(ms(100)).await;
            attempts.push(rig.fake.launched());
        }
        // Pauses of 0.25, 0.5, 1, 2, 4, 8, 16 and 32 s and eight boots make 64.15 s; the next pause is the longest.
        let tries_after = |tenths: usize| attempts[tenths - 1];
        assert_eq!(
            [2, 4, 10, 20, 41, 82, 163, 330, 640, 650, 1000].map(tries_after),
            [1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9]
        );

        rig.fake.usually(Script::default());
        sleep(secs(60)).await;
        assert_eq!(rig.states().await, ["idle"]);
        rig.finish().await;
    });
}

#[test]
fn a_minimum_starts_the_trial_without_a_caller() {
    with_paused_clock(async {
        let rig = failing("min-instances = 2").await;
        rig.fake.usually(Script::default());
        assert_eq!(rig.snapshot().await.state, "failing");
        sleep(secs(1) + ms(350)).await;
        assert_eq!((rig.snapshot().await.state, rig.states().await), ("serving", vec!["idle", "idle"]));
        rig.finish().await;
    });
}
