//! A host with too little memory for all that its functions want.

use std::{sync::Arc, time::Duration};

use unifaas_actors::{FunctionHandle, HostLimits, Refusal, sandbox::SandboxExit};

use crate::support::*;

/// Room for so many instances of 128 MiB.
fn room(instances: u64) -> HostLimits {
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
fn saturated(answer: Result<impl std::fmt::Debug, Refusal>) -> (String, Duration) {
    match answer {
        Err(Refusal::HostSaturated { why, retry_after }) => (why, retry_after),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_instance_that_has_been_idle_longest_makes_room() {
    with_paused_clock(async {
        let rig = Rig::with(room(3), &[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
        for function in ["b", "a", "c"] {
            warm(&rig, function).await;
            sleep(secs(1)).await;
        }
        warm(&rig, "b").await;
        let asked_at = Instant::now();
        warm(&rig, "d").await;
        // 20 ms to end when it is asked to, 5 ms to give back what it holds, 100 ms to boot, and it was put off by 1 ms.
        assert!(asked_at.elapsed() < ms(130), "{:?}", asked_at.elapsed());
        assert_eq!(counts(&rig, &["a", "b", "c", "d"]).await, [0, 1, 1, 1]);
        assert_eq!(rig.fake.max_held(), 3);
        rig.finish().await;
    });
}

#[test]
fn no_more_instances_are_ended_than_it_takes() {
    with_paused_clock(async {
        let functions = [("small", ""), ("large", "memory = 384"), ("big", "memory = 384"), ("other", "")];
        let rig = Rig::with(room(5), &functions);
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
fn nothing_is_ended_if_that_would_not_make_enough_room() {
    with_paused_clock(async {
        let rig = Rig::with(room(4), &[("idle", ""), ("busy", ""), ("big", "memory = 512\nqueue-timeout = 3")]);
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
fn what_a_minimum_keeps_is_not_ended() {
    with_paused_clock(async {
        let functions = [("kept", "min-instances = 1\nkeepalive = 500"), ("f", "queue-timeout = 3"), ("g", "")];
        let rig = Rig::with(room(2), &functions);
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
fn what_exceeds_a_minimum_is_ended() {
    with_paused_clock(async {
        let rig = Rig::with(room(3), &[("kept", "min-instances = 1\nkeepalive = 500"), ("f", "")]);
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
fn a_minimum_makes_room_for_itself_but_never_in_front_of_callers() {
    with_paused_clock(async {
        let rig = Rig::with(room(2), &[("f", "single-use = true"), ("g", "")]);
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
        assert_eq!(counts(&rig, &["kept", "g"]).await, [1, 0], "nobody waits for the idle one");
        drop(second);
        rig.finish().await;
    });
}

#[test]
fn whoever_waits_is_told_when_an_instance_becomes_idle() {
    with_paused_clock(async {
        let rig = Rig::with(room(1), &[("f", "keepalive = 1000"), ("g", "")]);
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
fn memory_counts_as_free_when_everything_of_its_instance_has_been_given_back() {
    with_paused_clock(async {
        let rig = Rig::with(room(1), &[("f", ""), ("g", "")]);
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
fn nobody_else_is_ended_for_memory_that_is_on_its_way() {
    with_paused_clock(async {
        let rig = Rig::with(room(2), &[("ending", "single-use = true"), ("idle", ""), ("f", "")]);
        rig.fake.next(Script { reclaim: Reclaim::After(secs(2)), ..Script::default() });
        drop(rig.request_of("ending").await.await.unwrap().unwrap());
        warm(&rig, "idle").await;
        warm(&rig, "f").await;
        assert_eq!(counts(&rig, &["ending", "idle", "f"]).await, [0, 1, 1]);
        rig.finish().await;
    });
}

#[test]
fn memory_of_a_launch_that_hangs_is_not_counted_upon() {
    with_paused_clock(async {
        let rig = Rig::with(room(2), &[("idle", "keepalive = 1000"), ("hangs", "boot-timeout = 2"), ("f", "")]);
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
        let rig = Rig::with(room(4), &[("small", "single-use = true"), ("large", "memory = 512")]);
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
fn a_flood_of_one_function_does_not_hold_up_the_others() {
    with_paused_clock(async {
        let rig = Rig::with(room(1), &[("flood", "single-use = true"), ("f", "single-use = true")]);
        let served = |handle: Arc<FunctionHandle>| async move { drop(handle.acquire().await.unwrap()) };
        let flood: Vec<_> = (0..100).map(|_| actix::spawn(served(rig.handle_of("flood").unwrap()))).collect();
        rig.settle().await;
        let asked_at = Instant::now();
        rig.acquire().await.unwrap();
        // One of the flood has its instance, one has its place in front.
        assert!(asked_at.elapsed() < ms(3 * 130), "{:?}", asked_at.elapsed());
        for request in flood {
            request.await.unwrap();
        }
        rig.finish().await;
    });
}

#[test]
fn whoever_waits_in_vain_is_told_what_there_is_none_of_and_when_to_come_back() {
    with_paused_clock(async {
        let rig = Rig::with(room(1), &[("busy", "single-use = true"), ("f", "queue-timeout = 10")]);
        // Once a second an instance gives 128 MiB back.
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
        assert!((ms(1_000)..ms(2_000)).contains(&retry_after), "{retry_after:?}");
        assert_eq!(rig.snapshot().await.waiting, 0);

        sleep(secs(120)).await;
        let (_, retry_after) = saturated(rig.acquire().await);
        assert_eq!(retry_after, secs(60), "nothing has come back for long");
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn a_full_function_on_a_host_with_room_is_not_the_fault_of_the_host() {
    with_paused_clock(async {
        let rig = Rig::new("max-instances = 1\nqueue-timeout = 3");
        let lease = rig.acquire().await.unwrap();
        assert!(matches!(rig.acquire().await, Err(Refusal::QueueTimedOut { .. })));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_is_larger_than_the_host_is_refused_at_once() {
    with_paused_clock(async {
        let rig = Rig::with(room(4), &[(FUNCTION, "memory = 513\nmin-instances = 2"), ("g", "")]);
        let asked_at = Instant::now();
        let (why, retry_after) = saturated(rig.acquire().await);
        assert_eq!(why, "an instance needs 513 MiB, and all instances together may use 512 MiB");
        assert_eq!((asked_at.elapsed(), retry_after), (ms(0), secs(60)));
        warm(&rig, "g").await;
        rig.configure("memory = 512").await;
        rig.acquire().await.unwrap();
        rig.finish().await;
    });
}

#[test]
fn a_caller_is_content_with_a_slot_that_comes_back_before_memory_does() {
    with_paused_clock(async {
        let rig = Rig::with(room(1), &[(FUNCTION, "")]);
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
fn whoever_leaves_the_queue_lets_the_next_one_through() {
    for how in ["caller leaves", "file is removed", "file goes bad", "actor panics"] {
        with_paused_clock(async {
            let rig = Rig::with(room(2), &[("busy", ""), (FUNCTION, "memory = 256"), ("g", "")]);
            let lease = rig.request_of("busy").await.await.unwrap().unwrap();
            let first = rig.request().await;
            let second = rig.request_of("g").await;
            sleep(secs(1)).await;
            assert!(!second.is_finished(), "{how}: it must not overtake");
            match how {
                "caller leaves" => first.abort(),
                "file is removed" => rig.remove().await,
                "file goes bad" => rig.configure("keepalive = \"long\"").await,
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
fn a_function_that_is_being_drained_stands_in_nobodys_way() {
    with_paused_clock(async {
        let rig = Rig::with(room(2), &[("busy", ""), (FUNCTION, ""), ("g", "")]);
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
