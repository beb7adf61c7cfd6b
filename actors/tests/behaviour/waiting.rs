//! The queue: its order, its length, its timeout, and callers that give up.

use std::{cell::RefCell, rc::Rc};

use unifaas_actors::Refusal;

use crate::support::*;

#[test]
fn serves_callers_in_the_order_of_arrival() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        let served = Rc::new(RefCell::new(Vec::new()));
        let requests: Vec<_> = (0..20)
            .map(|number| {
                let (handle, served) = (rig.handle(), served.clone());
                actix::spawn(async move {
                    let lease = handle.acquire().await.unwrap();
                    served.borrow_mut().push(number);
                    sleep(ms(10)).await;
                    drop(lease);
                })
            })
            .collect();
        for request in requests {
            request.await.unwrap();
        }
        assert_eq!(*served.borrow(), (0..20).collect::<Vec<_>>());
        assert_eq!(rig.fake.max_held(), 1);
        rig.finish().await;
    });
}

#[test]
fn stopping_instances_count_towards_the_maximum() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 2\nsingle-use = true");
        let requests = rig.requests(10).await;
        for request in requests {
            request.await.unwrap().unwrap();
        }
        assert_eq!((rig.fake.launched(), rig.fake.max_held()), (10, 2));
        rig.finish().await;
    });
}

#[test]
fn memory_limits_a_function_without_maximum() {
    with_paused_clock(async {
        // The host has memory for a thousand instances.
        let rig = Rig::new("queue = 1500");
        let requests = rig.requests(1500).await;
        assert_eq!(rig.fake.launched(), 1000);
        for request in requests {
            request.await.unwrap().unwrap();
        }
        assert_eq!(rig.fake.max_held(), 1000);
        rig.finish().await;
    });
}

#[test]
fn a_full_queue_refuses_at_once_and_estimates_when_to_retry() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1\nqueue = 3");
        for _ in 0..20 {
            let lease = rig.acquire().await.unwrap();
            sleep(secs(4)).await;
            drop(lease);
        }
        let lease = rig.acquire().await.unwrap();
        let waiting = rig.requests(3).await;
        let asked_at = Instant::now();
        let Err(Refusal::Saturated { waiting: in_queue, retry_after }) = rig.acquire().await else { panic!() };
        assert_eq!((in_queue, asked_at.elapsed()), (3, ms(0)));
        let (shortest, longest) = (secs(3 * 3), secs(3 * 5));
        assert!((shortest..longest).contains(&retry_after), "three requests of 4 s each wait, not {retry_after:?}");
        drop(lease);
        for request in waiting {
            request.await.unwrap().unwrap();
        }
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn a_request_waits_no_longer_than_its_queue_timeout() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1\nqueue-timeout = 3");
        let lease = rig.acquire().await.unwrap();
        let first = rig.request().await;
        sleep(secs(1)).await;
        let second = rig.request().await;
        let asked_at = Instant::now();
        assert_eq!(first.await.unwrap().unwrap_err(), Refusal::QueueTimedOut { after: secs(3) });
        assert!(asked_at.elapsed() <= secs(2));
        drop(lease);
        let second = second.await.unwrap().unwrap();
        assert_eq!(rig.snapshot().await.waiting, 0);
        drop(second);
        rig.finish().await;
    });
}

#[test]
fn a_caller_that_gives_up_frees_its_place() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1\nqueue = 2");
        let lease = rig.acquire().await.unwrap();
        let [first, second] = rig.requests(2).await.try_into().unwrap();
        assert!(matches!(rig.acquire().await, Err(Refusal::Saturated { .. })));
        second.abort();
        rig.settle().await;
        assert_eq!(rig.snapshot().await.waiting, 1);
        let third = rig.request().await;
        drop(lease);
        first.await.unwrap().unwrap();
        third.await.unwrap().unwrap();
        rig.finish().await;
    });
}

#[test]
fn starts_nothing_for_a_caller_that_gave_up_while_it_waited() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1\nsingle-use = true");
        let lease = rig.acquire().await.unwrap();
        let waiting = rig.request().await;
        waiting.abort();
        drop(lease);
        sleep(secs(10)).await;
        assert_eq!(rig.fake.launched(), 1);
        rig.finish().await;
    });
}

#[test]
fn starts_nothing_for_a_caller_that_gave_up_before_its_message_arrived() {
    with_paused_clock(async {
        let rig = Rig::new("");
        rig.settle().await;
        let handle = rig.handle();
        // A caller that stays is in front of those that give up.
        let mut staying = Box::pin(handle.acquire());
        assert!(futures::poll!(&mut staying).is_pending());
        for _ in 0..5 {
            let mut leaving = Box::pin(handle.acquire());
            assert!(futures::poll!(&mut leaving).is_pending());
        }
        staying.await.unwrap();
        assert_eq!((rig.fake.launched(), rig.snapshot().await.waiting), (1, 0));
        drop(handle);
        rig.finish().await;
    });
}

#[test]
fn a_slot_sent_to_a_caller_that_gives_up_goes_to_the_next() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        let handle = rig.handle();
        let lease = rig.acquire().await.unwrap();
        let mut leaving = Box::pin(handle.acquire());
        assert!(futures::poll!(&mut leaving).is_pending());
        let next = rig.request().await;
        drop(lease);
        // The lease has been sent, and the caller has not polled its future.
        rig.settle().await;
        drop(leaving);
        drop(handle);
        next.await.unwrap().unwrap();
        rig.finish().await;
    });
}

#[test]
fn new_callers_do_not_overtake_waiting_ones() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1");
        let lease = rig.acquire().await.unwrap();
        let waiting = rig.request().await;
        drop(lease);
        // The slot is free, and the waiting caller has not got it yet.
        let newcomer = rig.acquire();
        let mut newcomer = Box::pin(newcomer);
        assert!(futures::poll!(&mut newcomer).is_pending());
        let first = waiting.await.unwrap().unwrap();
        rig.settle().await;
        assert!(futures::poll!(&mut newcomer).is_pending());
        drop(first);
        newcomer.await.unwrap();
        rig.finish().await;
    });
}
