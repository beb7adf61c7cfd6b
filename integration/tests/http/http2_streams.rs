//! HTTP/2 streams that are reset, queued, stalled or excessive.
//!
//! Complete requests and responses are in `http2.rs`.

use bytes::Bytes;
use futures::future::join_all;
use h2::Reason;
use hyper::HeaderMap;
use integration::{AT_ONCE, Daemon, Function, Http2, Raw, SOON, Setup, h2::send_all, ms, number, processes, within};
use nix::sys::signal::Signal;
use serde_json::Value;

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

#[tokio::test]
async fn goaway_of_client_lets_running_streams_finish() {
    let (daemon, _connection) = single().await;
    // A request for a path of `path.len()` bytes, with the static table of HPACK: GET, http, the path, an authority.
    let path = "/invoke/f/sleep?ms=500";
    let block = [&[0x82, 0x86, 0x04, path.len() as u8], path.as_bytes(), b"\x01\x01h"].concat();
    let headers = [&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1], &block[..]].concat();
    let goaway = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &headers[..]].concat();
    let mut raw = Raw::request(daemon.listen, begin).await;
    daemon.until("f", "busy", 1).await;
    raw.send(goaway).await.unwrap();
    let mut frames = Vec::new();
    loop {
        let header = within(SOON, "a frame", raw.bytes(9)).await;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (kind, is_end, payload) = (header[3], header[4] & 1 == 1, raw.bytes(length).await);
        assert!(kind != 3 && kind != 7, "the stream is reset, or the connection ends: {frames:?}");
        frames.push((kind, String::from_utf8_lossy(&payload).into_owned()));
        if kind <= 1 && is_end {
            break;
        }
    }
    let data: String = frames.into_iter().filter(|(kind, _)| *kind == 0).map(|(_, data)| data).collect();
    assert!(data.ends_with(" 1"), "the whole answer: {data:?}");
}

/// Asserts that the only slot is free at once.
async fn slot_is_free(daemon: &Daemon, how: &str) {
    let reply = within(SOON, format!("the slot, {how}"), daemon.get("/invoke/f/pid")).await.ok();
    assert!(reply.took < AT_ONCE, "{how}: the slot came back after {:?}", reply.took);
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
    daemon.settled("f", "none waits", |function| function["waiting"] == 0).await;
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
    daemon.settled("f", "no slot is taken", |function| function["instances"][0]["in_flight"] == 0).await;
}

#[tokio::test]
async fn stalled_stream_reader_loses_slot() {
    let (daemon, connection) = single().await;
    let path = "/invoke/f/bytes?mib=200";
    let stream = connection.start("GET", path, &HeaderMap::new(), true).await.expect("a stream");
    let (response, _) = stream.response().await.expect("an answer");
    assert_eq!(response.status(), 200);
    within(SOON, "the slot", daemon.get("/invoke/f/pid")).await.ok();
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
    let (response, _body) = within(SOON, "a refusal", stream.response()).await.expect("an answer");
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
    assert!(reply.took < AT_ONCE, "{:?} after {opened} streams", reply.took);
    let is_free = |function: &Value| {
        let mut instances = function["instances"].as_array().into_iter().flatten();
        function["waiting"] == 0 && instances.all(|instance| instance["in_flight"] == 0)
    };
    daemon.settled("f", "no slot is taken", is_free).await;
    let after = processes::resident_kib(daemon.pid);
    assert!(after < before + (32 << 10), "{before} KiB before {opened} streams, {after} KiB after");
}
