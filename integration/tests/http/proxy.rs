//! Proxy rules: `Expect: 100-continue`, disconnected clients, pipelining, silent connections, WebSocket handshakes.
//!
//! Paths, methods and headers are in `requests.rs`, streams in `streaming.rs`, slow clients in `slow_clients.rs`.

use futures::future::join_all;
use integration::{AT_ONCE, Daemon, End, Function, Raw, SOON, Setup, empty, ms, number, request, within};
use serde_json::Value;
use tokio::{net::TcpStream, time::Instant};

fn expecting(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n")
}

#[tokio::test]
async fn sends_100_continue_once_instance_is_ready() {
    let daemon = Daemon::with(Function::new("f").flag("--boot-delay").flag("700")).await;
    let began = Instant::now();
    let mut raw = Raw::request(daemon.listen, expecting("/invoke/f/received", 5)).await;
    assert_eq!(raw.expect_head().await.status, 100);
    assert!(began.elapsed() > ms(600), "100 came after {:?}, before there was an instance", began.elapsed());
    raw.send("hello").await.unwrap();
    assert_eq!(raw.expect_head().await.status, 200);
    assert_eq!(raw.bytes(1).await, b"5");
    // The next request of the connection finds a warm instance.
    raw.send(expecting("/invoke/f/received", 3)).await.unwrap();
    assert_eq!(raw.expect_head().await.status, 100);
    raw.send("abc").await.unwrap();
    assert_eq!(raw.expect_head().await.status, 200);
    assert_eq!(raw.bytes(1).await, b"3");
}

#[tokio::test]
async fn refused_request_gets_no_100_continue() {
    let f = Function::new("f").set("max-body", 1).set("max-instances", 1).set("queue", 1);
    let daemon = Setup::default().function(f).function(Function::verbatim("bad", "nonsense = 1\n")).start().await;
    daemon.get("/invoke/f/pid").await.ok();
    let cases = [
        ("/invoke/f/echo", (1 << 20) + 1, 413, "body_too_large"),
        ("/invoke/nobody/", 5, 404, "no_such_function"),
        ("/invoke/bad/", 5, 500, "function_misconfigured"),
        ("/nowhere", 5, 404, "no_such_page"),
        ("/invoke/f/echo", 5, 429, "function_saturated"),
    ];
    let (_connection, _response) = daemon.start(request("GET", "/invoke/f/stream?n=200&ms=100", empty())).await;
    let _waiting = Raw::request(daemon.listen, "GET /invoke/f/pid HTTP/1.1\r\nHost: h\r\n\r\n").await;
    daemon.settled("f", "one waits", |function| number(function, "waiting") == 1).await;
    for (path, length, status, code) in cases {
        let mut raw = Raw::request(daemon.listen, expecting(path, length)).await;
        let head = within(SOON, "a refusal", raw.expect_head()).await;
        assert_eq!((head.status, head.text("x-unifaas-error").as_deref()), (status, Some(code)), "{path}");
    }
}

/// Asserts that the function's connection ends soon after the client's, and that the slot is free.
async fn upstream_is_closed(daemon: &Daemon, times: usize, how: &str) {
    let is_seen = |function: &Value| {
        let output = function["instances"][0]["output"].to_string();
        output.matches("the connection was closed").count() == times
    };
    daemon.settled("f", format!("the function sees the end, {how}"), is_seen).await;
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.took < AT_ONCE, "{how}: the slot came back after {:?}", reply.took);
}

#[tokio::test]
async fn disconnected_client_cancels_upstream_request() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let head = "GET /invoke/f/until-closed HTTP/1.1\r\nHost: h\r\n\r\n";
    for (times, how) in ["closed", "reset", "half-closed"].into_iter().enumerate() {
        let stream = TcpStream::connect(daemon.listen).await.unwrap();
        if how == "reset" {
            stream.set_zero_linger().unwrap();
        }
        let mut raw = Raw::over(stream);
        raw.send(head).await.unwrap();
        daemon.until("f", "busy", 1).await;
        if how == "half-closed" {
            raw.finish().await;
            upstream_is_closed(&daemon, times + 1, how).await;
        } else {
            drop(raw);
            upstream_is_closed(&daemon, times + 1, how).await;
        }
    }
    daemon.settled("f", "all were counted", |function| number(&function["counters"], "client_gone") == 3).await;
    assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
}

#[tokio::test]
async fn client_disconnected_during_upload_frees_slot() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    for path in ["/invoke/f/received", "/invoke/f/echo"] {
        for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n5\r\nhello\r\n");
            let raw = Raw::request(daemon.listen, head).await;
            daemon.until("f", "busy", 1).await;
            drop(raw);
            let reply = daemon.get("/invoke/f/pid").await.ok();
            assert!(reply.took < AT_ONCE, "{path}, {framing}: {:?}", reply.took);
            assert_eq!(reply.pid(), pid);
        }
    }
}

#[tokio::test]
async fn reset_during_paused_upload_frees_slot() {
    // The function reads nothing, so the daemon stops reading from the client and cannot see its reset in a read.
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1).set("timeout", 0)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    stream.set_zero_linger().unwrap();
    let mut raw = Raw::over(stream);
    // The function sends its first byte after 20 s.
    let path = "/invoke/f/verbatim/unread?ms=20000&hex=,48";
    raw.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")).await.unwrap();
    let block = vec![b'x'; 1 << 20];
    let flood = async { while raw.send(&block).await.is_ok() {} };
    assert!(tokio::time::timeout(ms(1500), flood).await.is_err(), "the upload was to get stuck");
    drop(raw);
    let reply = within(SOON, "the slot", daemon.get("/invoke/f/pid")).await.ok();
    assert!(reply.took < AT_ONCE, "{:?}", reply.took);
}

#[tokio::test]
async fn pipelined_garbage_does_not_cancel_request() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    for garbage in
        ["\u{1}\u{2}garbage\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /invoke/f/x HTTP/1.1\r\nBad Name: 1\r\n\r\n"]
    {
        let head = format!("GET /invoke/f/sleep?ms=300 HTTP/1.1\r\nHost: h\r\n\r\n{garbage}");
        let mut raw = Raw::request(daemon.listen, head).await;
        let answer = raw.expect_head().await;
        assert_eq!(answer.status, 200, "{garbage:?}");
        let length = answer.text("content-length").unwrap().parse().unwrap();
        assert_eq!(raw.bytes(length).await.len(), length);
        let (rest, end) = raw.rest(ms(5000)).await;
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400") || rest.starts_with("HTTP/1.1 505"), "{rest}");
        assert_ne!(end, End::Open, "{garbage:?}: the connection is still open");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 4)).await;
    let requests: String = (0..100)
        .map(|n| match n % 3 {
            0 => format!("GET /invoke/f/{n} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => format!("POST /invoke/f/{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"),
            _ => format!(
                "PUT /invoke/f/{n} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
            ),
        })
        .collect();
    let mut raw = Raw::request(daemon.listen, requests).await;
    for n in 0..100 {
        let head = raw.expect_head().await;
        let length = head.text("content-length").expect("a length").parse().unwrap();
        let expected = format!("{} /{n}", ["GET", "POST", "PUT"][n % 3]);
        assert_eq!((head.status, String::from_utf8_lossy(&raw.bytes(length).await).into_owned()), (200, expected));
    }
}

#[tokio::test]
async fn silent_connections_and_partial_prefaces_are_closed() {
    let daemon = Daemon::with(Function::new("f")).await;
    let began = Instant::now();
    let ends = join_all(["", "P", "PRI * HT", "PRI * HTTP/2.0\r\n\r\n", "\r\n"].map(|beginning| {
        let daemon = &daemon;
        async move {
            let mut raw = Raw::connect(daemon.listen).await;
            if !beginning.is_empty() {
                raw.send(beginning).await.unwrap();
            }
            let (_, end) = raw.rest(ms(15_000)).await;
            // A response before the end is read first.
            let end = if end == End::Open { raw.rest(ms(5000)).await.1 } else { end };
            (beginning, end)
        }
    }))
    .await;
    assert!(ends.iter().all(|(_, end)| *end != End::Open), "after {:?}: {ends:?}", began.elapsed());
}

/// Returns a WebSocket text frame of a client. The text has at most 125 bytes.
fn frame(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let masked = text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [0x81, 0x80 | u8::try_from(text.len()).unwrap()].into_iter().chain(mask).chain(masked).collect()
}

#[tokio::test]
async fn websocket_message_sent_with_handshake_is_delivered() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = "GET /invoke/f/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let bytes: Vec<u8> = head.bytes().chain(frame("first")).chain(frame("second")).collect();
    let mut raw = Raw::request(daemon.listen, bytes).await;
    let answer = raw.expect_head().await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.text("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.text("upgrade").unwrap_or_default().to_ascii_lowercase(), "websocket");
    assert_eq!(raw.bytes(7).await, b"\x81\x05first");
    assert_eq!(raw.bytes(8).await, b"\x81\x06second");
    daemon.settled("f", "one slot", |function| function["instances"][0]["in_flight"] == 1).await;
    raw.finish().await;
    assert_eq!(raw.rest(ms(3000)).await.1, End::Closed);
    daemon.settled("f", "no slot", |function| function["instances"][0]["in_flight"] == 0).await;
}

#[tokio::test]
async fn refused_upgrade_returns_response() {
    let daemon = Daemon::with(Function::new("f")).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    for (path, status) in [("/invoke/f/ws", 426), ("/invoke/f/status/403", 403), ("/invoke/nobody/ws", 404)] {
        let mut raw = Raw::request(daemon.listen, format!("GET {path} HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n")).await;
        assert_eq!(raw.expect_head().await.status, status, "{path}");
    }
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.took < AT_ONCE, "{:?}", reply.took);
}
