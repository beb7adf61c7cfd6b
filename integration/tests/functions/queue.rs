//! Requests that wait for a slot: their number, their time, and cancelled ones.

use std::pin::pin;

use futures::future::join_all;
use integration::{AT_ONCE, Daemon, Function, SOON, empty, ms, number, processes, request, within};
use tokio::time::Instant;

#[tokio::test]
async fn full_queue_is_429_with_retry_after() {
    let function = Function::new("f").set("queue", 2).set("max-instances", 1).set("concurrent-requests", 2);
    let daemon = Daemon::with(function.flag("--boot-delay").flag("2000")).await;
    let waiting = async { (join_all((0..2).map(|_| daemon.get("/invoke/f/pid"))).await, Instant::now()) };
    let refused = async {
        daemon.settled("f", "two wait", |function| number(function, "waiting") == 2).await;
        (join_all((0..3).map(|_| daemon.get("/invoke/f/pid"))).await, Instant::now())
    };
    let ((served, ready), (refused, answered)) = futures::join!(waiting, refused);
    assert!(answered < ready, "refusals waited for the boot");
    for reply in refused {
        reply.problem(429, "function_saturated");
        assert!((1..=60).contains(&reply.retry_after()));
    }
    for reply in served {
        let reply = reply.ok();
        assert!(reply.took > ms(800), "it must wait for the boot");
    }
    let function = daemon.function("f").await;
    assert_eq!(number(&function["counters"], "function_saturated"), 3);
    assert_eq!(number(&function["counters"], "ok"), 2);
    assert_eq!(number(&function["counters"], "requests"), 5);
    assert_eq!(number(&function, "waiting"), 0);
}

#[tokio::test]
async fn cancelled_request_leaves_queue_without_start() {
    let function = Function::new("f").set("queue", 1).set("max-instances", 1).set("single-use", true);
    let daemon = Daemon::with(function).await;
    let busy = daemon.get("/invoke/f/sleep?ms=1200");
    let leave = async {
        daemon.until("f", "busy", 1).await;
        let mut leaver = daemon.connect().await;
        {
            let mut waits = pin!(leaver.start(request("GET", "/invoke/f/pid", empty())));
            assert!(tokio::time::timeout(ms(200), &mut waits).await.is_err(), "it must wait");
            assert_eq!(daemon.function("f").await["waiting"], 1);
            daemon.get("/invoke/f/pid").await.problem(429, "function_saturated");
        }
        drop(leaver);
        daemon.settled("f", "the queue is empty", |function| number(function, "waiting") == 0).await;
    };
    let (reply, ()) = futures::join!(busy, leave);
    reply.ok();
    daemon.settled("f", "no instance is left", |function| function["instances"] == serde_json::json!([])).await;
    // A needless start would be in progress by now.
    tokio::time::sleep(ms(300)).await;
    let function = daemon.function("f").await;
    assert_eq!(number(&function, "instances_started"), 1);
    assert_eq!(number(&function["counters"], "client_gone"), 1);
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn cancelled_request_frees_slot_at_once() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    for path in ["/invoke/f/sleep?ms=20000", "/invoke/f/stream?n=200&ms=100"] {
        let mut leaver = daemon.connect().await;
        let _ = tokio::time::timeout(ms(300), async {
            let response = leaver.start(request("GET", path, empty())).await;
            let _held = response;
            std::future::pending::<()>().await;
        })
        .await;
        drop(leaver);
        let reply = daemon.get("/invoke/f/pid").await.ok();
        assert!(reply.took < AT_ONCE, "{path}: {:?}", reply.took);
    }
    assert_eq!(daemon.counter("f", "client_gone").await, 2);
}

#[tokio::test]
async fn queue_timeout_is_504() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1).set("queue-timeout", 0.4)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let late = async {
        daemon.until("f", "busy", 1).await;
        daemon.get("/invoke/f/pid").await
    };
    let (served, late) = futures::join!(daemon.get("/invoke/f/sleep?ms=2500"), late);
    let served = served.ok();
    late.problem(504, "queue_timed_out");
    assert!(late.took > ms(350) && late.took < served.took, "{:?} beside {:?}", late.took, served.took);
}

#[tokio::test]
async fn request_past_timeout_is_504_and_ends_instance() {
    let daemon = Daemon::with(Function::new("f").set("timeout", 0.5).set("max-instances", 1)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let reply = daemon.get("/invoke/f/sleep?ms=30000").await;
    reply.problem(504, "function_timed_out");
    assert!(reply.took > ms(450) && reply.took < AT_ONCE, "{:?}", reply.took);
    assert_ne!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
    assert!(!processes::exists(pid), "with one instance at most, the old one went first");
}

#[tokio::test]
async fn response_past_timeout_is_broken_off() {
    let daemon = Daemon::with(Function::new("f").set("timeout", 0.6)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let reply = daemon.send(request("GET", "/invoke/f/stream?n=100&ms=100", empty()));
    let reply = within(SOON, "a response that breaks off", reply).await;
    assert!(reply.is_err(), "it must not look whole");
    assert_eq!(daemon.counter("f", "function_timed_out").await, 1);
}

#[tokio::test]
async fn zero_timeout_is_unlimited() {
    let daemon = Daemon::with(Function::new("f").set("timeout", 0)).await;
    daemon.get("/invoke/f/sleep?ms=300").await.ok();
}

#[tokio::test]
async fn serves_queued_requests_in_order() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
    let clients = (0..5_usize).map(|n| {
        let (daemon, done) = (&daemon, done.clone());
        async move {
            // One after another, to have an order to keep.
            let ahead = n.saturating_sub(1) as u64;
            if n > 0 {
                daemon
                    .settled("f", "the one before waits", |f| {
                        number(f, "waiting") >= ahead && f["instances"][0]["state"] == "busy"
                    })
                    .await;
            }
            daemon.get("/invoke/f/sleep?ms=800").await.ok();
            done.send(n).unwrap();
        }
    });
    join_all(clients).await;
    drop(done);
    let mut served = Vec::new();
    while let Some(n) = order.recv().await {
        served.push(n);
    }
    assert_eq!(served, [0, 1, 2, 3, 4]);
}
