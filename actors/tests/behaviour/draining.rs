//! Draining all functions at the end of the daemon.

use std::{future::poll_fn, rc::Rc, task::Poll};

use tokio::sync::oneshot::error::TryRecvError;
use unifaas_actors::Refusal;

use crate::support::*;

#[test]
fn an_idle_daemon_is_drained_at_once() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 3");
        sleep(ms(200)).await;
        let asked_at = Instant::now();
        rig.drain(secs(60)).await.unwrap();
        assert!(asked_at.elapsed() < ms(100), "{:?}", asked_at.elapsed());
        assert_eq!((rig.fake.held(), rig.fake.killed()), (0, 0));
        assert_eq!(rig.acquire().await.unwrap_err(), Refusal::Draining);
        rig.finish().await;
    });
}

#[test]
fn what_a_late_scan_finds_is_not_started() {
    with_paused_clock(async {
        let rig = Rig::new("");
        // The scan follows later than the drain is complete.
        rig.write_of("new", "min-instances = 1");
        rig.drain(secs(60)).await.unwrap();
        sleep(secs(5)).await;
        assert!(rig.handle_of("new").is_none());
        assert_eq!(rig.fake.held(), 0);
        rig.finish().await;
    });
}

#[test]
fn refuses_waiting_callers_and_finishes_requests_in_flight() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        let busy = rig.acquire().await.unwrap();
        let (waiting, handle) = (rig.request().await, rig.handle());
        let mut drained = rig.drain(secs(60));
        assert_eq!(waiting.await.unwrap().unwrap_err(), Refusal::Draining);
        assert_eq!(handle.acquire().await.unwrap_err(), Refusal::Draining);
        sleep(secs(50)).await;
        assert!(busy.endpoint().is_live());
        assert_eq!(drained.try_recv(), Err(TryRecvError::Empty));
        drop(busy);
        let freed_at = Instant::now();
        drained.await.unwrap();
        assert!(freed_at.elapsed() < ms(100));
        drop(handle);
        rig.finish().await;
    });
}

#[test]
fn kills_instances_that_still_serve_after_the_grace() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.usually(Script { on_terminate: OnTerminate::Ignores, ..Script::default() });
        let busy = rig.acquire().await.unwrap();
        let asked_at = Instant::now();
        rig.drain(secs(60)).await.unwrap();
        assert!((secs(60)..secs(61)).contains(&asked_at.elapsed()), "{:?}", asked_at.elapsed());
        assert_eq!((busy.endpoint().is_live(), rig.fake.killed()), (false, 1));
        drop(busy);
        rig.finish().await;
    });
}

#[test]
fn a_second_drain_shortens_the_grace_of_the_first() {
    with_paused_clock(async {
        let rig = Rig::new("stop-grace = 30");
        rig.fake.usually(Script { on_terminate: OnTerminate::Ignores, ..Script::default() });
        let busy = rig.acquire().await.unwrap();
        let mut first = rig.drain(secs(60));
        sleep(secs(10)).await;
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
        let asked_at = Instant::now();
        rig.drain(secs(0)).await.unwrap();
        assert!(asked_at.elapsed() < secs(1), "{:?}", asked_at.elapsed());
        first.await.unwrap();
        drop(busy);
        rig.finish().await;
    });
}

#[test]
fn a_drain_without_grace_kills_instances_that_are_terminating() {
    with_paused_clock(async {
        let rig = Rig::new("stop-grace = 30");
        rig.fake.usually(Script { on_terminate: OnTerminate::Ignores, ..Script::default() });
        drop(rig.acquire().await.unwrap());
        let _first = rig.drain(secs(60));
        sleep(secs(1)).await;
        let asked_at = Instant::now();
        rig.drain(secs(0)).await.unwrap();
        assert!(asked_at.elapsed() < secs(1), "{:?}", asked_at.elapsed());
        rig.finish().await;
    });
}

#[test]
fn stops_a_launching_instance_as_soon_as_it_exists() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.usually(Script { launch_after: secs(5), ..Script::default() });
        let waiting = rig.request().await;
        let drained = rig.drain(secs(60));
        assert_eq!(waiting.await.unwrap().unwrap_err(), Refusal::Draining);
        let asked_at = Instant::now();
        drained.await.unwrap();
        assert!((secs(4)..secs(6)).contains(&asked_at.elapsed()), "{:?}", asked_at.elapsed());
        rig.finish().await;
    });
}

#[test]
fn a_launching_instance_gets_no_grace_after_that_of_the_drain() {
    with_paused_clock(async {
        let rig = Rig::new("stop-grace = 30");
        rig.fake.usually(Script { launch_after: secs(5), on_terminate: OnTerminate::Ignores, ..Script::default() });
        rig.request().await.abort();
        let asked_at = Instant::now();
        rig.drain(secs(1)).await.unwrap();
        assert!(asked_at.elapsed() < secs(6), "{:?}", asked_at.elapsed());
        rig.finish().await;
    });
}

#[test]
fn a_function_in_a_pause_after_a_failed_boot_is_drained() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 2");
        let busy = rig.acquire().await.unwrap();
        rig.fake.next(Script {
            launch: Launch::Fails(unifaas_actors::sandbox::LaunchError::Refused("no".into())),
            ..Script::default()
        });
        rig.acquire().await.unwrap_err();
        let drained = rig.drain(secs(60));
        sleep(secs(30)).await;
        drop(busy);
        drained.await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn refuses_a_request_that_arrives_before_the_drain_message_is_handled() {
    with_paused_clock(async {
        let rig = Rc::new(Rig::new(""));
        rig.settle().await;
        let late = rig.clone();
        let answer = actix::spawn(async move {
            let _drained = late.drain(secs(60));
            // When this task runs again, the registry has sent `Drain`, and the function has not handled it yet.
            let mut yielded = false;
            poll_fn(|context| {
                context.waker().wake_by_ref();
                if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            late.acquire().await
        });
        assert_eq!(answer.await.unwrap().unwrap_err(), Refusal::Draining);
        Rc::into_inner(rig).unwrap().finish().await;
    });
}

#[test]
fn files_that_change_during_a_drain_start_nothing() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let busy = rig.acquire().await.unwrap();
        let drained = rig.drain(secs(60));
        rig.write("min-instances = 5");
        sleep(secs(10)).await;
        assert_eq!((rig.fake.launched(), rig.snapshot().await.state), (1, "draining"));
        drop(busy);
        drained.await.unwrap();
        rig.finish().await;
    });
}
