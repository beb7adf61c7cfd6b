//! A host that limits how many instances start at once.

use unifaas_actors::{
    HostLimits, Outcome,
    sandbox::{LaunchError, SandboxExit},
};

use crate::support::*;

fn starts(process_starts: usize) -> HostLimits {
    HostLimits { process_starts, ..ROOMY }
}

#[test]
fn limits_simultaneous_starts() {
    with_paused_clock(async {
        let rig = Rig::with(starts(2), &[(FUNCTION, "single-use = true")]);
        let asked_at = Instant::now();
        let requests = rig.requests(10).await;
        assert_eq!((rig.admission().await.starting, rig.fake.launched()), (2, 2));
        for request in requests {
            request.await.unwrap().unwrap();
        }
        assert_eq!(asked_at.elapsed(), ms(5 * 100), "five times two boots");
        rig.finish().await;
    });
}

#[test]
fn functions_take_turns_in_starting() {
    with_paused_clock(async {
        let rig = Rig::with(starts(1), &[("many", ""), (FUNCTION, ""), ("g", "")]);
        let many = rig.requests_of("many", 10).await;
        let asked_at = Instant::now();
        let (first, second) = (rig.request().await, rig.request_of("g").await);
        first.await.unwrap().unwrap();
        // One of the many is starting, and one precedes in the queue.
        assert_eq!(asked_at.elapsed(), ms(299));
        second.await.unwrap().unwrap();
        assert_eq!(asked_at.elapsed(), ms(399));
        for request in many {
            request.await.unwrap().unwrap();
        }
        rig.finish().await;
    });
}

#[test]
fn a_failed_start_lets_the_next_one_start() {
    with_paused_clock(async {
        let rig = Rig::with(starts(1), &[(FUNCTION, ""), ("g", "single-use = true")]);
        let dies = Some((ms(50), SandboxExit::Code(1)));
        for script in [
            Script { launch: Launch::Fails(LaunchError::Refused("no".into())), ..Script::default() },
            Script { launch: Launch::Panics, ..Script::default() },
            Script { ready_after: None, exit_after: dies, ..Script::default() },
        ] {
            rig.fake.next(script);
            let failing = rig.request().await;
            let waiting = rig.request_of("g").await;
            assert!(failing.await.unwrap().is_err());
            waiting.await.unwrap().unwrap();
        }
        assert_eq!(rig.admission().await.starting, 0);
        rig.finish().await;
    });
}

#[test]
fn a_hanging_start_blocks_others_for_five_seconds_only() {
    with_paused_clock(async {
        let rig = Rig::with(starts(1), &[("hangs", "queue-timeout = 60"), (FUNCTION, "")]);
        rig.fake.next(Script { ready_after: None, ..Script::default() });
        let hangs = rig.requests_of("hangs", 20).await;
        let asked_at = Instant::now();
        rig.acquire().await.unwrap();
        assert!((secs(4)..ms(5_200)).contains(&asked_at.elapsed()), "{:?}", asked_at.elapsed());
        for request in hangs {
            request.await.unwrap().unwrap();
        }
        rig.finish().await;
    });
}

#[test]
fn a_caller_that_waits_too_long_for_a_start_learns_the_reason() {
    with_paused_clock(async {
        let rig = Rig::with(starts(1), &[("slow", ""), (FUNCTION, "queue-timeout = 2")]);
        rig.fake.usually(Script { ready_after: Some(secs(4)), ..Script::default() });
        let slow = rig.request_of("slow").await;
        let refusal = rig.acquire().await.unwrap_err();
        assert_eq!(refusal.outcome(), Outcome::HostSaturated);
        assert_eq!(refusal.to_string(), "as many instances are starting as may at once (1)");
        slow.await.unwrap().unwrap();
        rig.finish().await;
    });
}
