//! A host with too little memory for all of its functions.

use std::{sync::Arc, time::Duration};

use unifaas_actors::{FunctionHandle, HostLimits, Refusal, sandbox::SandboxExit};

use crate::support::*;

/// Returns limits with memory for that many instances of 128 MiB.
fn limits_for(instances: u64) -> HostLimits {
    HostLimits { memory: 128 * instances, ..ROOMY }
}

/// Leaves the function with one idle instance.
async fn warm(rig: &Rig, function: &str) {
    rig.request_of(function).await.await.expect("no panic").expect("an instance");
}

async fn counts(rig: &Rig, functions: &[&str]) -> Vec<usize> {
    let mut counts = Vec::new();
    for function in functions {
        counts.push(rig.states_of(function).await.len());
    }
    counts
}

#[track_caller]
fn saturated(answer: Result<impl std::fmt::Debug, Refusal>) -> (String, Option<Duration>) {
    match answer {
        Err(Refusal::HostSaturated { why, retry_after }) => (why, retry_after),
        other => panic!("{other:?}"),
    }
}

#[test]
fn evicts_the_longest_idle_instance() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(3), &[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
        for function in ["b", "a", "c"] {
            warm(&rig, function).await;
            sleep(secs(1)).await;
        }
        warm(&rig, "b").await;
        let asked_at = Instant::now();
        warm(&rig, "d").await;
        // 20 ms to exit, 5 ms to reclaim, 100 ms to boot, and 1 ms until the request was looked at.
        assert!(asked_at.elapsed() < ms(130), "{:?}", asked_at.elapsed());
        assert_eq!(counts(&rig, &["a", "b", "c", "d"]).await, [0, 1, 1, 1]);
        assert_eq!(rig.fake.max_held(), 3);
        rig.finish().await;
    });
}

#[test]
fn the_record_of_a_start_names_what_was_evicted_for_it() {
    with_paused_clock(async {
        let functions = [("a", ""), ("b", ""), ("large", "memory = 256"), ("later", "")];
        let rig = Rig::with(limits_for(2), &functions);
        let evicted = |function: &str| -> Vec<String> {
            let boots = rig.history.boots.recent(Some(function), 1);
            boots[0].evicted.iter().map(|evicted| evicted.function.to_string()).collect()
        };
        warm(&rig, "a").await;
        sleep(secs(1)).await;
        warm(&rig, "b").await;
        assert_eq!(evicted("a"), [""; 0]);
        // A request that gives up leaves nothing to the next one.
        let given_up = rig.request_of("large").await;
        given_up.abort();
        sleep(secs(1)).await;
        warm(&rig, "later").await;
        assert_eq!(evicted("later"), [""; 0]);
        warm(&rig, "a").await;
        sleep(secs(1)).await;
        warm(&rig, "large").await;
        assert_eq!(evicted("large"), ["later", "a"], "the longest idle one first");
        rig.finish().await;
    });
}

#[test]
fn evicts_no_more_instances_than_necessary() {
    with_paused_clock(async {
        let functions = [("small", ""), ("large", "memory = 384"), ("big", "memory = 384"), ("other", "")];
        let rig = Rig::with(limits_for(5), &functions);
        for function in ["small", "large", "other"] {
            warm(&rig, function).await;
            sleep(secs(1)).await;
        }
        warm(&rig, "big").await;
        assert_eq!(counts(&rig, &["small", "large", "big", "other"]).await, [1, 0, 1, 1]);
        rig.finish().await;
    });
}

#[test]
fn evicts_nothing_if_that_would_not_suffice() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(4), &[("idle", ""), ("busy", ""), ("big", "memory = 512\nqueue-timeout = 3")]);
        warm(&rig, "idle").await;
        let lease = rig.request_of("busy").await.await.unwrap().unwrap();
        let (why, _) = saturated(rig.request_of("big").await.await.unwrap());
        assert_eq!(why, "an instance needs 512 MiB, and 256 of 512 MiB are free");
        assert_eq!(counts(&rig, &["idle", "busy"]).await, [1, 1]);
        drop(lease);
        warm(&rig, "big").await;
        assert_eq!(counts(&rig, &["idle", "busy", "big"]).await, [0, 0, 1]);
        rig.finish().await;
    });
}

#[test]
fn does_not_evict_a_minimum() {
    with_paused_clock(async {
        let functions = [("kept", "min-instances = 1\nkeepalive = 500"), ("f", "queue-timeout = 3"), ("g", "")];
        let rig = Rig::with(limits_for(2), &functions);
        warm(&rig, "kept").await;
        let lease = rig.acquire().await.unwrap();
        saturated(rig.request_of("f").await.await.unwrap());
        drop(lease);
        warm(&rig, "g").await;
        assert_eq!(counts(&rig, &["kept", "f", "g"]).await, [1, 0, 1]);
        rig.finish().await;
    });
}

#[test]
fn evicts_instances_beyond_a_minimum() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(3), &[("kept", "min-instances = 1\nkeepalive = 500"), ("f", "")]);
        for request in rig.requests_of("kept", 3).await {
            request.await.unwrap().unwrap();
        }
        assert_eq!(counts(&rig, &["kept"]).await, [3]);
        let leases: Vec<_> = rig.requests_of("f", 2).await;
        for lease in leases {
            lease.await.unwrap().unwrap();
        }
        assert_eq!(counts(&rig, &["kept", "f"]).await, [1, 2]);
        rig.finish().await;
    });
}

#[test]
fn a_minimum_evicts_idle_instances_but_never_precedes_callers() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(2), &[("f", "single-use = true"), ("g", "")]);
        let leases = [rig.acquire().await.unwrap(), rig.acquire().await.unwrap()];
        rig.write_of("kept", "min-instances = 1");
        sleep(secs(1)).await;
        let caller = rig.request_of("g").await;
        let [first, second] = leases;
        drop(first);
        let lease = caller.await.unwrap().unwrap();
        assert_eq!(counts(&rig, &["kept", "g"]).await, [0, 1]);
        drop(lease);
        sleep(ms(200)).await;
        assert_eq!(counts(&rig, &["kept", "g"]).await, [1, 0], "no caller waits for the idle one");
        drop(second);
        rig.finish().await;
    });
}

#[test]
fn evicts_an_instance_that_becomes_idle_while_memory_is_short() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(1), &[("f", "keepalive = 1000"), ("g", "")]);
        let lease = rig.acquire().await.unwrap();
        let waiting = rig.request_of("g").await;
        sleep(secs(5)).await;
        let returned_at = Instant::now();
        drop(lease);
        waiting.await.unwrap().unwrap();
        assert_eq!(returned_at.elapsed(), ms(20 + 5 + 100));
        rig.finish().await;
    });
}

#[test]
fn evicts_an_instance_that_becomes_idle_after_serving_waiting_callers() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(1), &[("f", "keepalive = 1000\nmax-instances = 1"), ("g", "")]);
        let lease = rig.acquire().await.unwrap();
        let [second, third] = rig.requests(2).await.try_into().unwrap();
        let other = rig.request_of("g").await;
        sleep(secs(5)).await;
        drop(lease);
        drop(second.await.unwrap().unwrap());
        let lease = third.await.unwrap().unwrap();
        rig.settle().await;
        let released_at = Instant::now();
        drop(lease);
        other.await.unwrap().unwrap();
        assert_eq!(released_at.elapsed(), ms(20 + 5 + 100));
        rig.finish().await;
    });
}

#[test]
fn memory_is_free_when_its_instance_has_been_reclaimed() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(1), &[("f", ""), ("g", "")]);
        rig.fake.next(Script { reclaim: Reclaim::After(secs(4)), ..Script::default() });
        let lease = rig.acquire().await.unwrap();
        rig.fake.crash(lease.endpoint().instance, SandboxExit::Signal(9));
        let asked_at = Instant::now();
        rig.request_of("g").await.await.unwrap().unwrap();
        assert_eq!(asked_at.elapsed(), secs(4) + ms(100));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn evicts_nothing_for_memory_that_is_about_to_be_released() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(2), &[("ending", "single-use = true"), ("idle", ""), ("f", "")]);
        rig.fake.next(Script { reclaim: Reclaim::After(secs(2)), ..Script::default() });
        drop(rig.request_of("ending").await.await.unwrap().unwrap());
        warm(&rig, "idle").await;
        warm(&rig, "f").await;
        assert_eq!(counts(&rig, &["ending", "idle", "f"]).await, [0, 1, 1]);
        rig.finish().await;
    });
}

#[test]
fn memory_of_a_hanging_launch_does_not_count_as_about_to_be_released() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(2), &[("idle", "keepalive = 1000"), ("hangs", "boot-timeout = 2"), ("f", "")]);
        warm(&rig, "idle").await;
        rig.fake.next(Script { launch_after: secs(20), ..Script::default() });
        assert!(matches!(rig.request_of("hangs").await.await.unwrap(), Err(Refusal::BootTimedOut { .. })));
        let asked_at = Instant::now();
        rig.acquire().await.unwrap();
        assert!(asked_at.elapsed() < secs(1));
        assert_eq!(counts(&rig, &["idle", "hangs"]).await, [0, 1]);
        rig.finish().await;
    });
}

#[test]
fn small_functions_do_not_starve_a_large_one() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(4), &[("small", "single-use = true"), ("large", "memory = 512")]);
        let mut leases = Vec::new();
        for _ in 0..4 {
            leases.push(rig.request_of("small").await.await.unwrap().unwrap());
        }
        let large = rig.request_of("large").await;
        let others = rig.requests_of("small", 8).await;
        for lease in leases {
            sleep(secs(1)).await;
            drop(lease);
        }
        let large = large.await.unwrap().unwrap();
        assert!(others.iter().all(|other| !other.is_finished()), "they came later");
        drop(large);
        for other in others {
            other.await.unwrap().unwrap();
        }
        rig.finish().await;
    });
}

#[test]
fn many_requests_of_one_function_do_not_delay_another() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(1), &[("flood", "single-use = true"), ("f", "single-use = true")]);
        let served = |handle: Arc<FunctionHandle>| async move { drop(handle.acquire().await.unwrap()) };
        let flood: Vec<_> = (0..100).map(|_| actix::spawn(served(rig.handle_of("flood").unwrap()))).collect();
        rig.settle().await;
        let asked_at = Instant::now();
        rig.acquire().await.unwrap();
        // One of the many has its instance, and one precedes in the queue.
        assert!(asked_at.elapsed() < ms(3 * 130), "{:?}", asked_at.elapsed());
        for request in flood {
            request.await.unwrap();
        }
        rig.finish().await;
    });
}

#[test]
fn a_caller_that_waits_too_long_learns_what_is_missing_and_when_to_retry() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(1), &[("busy", "single-use = true"), ("f", "queue-timeout = 10")]);
        // An instance releases 128 MiB once a second.
        for _ in 0..20 {
            let lease = rig.request_of("busy").await.await.unwrap().unwrap();
            sleep(ms(873)).await;
            drop(lease);
        }
        let lease = rig.request_of("busy").await.await.unwrap().unwrap();
        let asked_at = Instant::now();
        let (why, retry_after) = saturated(rig.acquire().await);
        assert_eq!(
            (why.as_str(), asked_at.elapsed()),
            ("an instance needs 128 MiB, and 0 of 128 MiB are free", secs(10))
        );
        assert!(retry_after.is_some_and(|wait| (ms(1_000)..ms(2_000)).contains(&wait)), "{retry_after:?}");
        assert_eq!(rig.snapshot().await.waiting, 0);

        sleep(secs(120)).await;
        let (_, retry_after) = saturated(rig.acquire().await);
        assert_eq!(retry_after, Some(secs(60)), "nothing was released for long");
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn a_full_function_on_a_host_with_capacity_is_not_host_saturated() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1\nqueue-timeout = 3");
        let lease = rig.acquire().await.unwrap();
        assert!(matches!(rig.acquire().await, Err(Refusal::QueueTimedOut { .. })));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn refuses_an_instance_larger_than_the_host_at_once() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(4), &[(FUNCTION, "memory = 513\nmin-instances = 2"), ("g", "")]);
        let asked_at = Instant::now();
        let (why, retry_after) = saturated(rig.acquire().await);
        assert!(why.starts_with("an instance needs 513 MiB, and all instances together may use 512 MiB"), "{why}");
        assert_eq!((asked_at.elapsed(), retry_after), (ms(0), None), "no wait helps");
        warm(&rig, "g").await;
        rig.configure("memory = 512").await;
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn a_caller_gets_a_slot_that_is_released_before_memory_is() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(1), &[(FUNCTION, "")]);
        let lease = rig.acquire().await.unwrap();
        let waiting = rig.request().await;
        sleep(secs(5)).await;
        assert_eq!(rig.admission().await.functions_waiting, 1);
        drop(lease);
        waiting.await.unwrap().unwrap();
        rig.settle().await;
        assert_eq!((rig.admission().await.functions_waiting, rig.fake.launched()), (0, 1));
        rig.finish().await;
    });
}

#[test]
fn a_function_that_leaves_the_queue_unblocks_the_next_one() {
    for how in ["caller gives up", "file is removed", "actor panics"] {
        with_paused_clock(async {
            let rig = Rig::with(limits_for(2), &[("busy", ""), (FUNCTION, "memory = 256"), ("g", "")]);
            let lease = rig.request_of("busy").await.await.unwrap().unwrap();
            let first = rig.request().await;
            let second = rig.request_of("g").await;
            sleep(secs(1)).await;
            assert!(!second.is_finished(), "{how}: it must not overtake");
            match how {
                "caller gives up" => first.abort(),
                "file is removed" => rig.remove().await,
                _ => {
                    rig.log.panic_at("function has changed");
                    rig.configure("memory = 200").await;
                }
            }
            second.await.unwrap().unwrap();
            drop(lease);
            rig.finish().await;
        });
    }
}

#[test]
fn a_draining_function_does_not_block_others() {
    with_paused_clock(async {
        let rig = Rig::with(limits_for(2), &[("busy", ""), (FUNCTION, ""), ("g", "")]);
        let (busy, own) = (rig.request_of("busy").await.await.unwrap().unwrap(), rig.acquire().await.unwrap());
        let first = rig.request().await;
        let second = rig.request_of("g").await;
        rig.remove().await;
        assert_eq!(first.await.unwrap().unwrap_err(), Refusal::Draining);
        drop(busy);
        second.await.unwrap().unwrap();
        drop(own);
        rig.finish().await;
    });
}
