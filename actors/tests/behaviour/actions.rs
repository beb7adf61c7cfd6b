//! Actions on a function: restarts and stops.

use unifaas_actors::{
    HostLimits,
    sandbox::{LaunchError, SandboxExit},
};

use crate::support::*;

/// An instance that takes two seconds to boot.
fn slow() -> Script {
    Script { ready_after: Some(secs(2)), ..Script::default() }
}

#[test]
fn a_restart_replaces_instances_once_new_ones_are_ready() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 100\nconcurrent-requests = 1");
        let (busy, idle) = (rig.acquire().await.unwrap(), rig.acquire().await.unwrap());
        let old = [busy.endpoint().clone(), idle.endpoint().clone()];
        drop(idle);
        rig.fake.usually(slow());
        assert_eq!(rig.handle().restart().await, Some(2));
        sleep(secs(1)).await;
        assert_eq!(rig.states().await, ["booting", "booting", "busy", "idle"]);
        let meanwhile = rig.acquire().await.unwrap();
        assert_eq!(meanwhile.endpoint().instance, old[1].instance, "old ones serve until then");
        drop(meanwhile);
        sleep(secs(2)).await;
        assert_eq!(rig.states().await, ["busy", "idle", "idle"]);
        assert!(old[0].is_live() && !old[1].is_live(), "a request in flight is finished");
        drop(busy);
        sleep(secs(1)).await;
        assert!(!old[0].is_live());
        assert_eq!((rig.states().await, rig.fake.launched()), (vec!["idle", "idle"], 4));
        rig.finish().await;
    });
}

#[test]
fn a_restart_of_nothing_tries_a_failing_function_again() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let fails = Script { launch: Launch::Fails(LaunchError::Refused("no".into())), ..Script::default() };
        rig.fake.usually(fails);
        for _ in 0..3 {
            rig.acquire().await.unwrap_err();
        }
        assert_eq!(rig.snapshot().await.state, "failing");
        rig.fake.usually(Script::default());
        assert_eq!(rig.handle().restart().await, Some(0));
        drop(rig.acquire().await.unwrap());
        rig.finish().await;
    });
}

#[test]
fn a_restart_with_a_broken_program_leaves_the_old_instances() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 100\nmin-instances = 2");
        sleep(ms(200)).await;
        rig.fake.next(Script {
            ready_after: None,
            exit_after: Some((secs(1), SandboxExit::Code(3))),
            ..Script::default()
        });
        assert_eq!(rig.handle().restart().await, Some(2));
        sleep(secs(5)).await;
        // One of two was ready before the other one failed, and has replaced an old one.
        assert_eq!((rig.states().await, rig.fake.launched()), (vec!["idle", "idle"], 4));
        drop(rig.acquire().await.unwrap());
        rig.finish().await;
    });
}

#[test]
fn a_restart_never_exceeds_the_maximum() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 100\nmax-instances = 2\nconcurrent-requests = 1");
        let leases = [rig.acquire().await.unwrap(), rig.acquire().await.unwrap()];
        let old = leases.each_ref().map(|lease| lease.endpoint().clone());
        assert_eq!(rig.handle().restart().await, Some(2));
        let waiting = rig.requests(4).await;
        drop(leases);
        for request in waiting {
            drop(request.await.unwrap().unwrap());
        }
        sleep(secs(10)).await;
        assert!(old.iter().all(|endpoint| !endpoint.is_live()));
        assert_eq!(rig.fake.max_held(), 2);
        rig.finish().await;
    });
}

#[test]
fn a_restart_waits_for_the_host_no_longer_than_its_time() {
    with_paused_clock(async {
        let limits = HostLimits { memory: 1000, ..ROOMY };
        let rig = Rig::with(limits, &[(FUNCTION, "memory = 600\nkeepalive = 1000\nboot-timeout = 5")]);
        let old = rig.acquire().await.unwrap();
        assert_eq!(rig.handle().restart().await, Some(1));
        sleep(secs(14)).await;
        assert!(old.endpoint().is_live(), "there is no room for both");
        let endpoint = old.endpoint().clone();
        drop(old);
        sleep(secs(2)).await;
        assert!(!endpoint.is_live());
        drop(rig.acquire().await.unwrap());
        rig.finish().await;
    });
}

#[test]
fn a_stop_ends_all_instances_and_waiting_requests_get_new_ones() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 100\nmax-instances = 2\nconcurrent-requests = 1");
        let leases = [rig.acquire().await.unwrap(), rig.acquire().await.unwrap()];
        let waiting = rig.request().await;
        assert_eq!(rig.handle().stop().await, Some(2));
        rig.settle().await;
        for lease in &leases {
            lease.endpoint().ended().await;
            let end = lease.endpoint().end().map(ToString::to_string);
            assert_eq!(end.as_deref(), Some("stopped by an operator"));
        }
        let served = waiting.await.unwrap().unwrap();
        assert!(leases.iter().all(|lease| lease.endpoint().instance != served.endpoint().instance));
        drop((leases, served));
        assert_eq!(rig.handle().stop().await, Some(1));
        sleep(secs(1)).await;
        assert_eq!((rig.states().await.len(), rig.handle().stop().await), (0, Some(0)));
        rig.finish().await;
    });
}

#[test]
fn a_stop_of_one_instance_leaves_the_others() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 100\nconcurrent-requests = 1");
        let [one, other] = [rig.acquire().await.unwrap(), rig.acquire().await.unwrap()];
        let id = one.endpoint().instance;
        assert_eq!(rig.handle().stop_instance(id).await, Some(true));
        one.endpoint().ended().await;
        assert!(other.endpoint().is_live());
        drop((one, other));
        sleep(secs(1)).await;
        assert_eq!(rig.handle().stop_instance(id).await, Some(false), "it has ended");
        assert_eq!(rig.states().await, ["idle"]);
        rig.finish().await;
    });
}

#[test]
fn a_boot_that_is_stopped_costs_its_caller_no_more_than_another_boot() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.fake.usually(slow());
        let request = rig.request().await;
        sleep(secs(1)).await;
        assert_eq!(rig.handle().stop().await, Some(1));
        drop(request.await.unwrap().unwrap());
        assert_eq!(rig.fake.launched(), 2);
        rig.finish().await;
    });
}

#[test]
fn restarts_under_load_lose_no_request() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 100\nmax-instances = 3\nconcurrent-requests = 2");
        rig.fake.usually(Script { launch_after: ms(1), ready_after: Some(ms(9)), ..Script::default() });
        let over = std::rc::Rc::new(std::cell::Cell::new(false));
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let (handle, over) = (rig.handle(), over.clone());
                actix::spawn(async move {
                    while !over.get() {
                        let lease = handle.acquire().await.unwrap();
                        sleep(ms(3 + client)).await;
                        assert!(lease.endpoint().is_live(), "the instance was stopped during its request");
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            rig.handle().restart().await.unwrap();
            sleep(ms(37)).await;
        }
        over.set(true);
        for client in clients {
            client.await.unwrap();
        }
        assert!(rig.fake.max_held() <= 3);
        rig.finish().await;
    });
}

#[test]
fn a_rescan_answers_when_findings_count() {
    with_paused_clock(async {
        let rig = Rig::with(ROOMY, &[(FUNCTION, ""), ("other", "")]);
        rig.settle().await;
        let found = rig.rescan().await.unwrap();
        assert_eq!((found.functions, found.invalid.len()), (2, 0));
        rig.write_silently("other", "keepalive = \"long\"");
        rig.write_silently("third", "");
        let found = rig.rescan().await.unwrap();
        let (name, reason) = &found.invalid[0];
        assert_eq!((found.functions, name.as_str()), (3, "other"));
        assert!(reason.contains("keepalive") && rig.handle_of("third").is_some());
        rig.finish().await;
    });
}
