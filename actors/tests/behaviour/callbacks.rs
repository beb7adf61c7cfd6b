//! Instances that call back when they are ready.

use unifaas_actors::{CallbackOutcome, ReadyToken, Refusal, sandbox::SandboxExit};

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
fn an_instance_that_called_back_is_ready_once_it_accepts_a_connection() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        rig.fake.usually(Script { connecting: Connecting::Works { after: ms(700) }, ..Script::default() });
        let request = rig.request().await;
        sleep(secs(1)).await;
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::Accepted));
        assert_eq!(rig.states().await, ["booting"]);
        assert_eq!(rig.call_back(1, 1).await, Some(CallbackOutcome::NotExpected));
        assert_eq!(request.await.unwrap().unwrap().endpoint().boot(), ms(1_701));
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_called_back_and_accepts_no_connection_is_a_failed_start() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        let calls = vec![Call { after: ms(20), by: Caller::Itself }];
        let connecting = Connecting::Refused { after: secs(1) };
        rig.fake.usually(Script { calls, connecting, prints: "listening on port 80", ..Script::default() });
        for start in 1..=3 {
            let refusal = rig.acquire().await.unwrap_err();
            let Refusal::Unreachable { why, output, .. } = refusal.root() else { panic!("{refusal:?}") };
            assert_eq!(
                (&**why, &output[..]),
                ("the instance called back, but refused", &["listening on port 80".to_owned()][..])
            );
            assert_eq!((refusal.outcome().code(), rig.fake.launched()), ("boot_failed", start));
        }
        assert_eq!(rig.snapshot().await.state, "failing");
        sleep(ms(100)).await;
        assert_eq!((rig.fake.held(), rig.fake.terminated()), (0, 3));
        rig.finish().await;
    });
}

#[test]
fn without_a_connection_the_boot_times_out() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        let calls = vec![Call { after: ms(20), by: Caller::Itself }];
        rig.fake.usually(Script { calls, connecting: Connecting::Hangs, ..Script::default() });
        let asked_at = Instant::now();
        let Err(Refusal::BootTimedOut { why, .. }) = rig.acquire().await else { panic!() };
        assert_eq!((&*why, asked_at.elapsed()), ("silent", secs(5)));
        rig.finish().await;
    });
}

#[test]
fn an_instance_without_an_address_is_neither_probed_nor_called_back() {
    with_paused_clock(async {
        for readiness in ["callback", "tcp"] {
            let rig = Rig::new(&format!("readiness = \"{readiness}\""));
            let calls = vec![Call { after: ms(20), by: Caller::Itself }];
            let exit_after = Some((ms(500), SandboxExit::Code(3)));
            rig.fake.usually(Script { has_no_address: true, calls, exit_after, ..Script::default() });
            let asked_at = Instant::now();
            let Err(Refusal::BootFailed { exit, .. }) = rig.acquire().await else { panic!() };
            assert_eq!((exit, asked_at.elapsed(), rig.callbacks.refused()), (SandboxExit::Code(3), ms(510), 1));
            rig.finish().await;
        }
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
fn a_boot_timeout_names_the_source_of_a_refused_callback() {
    with_paused_clock(async {
        let rig = Rig::new(CALLBACK);
        rig.fake.usually(Script { calls: vec![Call { after: ms(20), by: Caller::OtherAddress }], ..Script::default() });
        let Err(Refusal::BootTimedOut { why, .. }) = rig.acquire().await else { panic!() };
        assert_eq!(&*why, "called from 255.255.255.255");
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
