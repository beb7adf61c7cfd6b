//! Actors that panic: the parent is notified, the instance is killed, and the next request works.

use unifaas_actors::{Refusal, sandbox::SandboxExit};

use crate::support::*;

#[test]
fn a_panic_in_a_launch_fails_one_request() {
    for launch in [Launch::PanicsAtOnce, Launch::Panics] {
        with_paused_clock(async {
            let rig = Rig::new("");
            rig.fake.next(Script { launch, ..Script::default() });
            assert_eq!(rig.acquire().await.unwrap_err(), Refusal::Lost);
            assert_eq!((rig.fake.held(), rig.states().await.len()), (0, 0));
            rig.acquire().await.unwrap();
            rig.finish().await;
        });
    }
}

#[test]
fn a_panic_in_a_boot_fails_only_the_callers_that_shared_it() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 2");
        rig.fake.next(Script { launch: Launch::Panics, ..Script::default() });
        let mut lost = 0;
        for request in rig.requests(6).await {
            match request.await.unwrap() {
                Ok(_) => {}
                Err(Refusal::Lost) => lost += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((lost, rig.fake.launched()), (2, 3));
        rig.finish().await;
    });
}

#[test]
fn the_instance_of_an_actor_that_panics_is_killed() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true\nmax-instances = 1");
        rig.fake.next(Script { on_terminate: OnTerminate::Panics, ..Script::default() });
        let endpoint = rig.acquire().await.unwrap().endpoint().clone();
        rig.settle().await;
        assert_eq!((endpoint.is_live(), rig.fake.running(), rig.fake.held()), (false, 0, 0));
        assert_eq!(rig.log.count("an instance's actor panicked; the instance was killed"), 1);
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn an_instance_whose_actor_panicked_gets_no_request() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 2");
        let lease = rig.acquire().await.unwrap();
        rig.log.panic_at("instance ended by itself");
        rig.fake.crash(lease.endpoint().instance, SandboxExit::Code(0));
        rig.settle().await;
        assert!(!lease.endpoint().is_live() && lease.endpoint().has_ended());
        let next = rig.acquire().await.unwrap();
        assert_ne!(next.endpoint().instance, lease.endpoint().instance);
        drop((lease, next));
        rig.finish().await;
    });
}

#[test]
fn a_function_whose_actor_panicked_is_restarted() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        let lease = rig.acquire().await.unwrap();
        let waiting = rig.request().await;
        rig.log.panic_at("function has changed");
        rig.configure("max-instances = 2").await;
        assert_eq!(waiting.await.unwrap().unwrap_err(), Refusal::Lost);
        sleep(ms(100)).await;
        assert_eq!((lease.endpoint().is_live(), rig.fake.held()), (false, 0), "its instances do not outlive it");
        rig.acquire().await.unwrap();
        assert_eq!(rig.log.count("a function's actor panicked"), 1);
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn a_function_whose_actor_keeps_panicking_is_misconfigured_until_its_file_changes() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30");
        rig.fake.usually(Script { launch: Launch::Panics, ..Script::default() });
        for _ in 0..4 {
            rig.log.panic_at("an instance's actor panicked; the instance was killed");
            assert_eq!(rig.acquire().await.unwrap_err(), Refusal::Lost);
            rig.settle().await;
        }
        let Err(Refusal::Misconfigured { reason }) = rig.acquire().await else { panic!() };
        assert!(reason.contains("keeps failing"), "{reason}");

        rig.fake.usually(Script::default());
        rig.configure("keepalive = 31").await;
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn a_panic_does_not_delay_a_drain() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 3");
        sleep(ms(200)).await;
        rig.log.panic_at("instance is being ended");
        rig.drain(secs(60)).await.unwrap();
        assert_eq!(rig.fake.held(), 0);
        rig.finish().await;
    });
}

#[test]
fn a_drain_waits_for_the_instances_of_a_function_whose_actor_panicked() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.next(Script { reclaim: Reclaim::After(secs(3)), ..Script::default() });
        let lease = rig.acquire().await.unwrap();
        rig.log.panic_at("function has changed");
        rig.configure("keepalive = 30").await;
        rig.drain(secs(0)).await.unwrap();
        assert_eq!(rig.fake.held(), 0);
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn the_end_of_the_registry_is_noticed() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.acquire().await.unwrap();
        rig.lose_registry().await;
    });
}
