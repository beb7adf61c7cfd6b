//! Instances that another program pauses.

use unifaas_actors::HostLimits;

use crate::support::*;

const KEYS: &str = "keepalive = 10\nkeep-paused = 100";
const SMALL: HostLimits = HostLimits { memory: 256, ..ROOMY };

#[test]
fn an_instance_that_another_program_has_paused_is_resumed_by_the_next_request() {
    // With and without pauses of its own.
    for keys in [KEYS, "keepalive = 10\nkeep-paused = 0"] {
        with_paused_clock(async {
            let rig = Rig::new(keys);
            let first = rig.acquire().await.unwrap().endpoint().instance;
            for _ in 0..3 {
                rig.fake.pause_externally(first);
                sleep(secs(1)).await;
                assert_eq!(rig.states().await, ["paused"]);
                let lease = rig.acquire().await.unwrap();
                let endpoint = lease.endpoint();
                assert_eq!((endpoint.instance, rig.fake.is_paused_externally(first)), (first, false));
            }
            assert_eq!((rig.fake.launched(), rig.fake.pauses()), (1, 0));
            rig.fake.pause_externally(first);
            sleep(secs(200)).await;
            assert_eq!((rig.fake.held(), rig.fake.terminated()), (0, 1));
            rig.finish().await;
        });
    }
}

#[test]
fn an_instance_that_another_program_pauses_while_it_is_needed_is_resumed_at_once() {
    with_paused_clock(async {
        let rig = Rig::new("concurrent-requests = 2");
        let resumed = async |instance| {
            rig.fake.pause_externally(instance);
            sleep(ms(20)).await;
            !rig.fake.is_paused_externally(instance)
        };
        let requests = rig.requests(1).await;
        sleep(ms(50)).await;
        assert_eq!(rig.states().await, ["booting"]);
        let booting = rig.fake.running_instances()[0];
        assert!(resumed(booting).await);
        for request in requests {
            let lease = request.await.unwrap().unwrap();
            assert_eq!(lease.endpoint().instance, booting);
            assert!(resumed(booting).await);
            assert_eq!(rig.states().await, ["busy"]);
        }
        assert_eq!(rig.fake.launched(), 1);
        rig.finish().await;
    });
}

#[test]
fn an_instance_that_another_program_has_paused_is_charged_all_its_memory() {
    with_paused_clock(async {
        let rig = Rig::with(SMALL, &[(FUNCTION, &format!("{KEYS}\nmemory = 128")), ("other", "memory = 180")]);
        rig.fake.usually(Script { footprint: Some(20), ..Script::default() });
        let first = rig.acquire().await.unwrap().endpoint().instance;
        rig.fake.pause_externally(first);
        sleep(secs(1)).await;
        assert_eq!((rig.states().await, rig.admission().await.memory_taken), (vec!["paused"], 128));
        drop(rig.acquire().await.unwrap());
        rig.fake.pause_externally(first);
        // Whether or not the order to pause it for the other function crosses the news.
        drop(rig.request_of("other").await.await.unwrap().unwrap());
        assert_eq!((rig.states().await.len(), rig.evicted(), rig.admission().await.memory_taken), (0, 1, 180));
        rig.finish().await;
    });
}
