//! Instances that call back when they are ready.

use unifaas_actors::{CallbackOutcome, ReadyToken, Refusal};

use crate::support::*;

const CALLBACK: &str = "readiness = \"callback\"\nboot-timeout = 5";

#[test]
fn an_instance_is_ready_when_it_calls_back() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        let request = rig.request().await;
        sleep(secs(3)).await;
        assert_eq!(rig.states().await, ["booting"]);
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::Accepted));
        let lease = request.await.unwrap().unwrap();
        assert_eq!(lease.endpoint().boot(), ms(3_001));
        assert_eq!((rig.callbacks.refused(), rig.snapshot().await.stats.callbacks_refused), (0, 0));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn a_callback_before_the_end_of_the_launch_is_accepted_afterwards() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        rig.fake.usually(Script { launch_after: secs(2), ..Script::default() });
        let request = rig.request().await;
        let asked_at = Instant::now();
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::Accepted));
        assert!((ms(1_990)..secs(2)).contains(&asked_at.elapsed()), "{:?}", asked_at.elapsed());
        request.await.unwrap().unwrap();
        rig.finish().await;
    });
}

#[test]
fn an_early_callback_from_another_address_is_refused() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        let request = rig.request().await;
        assert_eq!(rig.call_back(1, 2).await, Some(CallbackOutcome::WrongSource));
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::Accepted));
        request.await.unwrap().unwrap();
        rig.finish().await;
    });
}

#[test]
fn only_some_early_callbacks_are_kept() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        rig.fake.usually(Script { launch_after: secs(2), ..Script::default() });
        let request = rig.request().await;
        let calls = (0..20).map(|_| rig.call_back(1, 1));
        let outcomes = futures::future::join_all(calls).await;
        let accepted = outcomes.iter().filter(|outcome| **outcome == Some(CallbackOutcome::Accepted)).count();
        assert_eq!(accepted, 1);
        assert!(outcomes.iter().all(|outcome| outcome.is_some()));
        request.await.unwrap().unwrap();
        rig.finish().await;
    });
}

#[test]
fn an_early_callback_is_answered_when_the_launch_fails() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        let error = unifaas_actors::sandbox::LaunchError::Refused("no".into());
        rig.fake.usually(Script { launch: Launch::Fails(error), ..Script::default() });
        let request = rig.request().await;
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::NotExpected));
        request.await.unwrap().unwrap_err();
        rig.finish().await;
    });
}

#[test]
fn refuses_and_counts_callbacks_from_other_addresses_repeated_or_unknown() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        let request = rig.request().await;
        sleep(secs(1)).await;
        assert_eq!(rig.call_back(1, 2).await, Some(CallbackOutcome::WrongSource));
        assert_eq!(rig.states().await, ["booting"]);
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::Accepted));
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::NotExpected));
        let unknown = Some(ReadyToken::random());
        for token in [unknown, None] {
            assert_eq!(rig.callbacks.deliver(token, [10, 0, 0, 1].into()).await, None);
        }
        assert_eq!((rig.callbacks.refused(), rig.snapshot().await.stats.callbacks_refused), (4, 2));
        request.await.unwrap().unwrap();
        rig.finish().await;
    });
}

#[test]
fn a_callback_after_the_boot_timeout_is_refused() {
    with_paused_clock(async {
        let rig = Rig::new(&format!("{CALLBACK}\nstop-grace = 10"));
        rig.fake.usually(Script { on_terminate: OnTerminate::ExitsAfter(secs(5)), ..Script::default() });
        assert!(matches!(rig.acquire().await, Err(Refusal::BootTimedOut { .. })));
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::NotExpected));
        sleep(secs(6)).await;
        assert_eq!((rig.call_back(1, 1).await, rig.fake.held()), (None, 0));
        rig.finish().await;
    });
}
