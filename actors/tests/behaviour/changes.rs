//! A function's file that changes, becomes invalid, is corrected or removed, while requests are served.

use unifaas_actors::{Refusal, sandbox::SandboxExit};

use crate::support::*;

#[test]
fn requests_after_a_change_get_instances_of_the_new_spec() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30");
        let old = rig.acquire().await.unwrap().endpoint().clone();
        rig.configure("keepalive = 31").await;
        rig.settle().await;
        assert!(!old.is_live(), "an idle instance of the old spec is stopped at once");
        let lease = rig.acquire().await.unwrap();
        assert_eq!((lease.endpoint().spec.keepalive, lease.endpoint().revision), (secs(31), 2));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn an_instance_of_the_old_spec_finishes_its_requests() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30\nconcurrent-requests = 2");
        let old = rig.acquire().await.unwrap();
        rig.configure("keepalive = 31\nconcurrent-requests = 2").await;
        let new = rig.acquire().await.unwrap();
        assert_eq!((old.endpoint().revision, new.endpoint().revision), (1, 2));
        sleep(secs(100)).await;
        let endpoint = old.endpoint().clone();
        assert!(endpoint.is_live());
        drop(old);
        rig.settle().await;
        assert!(!endpoint.is_live());
        drop(new);
        rig.finish().await;
    });
}

#[test]
fn callers_from_before_a_change_are_served_by_the_boot_under_way() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30\nmax-instances = 1");
        rig.fake.usually(Script { ready_after: Some(secs(2)), ..Script::default() });
        let before = rig.request().await;
        rig.configure("keepalive = 31\nmax-instances = 1").await;
        let after = rig.request().await;
        let (before, launched) = (before.await.unwrap().unwrap(), rig.fake.launched());
        assert_eq!((before.endpoint().revision, launched), (1, 1));
        drop(before);
        assert_eq!(after.await.unwrap().unwrap().endpoint().revision, 2);
        assert_eq!(rig.fake.max_held(), 1);
        rig.finish().await;
    });
}

#[test]
fn a_boot_of_the_old_spec_without_callers_is_stopped() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30");
        rig.fake.usually(Script { ready_after: Some(secs(2)), ..Script::default() });
        rig.request().await.abort();
        sleep(ms(100)).await;
        assert_eq!(rig.states().await, ["booting"]);
        rig.configure("keepalive = 31").await;
        sleep(ms(100)).await;
        assert_eq!((rig.states().await.len(), rig.fake.launched()), (0, 1));
        rig.finish().await;
    });
}

#[test]
fn a_failed_boot_of_the_old_spec_fails_only_callers_from_before_the_change() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 4\nmax-instances = 1\nkeepalive = 30");
        rig.fake.next(Script {
            ready_after: None,
            exit_after: Some((secs(2), SandboxExit::Code(3))),
            ..Script::default()
        });
        let before = rig.request().await;
        rig.configure("concurrent-requests = 4\nmax-instances = 1\nkeepalive = 31").await;
        let after = rig.requests(2).await;
        assert_eq!(rig.fake.launched(), 1);
        assert!(matches!(before.await.unwrap(), Err(Refusal::BootFailed { .. })));
        for request in after {
            assert_eq!(request.await.unwrap().unwrap().endpoint().revision, 2);
        }
        rig.finish().await;
    });
}

#[test]
fn a_boot_of_the_old_spec_does_not_delay_callers_from_after_the_change() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30\nmax-instances = 1");
        rig.fake.next(Script { ready_after: Some(secs(20)), ..Script::default() });
        let before = rig.request().await;
        rig.configure("keepalive = 31\nmax-instances = 1").await;
        let after = rig.request().await;
        before.abort();
        let asked_at = Instant::now();
        after.await.unwrap().unwrap();
        assert!(asked_at.elapsed() < secs(1), "{:?}", asked_at.elapsed());
        rig.finish().await;
    });
}

#[test]
fn a_minimum_is_kept_in_the_new_spec() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 2");
        sleep(ms(200)).await;
        rig.configure("min-instances = 3").await;
        sleep(ms(200)).await;
        let instances = rig.instances().await;
        assert_eq!((instances.len(), instances.iter().all(|instance| instance.revision == 2)), (3, true));
        rig.finish().await;
    });
}

#[test]
fn fifty_changes_in_a_row_lose_no_request() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 100\nmax-instances = 3");
        rig.fake.usually(Script { launch_after: ms(1), ready_after: Some(ms(9)), ..Script::default() });
        let mut clients = Vec::new();
        let over = std::rc::Rc::new(std::cell::Cell::new(false));
        for client in 0..16 {
            let (handle, over) = (rig.handle(), over.clone());
            clients.push(actix::spawn(async move {
                let mut served = 0;
                while !over.get() {
                    let lease = handle.acquire().await.unwrap();
                    sleep(ms(3 + client)).await;
                    assert!(lease.endpoint().is_live(), "the instance was stopped during its request");
                    served += 1;
                }
                served
            }));
        }
        for keepalive in 0..50 {
            rig.configure(&format!("keepalive = {keepalive}\nmax-instances = 3")).await;
        }
        over.set(true);
        for client in clients {
            assert!(client.await.unwrap() > 10);
        }
        assert_eq!(rig.snapshot().await.revision, 51);
        assert!(rig.fake.max_held() <= 3);
        rig.finish().await;
    });
}

#[test]
fn an_invalid_file_leaves_the_last_valid_version_in_force() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let idle = rig.acquire().await.unwrap().endpoint().clone();
        rig.configure("keepalive = \"long\"").await;
        let snapshot = rig.snapshot().await;
        assert_eq!((snapshot.state, snapshot.revision, snapshot.serves_revision), ("misconfigured", 2, Some(1)));
        assert!(snapshot.reason.is_some_and(|reason| reason.contains("keepalive")) && snapshot.spec.is_some());
        let lease = rig.acquire().await.unwrap();
        assert_eq!(lease.endpoint().instance, idle.instance, "no instance is replaced");
        let second = rig.acquire().await.unwrap();
        assert_eq!(second.endpoint().revision, 1, "new instances are of the last valid version");
        drop((lease, second));

        rig.configure("keepalive = \"longer\"").await;
        rig.configure("").await;
        let snapshot = rig.snapshot().await;
        assert_eq!((snapshot.state, snapshot.revision, snapshot.serves_revision), ("serving", 4, Some(1)));
        assert!(idle.is_live(), "the version in force is the same again");
        rig.configure("keepalive = \"long\"").await;
        rig.configure("keepalive = 31").await;
        let snapshot = rig.snapshot().await;
        assert_eq!((snapshot.state, snapshot.revision, snapshot.serves_revision), ("serving", 6, Some(6)));
        assert_eq!(rig.acquire().await.unwrap().endpoint().revision, 6);
        rig.finish().await;
    });
}

#[test]
fn an_inactive_function_shows_its_invalid_file() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.configure("keepalive = \"long\"").await;
        let snapshot = rig.handle().inactive_snapshot().unwrap();
        assert_eq!((snapshot.state, snapshot.revision, snapshot.serves_revision), ("misconfigured", 2, Some(1)));
        assert!(snapshot.reason.is_some());
        rig.finish().await;
    });
}

#[test]
fn an_actor_that_panics_restarts_with_the_last_valid_version() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.configure("keepalive = \"long\"").await;
        rig.log.panic_at("instance is ready");
        rig.acquire().await.unwrap_err();
        rig.log.panic_at("an instance's actor panicked; the instance was killed");
        rig.settle().await;
        let lease = rig.acquire().await.unwrap();
        assert_eq!((rig.snapshot().await.state, rig.snapshot().await.serves_revision), ("misconfigured", Some(1)));
        drop(lease);
        rig.log.stop_panicking();
        rig.finish().await;
    });
}

#[test]
fn a_function_that_never_was_valid_refuses_until_its_file_is_corrected() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = \"long\"");
        assert_eq!(rig.snapshot().await.state, "misconfigured");
        let Err(Refusal::Misconfigured { reason }) = rig.acquire().await else { panic!() };
        assert!(reason.contains("keepalive"), "{reason}");
        assert_eq!(rig.snapshot().await.serves_revision, None);
        rig.configure("keepalive = []").await;
        assert!(matches!(rig.acquire().await, Err(Refusal::Misconfigured { .. })));
        rig.configure("").await;
        assert_eq!(rig.acquire().await.unwrap().endpoint().revision, 3);
        rig.finish().await;
    });
}

#[test]
fn callers_are_served_while_the_file_is_invalid() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        rig.fake.usually(Script { ready_after: Some(secs(2)), ..Script::default() });
        let before = rig.request().await;
        rig.configure("keepalive = \"long\"").await;
        let after = rig.request().await;
        drop(before.await.unwrap().unwrap());
        drop(after.await.unwrap().unwrap());
        assert_eq!(rig.fake.launched(), 1);
        rig.finish().await;
    });
}

#[test]
fn a_removed_function_is_drained() {
    with_paused_clock(async {
        let rig = Rig::new("timeout = 60\nmax-instances = 1");
        let busy = rig.acquire().await.unwrap();
        let (waiting, handle) = (rig.request().await, rig.handle());
        rig.remove().await;
        assert_eq!(waiting.await.unwrap().unwrap_err(), Refusal::Draining);
        assert_eq!(handle.acquire().await.unwrap_err(), Refusal::Draining);
        sleep(secs(50)).await;
        let endpoint = busy.endpoint().clone();
        assert!(endpoint.is_live());
        drop(busy);
        sleep(ms(100)).await;
        assert_eq!((endpoint.is_live(), rig.fake.held()), (false, 0));
        drop(handle);
        rig.finish().await;
    });
}

#[test]
fn a_function_that_is_added_again_is_independent_of_its_predecessor() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let old = rig.acquire().await.unwrap();
        rig.remove().await;
        rig.add_again("").await;
        let new = rig.acquire().await.unwrap();
        assert_ne!(new.endpoint().instance, old.endpoint().instance);
        drop(old);
        sleep(secs(1)).await;
        assert!(new.endpoint().is_live() && rig.exists());
        assert_eq!(rig.fake.held(), 1);
        drop(new);
        rig.finish().await;
    });
}
