//! Idle instances that are paused instead of stopped, and resumed before new ones are started.

use unifaas_actors::{Origin, WaitedFor, sandbox::SandboxExit};

use crate::support::*;

const KEYS: &str = "keepalive = 10\nkeep-paused = 100";

#[test]
fn an_idle_instance_is_paused_and_a_request_resumes_it() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        let first = rig.acquire().await.unwrap().endpoint().instance;
        for _ in 0..5 {
            sleep(secs(11)).await;
            assert_eq!(rig.states().await, ["paused"]);
            let since = Instant::now();
            let lease = rig.acquire().await.unwrap();
            assert_eq!((lease.endpoint().instance, since.elapsed() < ms(5)), (first, true));
            assert_eq!(lease.endpoint().origin(), Origin::Resumed);
            assert_eq!(rig.states().await, ["busy"]);
        }
        assert_eq!((rig.fake.launched(), rig.fake.pauses()), (1, 5));
        let starts = rig.snapshot().await.stats.starts;
        assert_eq!(Origin::ALL.map(|origin| starts[&origin]), [1, 5, 0]);
        rig.finish().await;
    });
}

#[test]
fn a_paused_instance_ends_when_it_was_paused_for_long_enough() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        drop(rig.acquire().await.unwrap());
        sleep(secs(109)).await;
        assert_eq!(rig.states().await, ["paused"]);
        sleep(secs(2)).await;
        assert_eq!((rig.states().await.len(), rig.fake.held(), rig.fake.terminated()), (0, 0, 1));
        assert_eq!(rig.handle().summary().paused, 0);
        rig.finish().await;
    });
}

#[test]
fn a_request_during_a_pause_is_served_as_soon_as_that_is_done() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        rig.fake.usually(Script { on_pause: Pausing::Works { after: ms(400) }, ..Script::default() });
        let first = rig.acquire().await.unwrap().endpoint().instance;
        sleep(ms(10_100)).await;
        assert_eq!(rig.states().await, ["pausing"]);
        let since = Instant::now();
        let leases = rig.requests(1).await;
        for lease in leases {
            let lease = lease.await.unwrap().unwrap();
            assert_eq!(lease.endpoint().instance, first);
            let wait = lease.wait(since);
            assert_eq!((wait.boot_from, wait.queue_for, wait.is_cold()), (Some(Origin::Resumed), None, false));
            assert!(wait.boot > ms(200), "{wait:?}");
        }
        assert!(since.elapsed() < ms(400), "{:?}", since.elapsed());
        assert_eq!(rig.fake.launched(), 1);
        rig.finish().await;
    });
}

#[test]
fn as_many_instances_are_resumed_as_callers_need_and_the_rest_is_started() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        let requests = rig.requests(3).await;
        for request in requests {
            drop(request.await.unwrap().unwrap());
        }
        sleep(secs(11)).await;
        assert_eq!(rig.states().await, ["paused", "paused", "paused"]);
        let lease = rig.acquire().await.unwrap();
        assert_eq!(rig.states().await, ["busy", "paused", "paused"]);
        let requests = rig.requests(4).await;
        let mut leases = Vec::new();
        for request in requests {
            leases.push(request.await.unwrap().unwrap());
        }
        assert_eq!((rig.fake.launched(), rig.states().await.len()), (5, 5));
        drop((lease, leases));
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_cannot_be_paused_serves_on_until_its_keepalive() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        rig.fake.usually(Script { on_pause: Pausing::Fails { after: ms(100) }, ..Script::default() });
        drop(rig.acquire().await.unwrap());
        sleep(ms(10_050)).await;
        let requests = rig.requests(1).await;
        for request in requests {
            drop(request.await.unwrap().unwrap());
        }
        sleep(secs(9)).await;
        assert_eq!((rig.states().await, rig.fake.launched()), (vec!["idle"], 1));
        sleep(secs(2)).await;
        assert_eq!((rig.fake.held(), rig.fake.pauses()), (0, 1));
        assert_eq!(rig.log.count("instances cannot be paused, and end after their keepalive"), 1);
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_cannot_be_resumed_is_replaced() {
    for on_resume in [Pausing::Fails { after: ms(1) }, Pausing::Hangs] {
        with_paused_clock(async {
            let rig = Rig::new(KEYS);
            rig.fake.next(Script { on_resume, ..Script::default() });
            let first = rig.acquire().await.unwrap().endpoint().instance;
            sleep(secs(11)).await;
            let lease = rig.acquire().await.unwrap();
            assert_ne!(lease.endpoint().instance, first);
            assert_eq!((rig.fake.launched(), rig.fake.killed(), rig.fake.terminated()), (2, 1, 0));
            assert_eq!(rig.log.count("instance could not be resumed"), 1);
            drop(lease);
            rig.finish().await;
        });
    }
}

#[test]
fn a_paused_instance_that_exits_is_replaced_by_the_next_request() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        let first = rig.acquire().await.unwrap().endpoint().instance;
        sleep(secs(11)).await;
        rig.fake.crash(first, SandboxExit::Signal(9));
        sleep(secs(1)).await;
        assert_eq!(rig.fake.held(), 0);
        assert_ne!(rig.acquire().await.unwrap().endpoint().instance, first);
        rig.finish().await;
    });
}

#[test]
fn changes_restarts_stops_and_drains_end_paused_instances() {
    with_paused_clock(async {
        let rig = Rig::new(KEYS);
        let paused = async || {
            drop(rig.acquire().await.unwrap());
            sleep(secs(12)).await;
            assert_eq!(rig.states().await, ["paused"]);
        };
        paused().await;
        rig.configure("keepalive = 11\nkeep-paused = 100").await;
        sleep(secs(1)).await;
        assert_eq!(rig.fake.held(), 0);
        paused().await;
        assert_eq!(rig.handle().restart().await, Some(1));
        sleep(secs(1)).await;
        assert_eq!((rig.fake.held(), rig.fake.launched()), (0, 2), "nothing has to replace it");
        paused().await;
        assert_eq!(rig.handle().stop().await, Some(1));
        sleep(secs(1)).await;
        assert_eq!(rig.fake.held(), 0);
        paused().await;
        rig.finish().await;
    });
}

#[test]
fn a_minimum_is_never_paused_and_is_made_up_by_paused_instances() {
    with_paused_clock(async {
        let rig = Rig::new(&format!("{KEYS}\nmin-instances = 1"));
        let requests = rig.requests(2).await;
        for request in requests {
            drop(request.await.unwrap().unwrap());
        }
        sleep(secs(11)).await;
        assert_eq!(rig.states().await, ["idle", "paused"]);
        let running = rig.instances().await.into_iter().find(|instance| instance.state == "idle").unwrap().id;
        rig.fake.crash(running, SandboxExit::Signal(9));
        sleep(ms(50)).await;
        assert_eq!((rig.states().await, rig.fake.launched()), (vec!["idle"], 2));
        rig.finish().await;
    });
}

#[test]
fn a_paused_instance_is_evicted_for_another_function() {
    with_paused_clock(async {
        let limits = unifaas_actors::HostLimits { memory: 200, ..ROOMY };
        let rig = Rig::with(limits, &[(FUNCTION, KEYS), ("other", "")]);
        drop(rig.acquire().await.unwrap());
        sleep(secs(11)).await;
        drop(rig.request_of("other").await.await.unwrap().unwrap());
        assert_eq!((rig.evicted(), rig.states().await.len()), (1, 0));
        rig.finish().await;
    });
}

const SMALL: unifaas_actors::HostLimits = unifaas_actors::HostLimits { memory: 256, ..ROOMY };

/// Has an instance of 128 MiB that holds 20 MiB while it is paused, beside another function of 180 MiB.
async fn with_paused_beside_other() -> Rig {
    let rig =
        Rig::with(SMALL, &[(FUNCTION, &format!("{KEYS}\nmemory = 128")), ("other", "keep-paused = 0\nmemory = 180")]);
    rig.fake.usually(Script { footprint: Some(20), ..Script::default() });
    drop(rig.acquire().await.unwrap());
    assert_eq!(rig.admission().await.memory_taken, 128);
    sleep(secs(11)).await;
    assert_eq!(rig.states().await, ["paused"]);
    rig
}

#[test]
fn a_paused_instance_is_charged_what_it_holds() {
    with_paused_clock(async {
        let rig = with_paused_beside_other().await;
        assert_eq!((rig.admission().await.memory_taken, rig.instances().await[0].memory_charged), (20, 20));
        drop(rig.request_of("other").await.await.unwrap().unwrap());
        assert_eq!((rig.admission().await.memory_taken, rig.evicted()), (200, 0), "both fit");
        // The rest of its memory comes from the other one, which is idle.
        let since = Instant::now();
        let lease = rig.acquire().await.unwrap();
        let wait = lease.wait(since);
        assert_eq!((wait.boot_from, wait.queue_for), (Some(Origin::Resumed), Some(WaitedFor::Host)), "{wait:?}");
        assert_eq!((rig.admission().await.memory_taken, rig.instances().await[0].memory_charged), (128, 128));
        assert_eq!((rig.fake.launched(), rig.states_of("other").await.len()), (2, 0));
        drop(lease);
        rig.finish().await;
    });
}

#[test]
fn a_paused_instance_waits_for_memory_ahead_of_starts() {
    with_paused_clock(async {
        let rig = with_paused_beside_other().await;
        let busy = rig.request_of("other").await.await.unwrap().unwrap();
        let [start] = <[_; 1]>::try_from(rig.requests_of("other", 1).await).unwrap();
        let waiting = rig.request().await;
        sleep(secs(1)).await;
        assert_eq!((rig.states().await, rig.admission().await.functions_waiting), (vec!["paused"], 2));
        drop(busy);
        // The second caller of the other function has taken its only instance.
        let second = start.await.unwrap().unwrap();
        assert_eq!(rig.states().await, ["paused"]);
        drop(second);
        drop(waiting.await.unwrap().unwrap());
        assert_eq!((rig.admission().await.memory_taken, rig.fake.launched()), (128, 2));
        rig.finish().await;
    });
}

#[test]
fn a_paused_instance_stays_so_when_its_caller_gives_up() {
    with_paused_clock(async {
        let rig = with_paused_beside_other().await;
        let busy = rig.request_of("other").await.await.unwrap().unwrap();
        let waiting = rig.request().await;
        sleep(secs(1)).await;
        waiting.abort();
        sleep(secs(1)).await;
        let admission = rig.admission().await;
        assert_eq!((admission.functions_waiting, admission.memory_taken), (0, 200));
        drop(busy);
        sleep(secs(1)).await;
        assert_eq!((rig.states().await, rig.states_of("other").await), (vec!["paused"], vec!["idle"]));
        drop(rig.acquire().await.unwrap());
        assert_eq!(rig.fake.launched(), 2);
        rig.finish().await;
    });
}

#[test]
fn other_paused_instances_of_a_function_make_room_for_one_that_wakes() {
    with_paused_clock(async {
        let rig = Rig::with(SMALL, &[(FUNCTION, &format!("{KEYS}\nmemory = 128")), ("other", "memory = 100")]);
        for footprint in [1, 120] {
            rig.fake.next(Script { footprint: Some(footprint), ..Script::default() });
        }
        let (first, second) = (rig.acquire().await.unwrap(), rig.acquire().await.unwrap());
        let last_used = first.endpoint().instance;
        drop(second);
        sleep(ms(10)).await;
        drop(first);
        sleep(secs(11)).await;
        let busy = rig.request_of("other").await.await.unwrap().unwrap();
        assert_eq!(rig.admission().await.memory_taken, 221);
        let lease = rig.acquire().await.unwrap();
        assert_eq!((lease.endpoint().instance, rig.evicted(), rig.fake.launched()), (last_used, 1, 3));
        assert_eq!((rig.states().await, rig.admission().await.memory_taken), (vec!["busy"], 228));
        drop((lease, busy));
        rig.finish().await;
    });
}

#[test]
fn an_idle_instance_is_paused_rather_than_ended_for_another_function() {
    // What it holds then is not known before: it may not be enough.
    for (footprint, paused, evicted) in [(20, 1, 0), (120, 0, 1)] {
        with_paused_clock(async {
            let rig = Rig::with(SMALL, &[(FUNCTION, &format!("{KEYS}\nmemory = 128")), ("other", "memory = 180")]);
            rig.fake.usually(Script { footprint: Some(footprint), ..Script::default() });
            drop(rig.acquire().await.unwrap());
            drop(rig.request_of("other").await.await.unwrap().unwrap());
            assert_eq!((rig.states().await.len(), rig.evicted(), rig.fake.pauses()), (paused, evicted, 1));
            assert_eq!(rig.admission().await.memory_taken, 180 + footprint * paused as u64);
            drop(rig.acquire().await.unwrap());
            assert_eq!(rig.fake.launched(), if paused == 1 { 2 } else { 3 });
            rig.finish().await;
        });
    }
}

#[test]
fn what_is_slow_to_start_is_kept_before_what_was_used_last() {
    with_paused_clock(async {
        let keys = "memory = 128";
        let rig = Rig::with(SMALL, &[("slow", keys), ("quick", keys), ("other", keys)]);
        rig.fake.next(Script { ready_after: Some(secs(3)), ..Script::default() });
        drop(rig.request_of("slow").await.await.unwrap().unwrap());
        sleep(secs(5)).await;
        drop(rig.request_of("quick").await.await.unwrap().unwrap());
        sleep(secs(1)).await;
        drop(rig.request_of("other").await.await.unwrap().unwrap());
        let left = [rig.states_of("slow").await.len(), rig.states_of("quick").await.len()];
        assert_eq!(left, [1, 0]);
        rig.finish().await;
    });
}
