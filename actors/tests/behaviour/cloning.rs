//! Templates, their snapshots, and instances that are restored from them.

use unifaas_actors::{
    SnapshotReport,
    sandbox::{LaunchError, SandboxExit},
};

use crate::support::*;

fn cloned(keys: &str) -> Rig {
    Rig::new(&format!("keepalive = 10\nkeep-paused = 0\n{keys}\n{CLONED}"))
}

async fn snapshot(rig: &Rig) -> SnapshotReport {
    rig.snapshot().await.snapshot.expect("the spec wants one")
}

async fn states(rig: &Rig) -> Vec<&'static str> {
    let mut states = rig.states().await;
    states.sort_unstable();
    states
}

/// Serves one request, and waits until the function has no instance.
async fn serve_once(rig: &Rig) {
    drop(rig.acquire().await.unwrap());
    sleep(secs(12)).await;
    assert_eq!(states(rig).await, [""; 0]);
}

#[test]
fn a_snapshot_is_taken_after_the_first_cold_start_and_later_instances_are_clones() {
    with_paused_clock(async {
        let rig = cloned("");
        rig.settle().await;
        assert_eq!(snapshot(&rig).await.state, "none");
        let lease = rig.acquire().await.unwrap();
        rig.settle().await;
        assert_eq!(states(&rig).await, ["busy", "launching"]);
        sleep(ms(120)).await;
        assert_eq!((states(&rig).await, snapshot(&rig).await.state), (vec!["busy", "capturing"], "making"));
        sleep(ms(100)).await;
        assert_eq!((states(&rig).await, snapshot(&rig).await.state), (vec!["busy"], "ready"));
        drop(lease);
        sleep(secs(12)).await;
        for restores in 1..4 {
            let since = Instant::now();
            let lease = rig.acquire().await.unwrap();
            assert!(since.elapsed() < ms(50), "{:?}", since.elapsed());
            assert_eq!((rig.fake.snapshots(), snapshot(&rig).await.restores), ((1, 1, restores), restores as u64));
            drop(lease);
            sleep(secs(12)).await;
        }
        let stats = rig.snapshot().await.stats;
        assert_eq!(stats.instances_started, 4, "the template is no instance that serves");
        rig.finish().await;
    });
}

#[test]
fn callers_neither_wait_for_a_template_nor_get_it() {
    with_paused_clock(async {
        let rig = cloned("max-instances = 2\nconcurrent-requests = 1");
        rig.fake.usually(Script { on_capture: Pausing::Works { after: secs(20) }, ..Script::default() });
        let first = rig.acquire().await.unwrap();
        sleep(secs(1)).await;
        assert_eq!(states(&rig).await, ["busy", "capturing"]);
        let since = Instant::now();
        let second = rig.acquire().await.unwrap();
        assert!(since.elapsed() < ms(150), "the template does not count for the maximum");
        assert_eq!(rig.fake.launched(), 3);
        drop((first, second));
        sleep(secs(30)).await;
        assert_eq!((rig.fake.snapshots(), snapshot(&rig).await.state), ((1, 1, 0), "ready"));
        rig.finish().await;
    });
}

#[test]
fn a_function_that_always_starts_an_instance_gets_its_snapshot() {
    with_paused_clock(async {
        let rig = cloned("single-use = true");
        let since = Instant::now();
        // Each caller needs an instance of its own, and the next one comes before that is ready.
        let mut callers = Vec::new();
        while since.elapsed() < secs(29) {
            callers.push(rig.request().await);
            sleep(ms(40)).await;
        }
        assert_eq!(rig.fake.snapshots(), (0, 0, 0), "another moment is waited for");
        while since.elapsed() < secs(32) {
            callers.push(rig.request().await);
            sleep(ms(40)).await;
        }
        assert_eq!(rig.fake.snapshots().1, 1, "not for ever");
        for caller in callers {
            drop(caller.await.unwrap().unwrap());
        }
        rig.finish().await;
    });
}

#[test]
fn a_template_waits_no_more_than_half_a_minute_for_the_end_of_a_start() {
    with_paused_clock(async {
        // Another instance of the function itself, and one of another function.
        for slow in [FUNCTION, "slow"] {
            let keys = format!("concurrent-requests = 1\nqueue-timeout = 100\nboot-timeout = 100\n{CLONED}");
            let rig = Rig::with(ROOMY, &[(FUNCTION, &keys), ("slow", "queue-timeout = 100\nboot-timeout = 100")]);
            rig.fake.next(Script::default());
            rig.fake.next(Script { ready_after: Some(secs(60)), ..Script::default() });
            let (lease, waiting) = (rig.request().await, rig.request_of(slow).await);
            let lease = lease.await.unwrap().unwrap();
            sleep(secs(29)).await;
            assert_eq!(rig.fake.snapshots(), (0, 0, 0), "beside the start of {slow}");
            sleep(secs(2)).await;
            assert_eq!(rig.fake.snapshots(), (1, 1, 0), "beside the start of {slow}");
            assert!(!waiting.is_finished());
            drop((lease, waiting.await.unwrap().unwrap()));
            rig.finish().await;
        }
    });
}

#[test]
fn a_failed_restore_becomes_a_cold_start() {
    with_paused_clock(async {
        for (restoring, limit) in [(Restoring::Fails, ms(150)), (Restoring::Silent, ms(1_200))] {
            let rig = cloned("");
            serve_once(&rig).await;
            rig.fake.next(Script { restoring, ..Script::default() });
            let since = Instant::now();
            let lease = rig.acquire().await.unwrap();
            assert!(since.elapsed() < limit, "{:?}", since.elapsed());
            let report = snapshot(&rig).await;
            assert_eq!((report.state, report.failures, report.restores), ("ready", 1, 0));
            assert!(report.error.is_some());
            assert_eq!((rig.fake.launched(), rig.snapshot().await.state), (4, "serving"));
            drop(lease);
            sleep(secs(12)).await;
            serve_once(&rig).await;
            assert_eq!(snapshot(&rig).await.restores, 1, "the next one is restored");
            rig.finish().await;
        }
    });
}

#[test]
fn a_snapshot_that_fails_twice_is_made_anew_and_given_up_after_the_third_time() {
    with_paused_clock(async {
        let rig = cloned("");
        serve_once(&rig).await;
        rig.fake.usually(Script { restoring: Restoring::Fails, ..Script::default() });
        serve_once(&rig).await;
        assert_eq!((rig.fake.snapshots(), rig.fake.has_snapshot()), ((1, 1, 0), true));
        serve_once(&rig).await;
        assert_eq!((rig.fake.snapshots(), rig.fake.has_snapshot()), ((2, 2, 0), true));
        serve_once(&rig).await;
        assert_eq!((snapshot(&rig).await.state, rig.fake.has_snapshot()), ("failing", false));
        let launched = rig.fake.launched();
        serve_once(&rig).await;
        assert_eq!((rig.fake.launched(), rig.fake.snapshots()), (launched + 1, (2, 2, 0)));
        rig.finish().await;
    });
}

#[test]
fn restores_that_take_too_long_beside_each_other_leave_the_snapshot() {
    with_paused_clock(async {
        let rig = cloned("concurrent-requests = 1");
        serve_once(&rig).await;
        let burst = async |restoring| {
            rig.fake.usually(Script { restoring, ..Script::default() });
            let mut callers = Vec::new();
            for _ in 0..6 {
                callers.push(rig.request().await);
            }
            for caller in callers {
                drop(caller.await.unwrap().unwrap());
            }
            sleep(secs(12)).await;
        };
        burst(Restoring::Silent).await;
        let report = snapshot(&rig).await;
        assert_eq!((report.state, report.failures, rig.fake.snapshots().1), ("ready", 6, 1));

        rig.fake.usually(Script::default());
        serve_once(&rig).await;
        assert_eq!(snapshot(&rig).await.restores, 1);

        burst(Restoring::Fails).await;
        assert_eq!(rig.fake.snapshots().1, 2, "errors count, and it is made anew");
        rig.finish().await;
    });
}

#[test]
fn failures_of_a_template_are_no_failures_of_the_function() {
    with_paused_clock(async {
        for script in [
            Script { on_capture: Pausing::Fails { after: ms(10) }, ..Script::default() },
            Script { exit_after: Some((ms(10), SandboxExit::Code(1))), ..Script::default() },
            Script { launch: Launch::Fails(LaunchError::Refused("no".to_owned())), ..Script::default() },
        ] {
            let rig = cloned("");
            rig.fake.next(Script::default());
            for _ in 0..3 {
                rig.fake.next(script.clone());
            }
            let lease = rig.acquire().await.unwrap();
            sleep(secs(1)).await;
            let function = rig.snapshot().await;
            assert_eq!((function.state, snapshot(&rig).await.state, function.failing), ("serving", "failing", None));
            assert_eq!(rig.fake.launched(), 2);
            sleep(secs(60)).await;
            assert_eq!(rig.fake.launched(), 3, "it is tried again after a minute");
            sleep(secs(600)).await;
            assert_eq!(rig.fake.launched(), 4, "and after ten");
            sleep(secs(3601)).await;
            assert_eq!((rig.fake.launched(), snapshot(&rig).await.state), (5, "ready"));
            drop(lease);
            rig.finish().await;
        }
    });
}

#[test]
fn a_template_ends_with_its_spec_and_with_the_function() {
    with_paused_clock(async {
        let rig = cloned("");
        rig.fake.usually(Script { on_capture: Pausing::Hangs, ..Script::default() });
        drop(rig.acquire().await.unwrap());
        sleep(secs(1)).await;
        assert_eq!(states(&rig).await, ["capturing", "idle"]);
        rig.configure(&format!("keepalive = 10\nqueue = 3\n{CLONED}")).await;
        sleep(secs(1)).await;
        assert_eq!(states(&rig).await, [""; 0]);
        drop(rig.acquire().await.unwrap());
        sleep(secs(1)).await;
        assert_eq!(states(&rig).await, ["capturing", "idle"]);
        rig.finish().await;
    });
}

#[test]
fn operators_take_and_remove_snapshots() {
    with_paused_clock(async {
        let rig = cloned("");
        assert_eq!(rig.handle().take_snapshot().await, Some(true));
        sleep(secs(1)).await;
        assert_eq!((rig.fake.snapshots(), snapshot(&rig).await.state), ((1, 1, 0), "ready"));
        assert_eq!(rig.handle().remove_snapshot().await, Some(true));
        assert_eq!(rig.handle().remove_snapshot().await, Some(false));
        assert_eq!((rig.fake.has_snapshot(), snapshot(&rig).await.state), (false, "none"));
        rig.finish().await;
    });
}
