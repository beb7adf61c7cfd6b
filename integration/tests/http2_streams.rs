//! HTTP/2 streams that are reset, queued, stalled or excessive.
//!
//! Complete requests and responses are in `http2.rs`.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use h2::Reason;
use hyper::HeaderMap;
use integration::{Daemon, Function, Http2, Setup, eventually, h2::send_all, ms, number, processes, within};
use nix::sys::signal::Signal;

async fn served() -> (Daemon, Http2) {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 100).set("queue", 5000)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let connection = Http2::connect(daemon.listen).await;
    (daemon, connection)
}

/// Starts a daemon whose function has one slot, and a warm instance.
async fn single() -> (Daemon, Http2) {
    let daemon = Setup::default().option("--client-timeout", "1").function(Function::new("f").set("max-instances", 1));
    let daemon = daemon.start().await;
    daemon.get("/invoke/f/pid").await.ok();
    let connection = Http2::connect(daemon.listen).await;
    (daemon, connection)
}

#[tokio::test]
async fn slow_response_survives_reset_of_stalled_stream_before_it() {
    let (daemon, connection) = single().await;
    let mut stalled =
        connection.start("GET", "/invoke/f/bytes?mib=20", &HeaderMap::new(), true).await.expect("a stream");
    daemon.until("f", "busy", 1).await;
    tokio::time::sleep(ms(200)).await;
    stalled.body.send_reset(Reason::CANCEL);
    drop(stalled);
    slot_is_free(&daemon, "the stream was reset").await;
    connection.get("/invoke/f/sleep?ms=3000").await.ok();
}

/// Asserts that the only slot is free within a second.
async fn slot_is_free(daemon: &Daemon, how: &str) {
    let reply = within(Duration::from_secs(10), format!("the slot, {how}"), daemon.get("/invoke/f/pid")).await.ok();
    assert!(reply.took < ms(1500), "{how}: the slot came back after {:?}", reply.took);
}

#[tokio::test]
async fn reset_stream_frees_slot_at_once() {
    let (daemon, connection) = single().await;
    let none = HeaderMap::new();
    for (method, path) in [
        ("GET", "/invoke/f/sleep?ms=20000"),
        ("POST", "/invoke/f/received"),
        ("POST", "/invoke/f/echo"),
        ("GET", "/invoke/f/stream?n=200&ms=100"),
        ("GET", "/invoke/f/until-closed"),
    ] {
        let mut stream = connection.start(method, path, &none, method == "GET").await.expect("a stream");
        if method == "POST" {
            send_all(&mut stream.body, Bytes::from_static(b"the first of it"), false).await.expect("it is taken");
        }
        daemon.until("f", "busy", 1).await;
        tokio::time::sleep(ms(100)).await;
        stream.body.send_reset(Reason::CANCEL);
        slot_is_free(&daemon, &format!("{method} {path} was reset")).await;
        connection.get("/invoke/f/pid").await.ok();
    }
    let function = daemon.function("f").await;
    let seen = (number(&function, "instances_started"), number(&function["counters"], "client_gone"));
    assert_eq!(seen, (1, 5), "instances started, and clients that left: {}", function["counters"]);
}

#[tokio::test]
async fn reset_of_queued_stream_leaves_queue() {
    let (daemon, connection) = single().await;
    let none = HeaderMap::new();
    let _busy = connection.start("GET", "/invoke/f/sleep?ms=3000", &none, true).await.expect("a stream");
    daemon.until("f", "busy", 1).await;
    let mut waiting = connection.start("GET", "/invoke/f/pid", &none, true).await.expect("a stream");
    daemon.settled("f", "one waits", |function| number(function, "waiting") == 1).await;
    waiting.body.send_reset(Reason::CANCEL);
    eventually(ms(1500), "none waits", async || (number(&daemon.function("f").await, "waiting") == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn closed_connection_frees_all_slots_at_once() {
    let function = Function::new("f").set("max-instances", 1).set("concurrent-requests", 3);
    let daemon = Daemon::with(function).await;
    daemon.get("/invoke/f/pid").await.ok();
    let connection = Http2::connect(daemon.listen).await;
    let none = HeaderMap::new();
    let mut streams = Vec::new();
    for (method, path) in
        [("GET", "/invoke/f/sleep?ms=20000"), ("POST", "/invoke/f/received"), ("GET", "/invoke/f/stream?n=200&ms=100")]
    {
        streams.push(connection.start(method, path, &none, method == "GET").await.expect("a stream"));
    }
    daemon.settled("f", "three in flight", |function| function["instances"][0]["in_flight"] == 3).await;
    drop((connection, streams));
    eventually(ms(1500), "no slot is taken", async || (daemon.instances("f").await[0]["in_flight"] == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn stalled_stream_reader_loses_slot() {
    let (daemon, connection) = single().await;
    let path = "/invoke/f/bytes?mib=200";
    let stream = connection.start("GET", path, &HeaderMap::new(), true).await.expect("a stream");
    let (response, _) = stream.response().await.expect("an answer");
    assert_eq!(response.status(), 200);
    within(ms(8000), "the slot", daemon.get("/invoke/f/pid")).await.ok();
    // The daemon may reset the stream or close its connection.
    Http2::connect(daemon.listen).await.get("/invoke/f/pid").await.ok();
    drop(response);
}

#[tokio::test]
async fn unread_responses_do_not_fill_memory() {
    let (daemon, connection) = served().await;
    let before = processes::peak_memory_kib(daemon.pid);
    let mut responses = Vec::new();
    for _ in 0..4 {
        let path = "/invoke/f/bytes?mib=100";
        let stream = connection.start("GET", path, &HeaderMap::new(), true).await.expect("a stream");
        responses.push(stream.response().await.expect("an answer"));
    }
    tokio::time::sleep(ms(1000)).await;
    let peak = processes::peak_memory_kib(daemon.pid);
    assert!(peak < before + (32 << 10), "{before} KiB before, {peak} KiB after");
}

#[tokio::test]
async fn excess_streams_are_refused() {
    const MANY: usize = 2000;
    let (daemon, connection) = served().await;
    // The settings of the daemon precede its first response.
    connection.get("/invoke/f/pid").await.ok();
    let announced = connection.max_streams();
    let outcomes = join_all((0..MANY).map(|_| connection.send("GET", "/invoke/f/sleep?ms=500", Bytes::new()))).await;
    let (mut served, mut refused) = (0, 0);
    for outcome in outcomes {
        match outcome {
            Ok(reply) if reply.status == 200 => served += 1,
            Ok(reply) => {
                assert!(matches!(reply.status, 429 | 503), "{} {}", reply.status, reply.text());
                let code = reply.header("x-unifaas-error").expect("a problem of the platform");
                reply.problem(reply.status, &code);
                refused += 1;
            }
            Err(error) => {
                assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM), "{error}");
                refused += 1;
            }
        }
    }
    println!("{announced} streams announced, {served} served, {refused} refused");
    assert!(served > 0 && (refused > 0 || announced < MANY), "{MANY} streams at once, and no limit");
    daemon.get("/invoke/f/pid").await.ok();
    Http2::connect(daemon.listen).await.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn draining_daemon_completes_streams() {
    let (mut daemon, connection) = served().await;
    let answer = connection.get("/invoke/f/sleep?ms=800");
    let stop = async {
        daemon.until("f", "busy", 1).await;
        daemon.signal(Signal::SIGTERM);
    };
    let (reply, ()) = futures::join!(answer, stop);
    reply.ok();
    assert!(daemon.ended().await.status.success());
}

#[tokio::test]
async fn stalled_body_is_408_and_frees_slot() {
    let (daemon, connection) = single().await;
    let mut stream = connection.start("POST", "/invoke/f/received", &HeaderMap::new(), false).await.expect("a stream");
    send_all(&mut stream.body, Bytes::from_static(b"the first of it"), false).await.expect("it is taken");
    daemon.until("f", "busy", 1).await;
    let (response, _body) = within(ms(8000), "a refusal", stream.response()).await.expect("an answer");
    assert_eq!(response.status(), 408);
    slot_is_free(&daemon, "the body paused").await;
    assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
}

#[tokio::test]
async fn large_head_is_431() {
    let (daemon, connection) = served().await;
    let mut headers = HeaderMap::new();
    for n in 0..200 {
        headers.append("x-long", format!("{n}{}", "l".repeat(4000)).parse().unwrap());
    }
    if let Ok(stream) = connection.start("GET", "/invoke/f/pid", &headers, true).await
        && let Ok((response, _)) = stream.response().await
    {
        assert_eq!(response.status(), 431);
    }
    assert_eq!(daemon.counter("f", "ok").await, 1);
    Http2::connect(daemon.listen).await.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn rapid_resets_do_no_harm() {
    let (daemon, connection) = served().await;
    connection.get("/invoke/f/pid").await.ok();
    let before = processes::resident_kib(daemon.pid);
    let none = HeaderMap::new();
    let mut opened = 0;
    while opened < 3000 {
        // The daemon may close the connection.
        let Ok(mut stream) = connection.start("GET", "/invoke/f/sleep?ms=2000", &none, true).await else { break };
        stream.body.send_reset(Reason::CANCEL);
        opened += 1;
        if opened % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.took < ms(3000), "{:?} after {opened} streams", reply.took);
    eventually(ms(3000), "no slot is taken", async || {
        let function = daemon.function("f").await;
        let instances = function["instances"].as_array().into_iter().flatten();
        (number(&function, "waiting") == 0 && instances.map(|one| number(one, "in_flight")).sum::<u64>() == 0)
            .then_some(())
    })
    .await;
    let after = processes::resident_kib(daemon.pid);
    assert!(after < before + (32 << 10), "{before} KiB before {opened} streams, {after} KiB after");
}
