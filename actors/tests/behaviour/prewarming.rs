//! Instances that are started and paused ahead of requests that are expected.

use unifaas_actors::{HostLimits, Origin, sandbox::SandboxExit};

use crate::support::*;

const KEYS: &str = "keepalive = 10\nkeep-paused = 60\nprewarm = true";

/// Makes requests that are 300 s apart, and returns after the last one.
async fn learn(rig: &Rig) {
    for _ in 0..10 {
        drop(rig.acquire().await.unwrap());
        sleep(secs(300)).await;
        assert_eq!(rig.states().await.len(), 0);
    }
    drop(rig.acquire().await.unwrap());
}

/// Returns how many instances that were started ahead of requests were used, were not, and failed.
async fn results(rig: &Rig) -> [u64; 3] {
    let counts = rig.snapshot().await.stats.prewarms;
    ["used", "unused", "failed"].map(|result| counts[result])
}

#[test]
fn an_expected_request_finds_a_paused_instance() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        learn(&rig).await;
        let launched = rig.fake.launched();
        for repetition in 1..4 {
            sleep(secs(150)).await;
            assert_eq!(rig.states().await.len(), 0);
            sleep(secs(140)).await;
            assert_eq!((rig.states().await, rig.fake.launched()), (vec!["paused"], launched + repetition));
            let lease = rig.acquire().await.unwrap();
            assert_eq!(lease.endpoint().origin(), Origin::Resumed);
            assert_eq!(results(&rig).await, [repetition as u64, 0, 0]);
        }
        let report = rig.snapshot().await.prewarm.unwrap();
        let (from, until) = (report.from_seconds.unwrap(), report.until_seconds.unwrap());
        assert!((230.0..280.0).contains(&from) && (320.0..400.0).contains(&until), "{report:?}");
        rig.finish().await;
    });
}

#[test]
fn an_instance_for_a_request_that_does_not_come_ends_and_is_not_followed_by_another() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        learn(&rig).await;
        let launched = rig.fake.launched();
        sleep(secs(320)).await;
        assert_eq!(rig.states().await, ["paused"]);
        sleep(secs(100)).await;
        assert_eq!((rig.states().await.len(), results(&rig).await), (0, [0, 1, 0]));
        sleep(secs(10_000)).await;
        assert_eq!((rig.fake.held(), rig.fake.launched()), (0, launched + 1));
        rig.finish().await;
    });
}

#[test]
fn a_paused_instance_is_kept_for_an_expected_request() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        learn(&rig).await;
        rig.configure("keepalive = 10\nkeep-paused = 275\nprewarm = true").await;
        drop(rig.acquire().await.unwrap());
        let launched = rig.fake.launched();
        // It would end at 285 s.
        sleep(secs(310)).await;
        assert_eq!((rig.states().await, rig.fake.launched()), (vec!["paused"], launched));
        sleep(secs(90)).await;
        assert_eq!((rig.fake.held(), results(&rig).await), (0, [0, 0, 0]));
        rig.finish().await;
    });
}

#[test]
fn without_the_key_or_a_pattern_nothing_is_started() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 10\nkeep-paused = 60");
        learn(&rig).await;
        sleep(secs(290)).await;
        assert_eq!((rig.states().await.len(), rig.snapshot().await.prewarm), (0, None));
        rig.finish().await;
        let rig = Rig::new(KEYS);
        for round in 0..60 {
            drop(rig.acquire().await.unwrap());
            sleep(secs(80 + 80 * (round % 20) * (round % 20))).await;
        }
        let report = rig.snapshot().await.prewarm.unwrap();
        assert!(report.idle_times > 50 && report.from_seconds.is_none(), "{report:?}");
        assert_eq!(results(&rig).await, [0, 0, 0]);
        rig.finish().await;
    });
}

#[test]
fn nothing_is_evicted_for_a_request_that_is_expected() {
    with_paused_clock(async {
        let limits = HostLimits { memory: 200, ..ROOMY };
        let rig = Rig::with(limits, &[(FUNCTION, KEYS), ("other", "keepalive = 100000")]);
        learn(&rig).await;
        sleep(secs(100)).await;
        drop(rig.request_of("other").await.await.unwrap().unwrap());
        sleep(secs(190)).await;
        assert_eq!((rig.states().await.len(), rig.states_of("other").await), (0, vec!["idle"]));
        assert_eq!(rig.admission().await.functions_waiting, 1);
        sleep(secs(200)).await;
        assert_eq!((rig.admission().await.functions_waiting, rig.evicted()), (0, 0));
        drop(rig.acquire().await.unwrap());
        assert_eq!(rig.evicted(), 1, "a request that has come is worth it");
        rig.finish().await;
    });
}

#[test]
fn a_request_shares_the_start_ahead_of_it() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        learn(&rig).await;
        let launched = rig.fake.launched();
        rig.fake.next(Script { launch_after: secs(20), ..Script::default() });
        sleep(secs(100)).await;
        while rig.states().await.is_empty() {
            sleep(secs(1)).await;
        }
        drop(rig.acquire().await.unwrap());
        assert_eq!((rig.fake.launched(), results(&rig).await), (launched + 1, [1, 0, 0]));
        rig.finish().await;
    });
}

#[test]
fn a_failed_start_is_not_repeated_before_a_request_comes() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        learn(&rig).await;
        let launched = rig.fake.launched();
        rig.fake.next(Script {
            exit_after: Some((ms(5), SandboxExit::Code(1))),
            ready_after: None,
            ..Script::default()
        });
        sleep(secs(1_000)).await;
        assert_eq!((rig.fake.launched(), results(&rig).await), (launched + 1, [0, 0, 1]));
        drop(rig.acquire().await.unwrap());
        rig.finish().await;
    });
}
