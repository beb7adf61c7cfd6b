//! Instances that exit, that cannot be ended, and what is left of them.

use tokio::time::timeout;
use unifaas_actors::{HostLimits, sandbox::SandboxExit};

use crate::support::*;

#[test]
fn an_idle_instance_that_exits_gets_no_request() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let lease = rig.acquire().await.unwrap();
        let endpoint = lease.endpoint().clone();
        drop(lease);
        rig.fake.crash(endpoint.instance, SandboxExit::Signal(9));
        rig.settle().await;
        assert!(!endpoint.is_live() && endpoint.has_ended());
        let lease = rig.acquire().await.unwrap();
        assert_ne!(lease.endpoint().instance, endpoint.instance);
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn leases_of_an_instance_that_exited_have_no_effect() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 2");
        let first = rig.acquire().await.unwrap();
        let mut second = rig.acquire().await.unwrap();
        rig.fake.crash(first.endpoint().instance, SandboxExit::OutOfMemory { limit: 128 });
        first.endpoint().ended().await;
        assert_eq!(first.endpoint().end(), Some(&SandboxExit::OutOfMemory { limit: 128 }));
        assert!(!first.endpoint().is_live());
        let third = rig.acquire().await.unwrap();
        assert_ne!(third.endpoint().instance, first.endpoint().instance);
        drop(first);
        second.mark_failed();
        drop(second);
        rig.settle().await;
        assert_eq!(rig.states().await, ["busy"]);
        drop(third);
        rig.finish().await;
    });
}

#[test]
fn callers_that_wait_for_an_instance_that_exits_get_another() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        let lease = rig.acquire().await.unwrap();
        let waiting = rig.requests(3).await;
        rig.fake.crash(lease.endpoint().instance, SandboxExit::Code(1));
        for request in waiting {
            request.await.unwrap().unwrap();
        }
        assert_eq!((rig.fake.launched(), rig.fake.max_held()), (2, 1));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_exits_when_it_is_terminated_is_not_killed() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true");
        drop(rig.acquire().await.unwrap());
        sleep(secs(1)).await;
        assert_eq!((rig.fake.held(), rig.fake.terminated(), rig.fake.killed()), (0, 1, 0));
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_ignores_termination_is_killed_after_its_grace() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true\nstop-grace = 3");
        rig.fake.usually(Script { on_terminate: OnTerminate::Ignores, ..Script::default() });
        drop(rig.acquire().await.unwrap());
        sleep(ms(2_990)).await;
        assert_eq!((rig.fake.running(), rig.fake.terminated(), rig.fake.killed()), (1, 1, 0));
        sleep(ms(20)).await;
        assert_eq!((rig.fake.running(), rig.fake.killed()), (0, 1));
        rig.finish().await;
    });
}

#[test]
fn a_terminating_instance_has_ended_when_it_exits() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true\nstop-grace = 3");
        rig.fake.usually(Script { on_terminate: OnTerminate::Ignores, ..Script::default() });
        let lease = rig.acquire().await.unwrap();
        let (endpoint, asked_at) = (lease.endpoint().clone(), Instant::now());
        drop(lease);
        endpoint.gone().await;
        assert_eq!((asked_at.elapsed(), endpoint.has_ended(), endpoint.end()), (secs(0), false, None));
        endpoint.ended().await;
        assert_eq!((asked_at.elapsed().as_secs(), endpoint.end()), (3, Some(&SandboxExit::Signal(9))));
        rig.finish().await;
    });
}

#[test]
fn an_instance_without_grace_is_killed_at_once() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true\nstop-grace = 0");
        drop(rig.acquire().await.unwrap());
        rig.settle().await;
        assert_eq!((rig.fake.running(), rig.fake.terminated(), rig.fake.killed()), (0, 0, 1));
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_survives_a_kill_is_reclaimed_after_a_timeout() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true\nmax-instances = 1");
        rig.fake.next(Script { on_terminate: OnTerminate::Ignores, survives_kill: true, ..Script::default() });
        let lease = rig.acquire().await.unwrap();
        let endpoint = lease.endpoint().clone();
        drop(lease);
        let asked_at = Instant::now();
        rig.acquire().await.unwrap();
        assert!(asked_at.elapsed() < secs(6), "half a second of grace, the timeout of five seconds, and a boot");
        assert!(
            endpoint.has_ended() && endpoint.end().is_none(),
            "it has ended for its function, and its exit was not observed"
        );
        rig.finish().await;
    });
}

/// Returns the script of an instance that survives a kill, so that its resources cannot be reclaimed.
fn stuck() -> Script {
    Script { on_terminate: OnTerminate::Ignores, survives_kill: true, reclaim: Reclaim::Fails, ..Script::default() }
}

#[test]
fn memory_of_a_stuck_instance_is_taken_until_it_exits() {
    with_paused_clock(async {
        let limits = HostLimits { memory: 3 * 128, ..ROOMY };
        let rig = Rig::with(limits, &[(FUNCTION, "single-use = true"), ("idle", ""), ("big", "memory = 256")]);
        rig.fake.next(stuck());
        drop(rig.acquire().await.unwrap());
        // Half a second of grace, and the timeout of five seconds.
        sleep(secs(6)).await;
        assert_eq!((rig.instances().await.len(), rig.admission().await.memory_taken), (0, 128));

        rig.request_of("idle").await.await.unwrap().unwrap();
        let asked_at = Instant::now();
        rig.request_of("big").await.await.unwrap().unwrap();
        assert!(asked_at.elapsed() < secs(1), "its exit is not expected, and an idle instance is evicted");
        assert_eq!((rig.evicted(), rig.admission().await.memory_taken), (1, 3 * 128));

        rig.fake.end_stuck();
        rig.settle().await;
        assert_eq!(rig.admission().await.memory_taken, 2 * 128);
        assert_eq!(rig.log.count("the instance that could not be ended has ended"), 1);
        rig.finish().await;
    });
}

#[test]
fn the_drain_does_not_wait_for_stuck_instances() {
    for reclaim in [Reclaim::Fails, Reclaim::Never] {
        with_paused_clock(async {
            let rig = Rig::new("");
            rig.fake.next(Script { reclaim, ..stuck() });
            let lease = rig.acquire().await.unwrap();
            // The timeout of five seconds, and that of reclaiming.
            let longest = if matches!(reclaim, Reclaim::Fails) { secs(5) } else { secs(5 + 30) };
            let drained = timeout(longest + ms(10), rig.drain(secs(0))).await;
            drained.unwrap_or_else(|_| panic!("{reclaim:?}: it waits")).unwrap();
            assert_eq!(rig.admission().await.memory_taken, 128, "{reclaim:?}");
            drop(lease);
            rig.finish().await;
        });
    }
}

#[test]
fn leaked_resources_are_logged_and_delay_no_caller() {
    for (reclaim, report, longest) in [
        (Reclaim::Fails, "a resource has leaked", secs(1)),
        (Reclaim::Never, "resources were not given back in time", secs(31)),
        (Reclaim::After(secs(29)), "", secs(30)),
    ] {
        with_paused_clock(async {
            let rig = Rig::new("single-use = true\nmax-instances = 1\nqueue-timeout = 60");
            rig.fake.next(Script { reclaim, ..Script::default() });
            drop(rig.acquire().await.unwrap());
            let asked_at = Instant::now();
            rig.acquire().await.unwrap();
            assert!(asked_at.elapsed() < longest, "{reclaim:?} took {:?}", asked_at.elapsed());
            assert_eq!(rig.log.count(report), usize::from(!report.is_empty()), "{reclaim:?}");
            rig.finish().await;
        });
    }
}

#[test]
fn an_instance_shows_its_resources_until_they_are_reclaimed() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true");
        rig.fake.usually(Script { reclaim: Reclaim::After(secs(1)), ..Script::default() });
        let lease = rig.acquire().await.unwrap();
        let serving = rig.instances().await.remove(0);
        assert_eq!((serving.state, serving.resources.len(), serving.served), ("busy", 1, 1));
        drop(lease);
        sleep(ms(500)).await;
        let reaping = rig.instances().await.remove(0);
        assert_eq!((reaping.state, &reaping.resources), ("reaping", &serving.resources));
        sleep(secs(1)).await;
        assert_eq!(rig.instances().await.len(), 0);
        rig.finish().await;
    });
}
