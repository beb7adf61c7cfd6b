//! Which caller gets a slot of which instance.

use std::collections::HashSet;

use crate::support::*;

#[test]
fn a_cold_request_boots_one_instance() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let asked_at = Instant::now();
        let lease = rig.acquire().await.unwrap();
        assert!(lease.is_fresh() && lease.endpoint().is_live());
        assert_eq!(asked_at.elapsed(), ms(100));
        assert_eq!(lease.endpoint().boot(), ms(100));
        assert_eq!((rig.fake.launched(), rig.fake.running()), (1, 1));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn a_warm_request_is_served_at_once_by_the_existing_instance() {
    with_paused_clock(async {
        let rig = Rig::new("");
        let first = rig.acquire().await.unwrap();
        let instance = first.endpoint().instance;
        drop(first);
        for _ in 0..10 {
            let asked_at = Instant::now();
            let lease = rig.acquire().await.unwrap();
            assert_eq!((lease.endpoint().instance, lease.is_fresh()), (instance, false));
            assert_eq!(asked_at.elapsed(), ms(0));
        }
        assert_eq!(rig.fake.launched(), 1);
        rig.finish().await;
    });
}

#[test]
fn a_hundred_requests_at_once_share_ten_boots() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 10");
        let mut leases = Vec::new();
        for request in rig.requests(100).await {
            leases.push(request.await.unwrap().unwrap());
        }
        let instances: HashSet<_> = leases.iter().map(|lease| lease.endpoint().instance).collect();
        assert_eq!((instances.len(), rig.fake.launched()), (10, 10));
        assert!(rig.instances().await.iter().all(|instance| instance.in_flight == 10));
        drop(leases);
        rig.finish().await;
    });
}

#[test]
fn later_requests_share_the_boots_under_way() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 3");
        let mut requests = rig.requests(2).await;
        requests.extend(rig.requests(1).await);
        assert_eq!(rig.fake.launched(), 1);
        requests.extend(rig.requests(1).await);
        assert_eq!(rig.fake.launched(), 2);
        for request in requests {
            request.await.unwrap().unwrap();
        }
        rig.finish().await;
    });
}

#[test]
fn a_single_use_instance_is_stopped_after_one_request() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true");
        let mut seen = HashSet::new();
        for _ in 0..5 {
            let lease = rig.acquire().await.unwrap();
            assert!(lease.is_fresh() && seen.insert(lease.endpoint().instance), "an instance was used again");
            sleep(secs(100)).await;
            assert!(lease.endpoint().is_live(), "no keepalive stops a busy instance");
            let endpoint = lease.endpoint().clone();
            drop(lease);
            rig.settle().await;
            assert!(!endpoint.is_live());
            assert_eq!(rig.states().await, ["stopping"]);
        }
        sleep(ms(50)).await;
        assert_eq!((rig.fake.launched(), rig.fake.held()), (5, 0));
        rig.finish().await;
    });
}

#[test]
fn the_successor_of_a_single_use_instance_starts_when_that_is_acquired() {
    with_paused_clock(async {
        let rig = Rig::new("single-use = true\nmin-instances = 1");
        sleep(ms(200)).await;
        let asked_at = Instant::now();
        let first = rig.acquire().await.unwrap();
        rig.settle().await;
        assert_eq!(rig.states().await, ["busy", "launching"]);
        sleep(ms(200)).await;
        let second = rig.acquire().await.unwrap();
        assert_ne!(first.endpoint().instance, second.endpoint().instance);
        assert_eq!(asked_at.elapsed(), ms(201), "no request waited for a boot");
        drop((first, second));
        rig.finish().await;
    });
}

#[test]
fn a_failed_instance_gets_no_new_request_and_finishes_the_others() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 3");
        let mut failed = rig.acquire().await.unwrap();
        let other = rig.acquire().await.unwrap();
        let instance = failed.endpoint().instance;
        assert_eq!(other.endpoint().instance, instance);
        failed.mark_failed();
        drop(failed);

        let next = rig.acquire().await.unwrap();
        assert_ne!(next.endpoint().instance, instance);
        sleep(secs(10)).await;
        assert!(other.endpoint().is_live());
        let endpoint = other.endpoint().clone();
        drop(other);
        rig.settle().await;
        assert!(!endpoint.is_live());
        drop(next);
        rig.finish().await;
    });
}

#[test]
fn a_failed_instance_of_the_minimum_is_replaced() {
    with_paused_clock(async {
        let rig = Rig::new("min-instances = 1");
        sleep(ms(200)).await;
        let mut lease = rig.acquire().await.unwrap();
        lease.mark_failed();
        drop(lease);
        sleep(ms(200)).await;
        assert_eq!(rig.states().await, ["idle"]);
        assert_eq!(rig.fake.launched(), 2);
        rig.finish().await;
    });
}
