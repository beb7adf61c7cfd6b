//! How long idle instances are kept, and how many.

use unifaas_actors::{Refusal, sandbox::SandboxExit};

use crate::support::*;

#[test]
fn keepalive_counts_from_the_end_of_the_last_request() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30\nkeep-paused = 0");
        for _ in 0..3 {
            drop(rig.acquire().await.unwrap());
            sleep(secs(29)).await;
            assert_eq!(rig.states().await, ["idle"]);
        }
        let lease = rig.acquire().await.unwrap();
        sleep(secs(5)).await;
        drop(lease);
        sleep(secs(29)).await;
        assert_eq!((rig.states().await, rig.fake.launched()), (vec!["idle"], 1));
        sleep(secs(2)).await;
        assert_eq!((rig.states().await.len(), rig.fake.held()), (0, 0));
        rig.finish().await;
    });
}

#[test]
fn a_request_longer_than_the_keepalive_keeps_its_instance() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30\nkeep-paused = 0");
        let lease = rig.acquire().await.unwrap();
        sleep(secs(300)).await;
        assert!(lease.endpoint().is_live());
        drop(lease);
        sleep(secs(29)).await;
        assert_eq!(rig.states().await, ["idle"]);
        sleep(secs(2)).await;
        assert_eq!(rig.states().await.len(), 0);
        rig.finish().await;
    });
}

#[test]
fn without_a_keepalive_an_instance_serves_waiting_callers_and_then_stops() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 0\nkeep-paused = 0\nmax-instances = 1");
        let requests = rig.requests(3).await;
        for request in requests {
            let lease = request.await.unwrap().unwrap();
            sleep(secs(1)).await;
            assert!(lease.endpoint().is_live());
        }
        assert_eq!(rig.fake.launched(), 1);
        sleep(ms(50)).await;
        assert_eq!(rig.fake.held(), 0);
        rig.finish().await;
    });
}

#[test]
fn superfluous_instances_expire_because_the_most_recently_used_one_is_reused() {
    with_paused_clock(async {
        let rig = Rig::new("keepalive = 30\nkeep-paused = 0");
        let requests = rig.requests(5).await;
        for request in requests {
            drop(request.await.unwrap().unwrap());
        }
        for _ in 0..7 {
            sleep(secs(5)).await;
            drop(rig.acquire().await.unwrap());
        }
        assert_eq!(rig.states().await, ["idle"]);
        assert_eq!(rig.fake.launched(), 5);
        rig.finish().await;
    });
}

#[test]
fn a_minimum_is_kept_from_the_start_on() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 2\nkeepalive = 5");
        sleep(ms(200)).await;
        assert_eq!(rig.states().await, ["idle", "idle"]);
        sleep(secs(3_600)).await;
        assert_eq!((rig.states().await, rig.fake.launched()), (vec!["idle", "idle"], 2));
        rig.finish().await;
    });
}

#[test]
fn instances_beyond_the_minimum_expire() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 2\nkeepalive = 5\nkeep-paused = 0");
        let requests = rig.requests(4).await;
        assert_eq!(rig.fake.launched(), 4);
        for request in requests {
            drop(request.await.unwrap().unwrap());
        }
        sleep(secs(12)).await;
        assert_eq!(rig.states().await, ["idle", "idle"]);
        rig.finish().await;
    });
}

#[test]
fn an_instance_of_the_minimum_that_exits_is_replaced() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 2");
        sleep(secs(2)).await;
        let crashed = rig.instances().await[0].id;
        rig.fake.crash(crashed, SandboxExit::Signal(9));
        sleep(ms(200)).await;
        assert_eq!(rig.states().await, ["idle", "idle"]);
        assert!(rig.instances().await.iter().all(|instance| instance.id != crashed));
        assert_eq!(rig.fake.launched(), 3);
        rig.finish().await;
    });
}

#[test]
fn a_minimum_that_ends_as_soon_as_it_is_ready_is_started_with_growing_pauses() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 1");
        // Ready after 100 ms.
        let exits = |after| Script { exit_after: Some((ms(after), SandboxExit::Code(7))), ..Script::default() };
        rig.fake.usually(exits(190));
        sleep(secs(60)).await;
        // After pauses of 0.25, 0.5, 1, 2, 4, 8, 16 and 32 seconds.
        assert_eq!(rig.fake.launched(), 8);
        let Err(Refusal::Failing { last, .. }) = rig.acquire().await else { panic!() };
        assert_eq!(last.to_string(), "the instance ended before it served a request: exited with status 7");
        assert_eq!(rig.snapshot().await.state, "failing");
        // An instance that was ready for longer is not a failed start.
        rig.fake.always(exits(2_000));
        rig.configure("min-instances = 1\nkeepalive = 50").await;
        sleep(secs(20)).await;
        assert_eq!((rig.snapshot().await.state, rig.fake.launched()), ("serving", 18));
        rig.finish().await;
    });
}
