//! Hostile and broken clients.

use std::time::Duration;

use integration::{AT_ONCE, Daemon, End, Function, Raw, SOON, body_of, empty, ms, number, request, within};
use tokio::time::Instant;

/// Sends bytes, and returns everything until the connection ends.
async fn exchange(daemon: &Daemon, bytes: &[u8]) -> (String, End) {
    let mut raw = Raw::connect(daemon.listen).await;
    // The daemon may answer and close before it has read everything.
    let _ = raw.send(bytes).await;
    let (answer, end) = raw.rest(ms(10_000)).await;
    (String::from_utf8_lossy(&answer).into_owned(), end)
}

/// Returns the statuses of all responses.
fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

/// A request that a smuggler appends to the body: parsed as a request, it would get a second response.
const SMUGGLED: &str = "GET /invoke/f/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn ambiguous_framing_is_400_and_closes_connection() {
    let daemon = Daemon::with(Function::new("f")).await;
    let framings = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 4",
        "Content-Length: 4, 5",
        "Content-Length: +4",
        "Content-Length: -4",
        "Content-Length: 4 4",
        "Content-Length: 0x4",
        "Content-Length: 4a",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
        "Content-Length : 4",
        "Content-Length\t: 4",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \"chunked\"",
        "X: y\r\n Transfer-Encoding: chunked",
        "X Y: z",
        "no colon at all",
        ": no name",
        "X: a\0b",
        "X: a\rb",
    ];
    for framing in framings {
        let head = format!("POST /invoke/f/received HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        let (answer, end) = exchange(&daemon, head.as_bytes()).await;
        let statuses = statuses(&answer);
        assert!(matches!(statuses.as_slice(), [400]), "{framing:?} was answered {statuses:?}: {answer}");
        assert_ne!(end, End::Open, "{framing:?}: the connection is still open");
    }
    let good = daemon.post("/invoke/f/received", "four").await.ok();
    assert_eq!(good.text(), "4");
    assert_eq!(daemon.counter("f", "ok").await, 1, "something was smuggled in");
}

#[tokio::test]
async fn http_1_0_request_cannot_be_chunked() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = "POST /invoke/f/received HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (answer, end) = exchange(&daemon, format!("{head}0\r\n\r\n{SMUGGLED}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    assert_ne!(end, End::Open);
}

#[tokio::test]
async fn refused_heads_get_problem_documents() {
    let daemon = Daemon::with(Function::new("f")).await;
    for (head, status, code) in [
        ("GET /invoke/f/pid HTTP/1.1\r\n", 400, "bad_request"),
        ("GET /invoke/f/pid HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400, "bad_request"),
        ("GET /invoke/f/pid HTTP/1.1\r\nHost: a/b\r\n", 400, "bad_request"),
        ("GET invoke/f/pid HTTP/1.1\r\nHost: h\r\n", 400, "bad_request"),
        ("GET /invoke/f/pid HTTP/2.0\r\nHost: h\r\n", 400, "bad_request"),
        ("POST /invoke/f/pid HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n", 400, "bad_request"),
    ] {
        let mut raw = Raw::request(daemon.listen, format!("{head}\r\n{SMUGGLED}")).await;
        let answer = raw.expect_head().await;
        let field = |name: &str| answer.text(name).unwrap_or_default();
        assert_eq!((answer.status, field("x-unifaas-error").as_str()), (status, code), "{head}");
        assert_eq!(
            (field("connection").as_str(), field("content-type").as_str()),
            ("close", "application/problem+json")
        );
        let (body, end) = raw.rest(ms(10_000)).await;
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem and nothing behind it");
        assert_eq!((&problem["code"], end), (&code.into(), End::Closed), "{head}");
    }
    assert_eq!(daemon.function("f").await["counters"]["requests"], 0);
}

#[tokio::test]
async fn connection_survives_refused_request_with_short_body() {
    let daemon = Daemon::with(Function::new("f").set("max-body", 1)).await;
    let mut raw = Raw::connect(daemon.listen).await;
    let small = "POST /invoke/missing/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
    for _ in 0..3 {
        raw.send(format!("{small}GET /")).await.unwrap();
        let answer = raw.expect_head().await;
        assert_eq!((answer.status, answer.text("connection")), (404, None));
        raw.bytes(answer.text("content-length").unwrap().parse().unwrap()).await;
        raw.send("GET /invoke/f/a HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let answer = raw.expect_head().await;
        assert_eq!(answer.status, 200);
        assert_eq!(raw.bytes(answer.text("content-length").unwrap().parse().unwrap()).await, b"GET /a");
    }
    // The client withholds this body, so the daemon must not wait for it.
    raw.send(small.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")).await.unwrap();
    let answer = raw.expect_head().await;
    assert_eq!((answer.status, answer.text("connection").as_deref()), (404, Some("close")));
}

#[tokio::test]
async fn bad_chunking_is_400() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 4)).await;
    daemon.get("/invoke/f/pid").await.ok();
    for body in [
        "Z\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";ext\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "3\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\nG\r\n\r\n",
    ] {
        let head = "POST /invoke/f/received HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (answer, end) = exchange(&daemon, format!("{head}{body}{SMUGGLED}").as_bytes()).await;
        assert_eq!(statuses(&answer), [400], "{body:?} was answered {answer}");
        assert_ne!(end, End::Open, "{body:?}: the connection is still open");
    }
    assert_eq!(daemon.counter("f", "ok").await, 1);
    assert_eq!(daemon.counter("f", "bad_request").await, 11);
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn incomplete_body_never_looks_complete() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    for (framing, part) in [("Content-Length: 100", "only this"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")] {
        let head = format!("POST /invoke/f/received HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{part}");
        let mut raw = Raw::request(daemon.listen, head).await;
        raw.finish().await;
        let (answer, _) = raw.rest(ms(10_000)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(matches!(statuses(&answer).as_slice(), [] | [400]), "{answer}");
    }
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.took < AT_ONCE, "the slot came back after {:?}", reply.took);
}

#[tokio::test]
async fn large_heads_are_431() {
    let daemon = Daemon::with(Function::new("f")).await;
    let long = format!("X-Long: {}\r\n", "l".repeat(1 << 20));
    let many: String = (0..20_000).map(|n| format!("X-Many-{n}: {}\r\n", "m".repeat(40))).collect();
    for fields in [long, many] {
        let head = format!("GET /invoke/f/pid HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let (answer, end) = exchange(&daemon, head.as_bytes()).await;
        assert_eq!(statuses(&answer), [431], "{answer}");
        assert_ne!(end, End::Open);
    }
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn slow_head_is_408() {
    let daemon = Daemon::with(Function::new("f")).await;
    let stalled = async {
        let mut raw = Raw::request(daemon.listen, "GET /invoke/f/pid HTTP/1.1\r\nHost:").await;
        raw.head().await.map(|head| head.status)
    };
    let dripping = async {
        let mut raw = Raw::request(daemon.listen, "GET /invoke/f/pid HTTP/1.1\r\n").await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(15) && raw.send("X: y\r\n").await.is_ok() {
            let (answer, end) = raw.rest(ms(300)).await;
            if !answer.is_empty() || end != End::Open {
                return statuses(&String::from_utf8_lossy(&answer)).first().copied();
            }
        }
        None
    };
    let both = futures::future::join(stalled, dripping);
    assert_eq!(within(SOON, "two refusals", both).await, (Some(408), Some(408)));
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn missing_body_frees_slot_at_timeout() {
    let daemon = Daemon::with(Function::new("f").set("timeout", 1).set("max-instances", 1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let head = "POST /invoke/f/received HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nthe first of it";
    let mut raw = Raw::request(daemon.listen, head).await;
    let status = within(AT_ONCE, "an answer", raw.expect_head()).await.status;
    assert_eq!(status, 408, "the client was slow");
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn invalid_function_names_are_404() {
    let daemon = Daemon::with(Function::new("f")).await;
    // A directory beside the registry that would be a function if names were paths.
    Function::new("outside").write(&daemon.home.path(""), &daemon.home);
    let long = "a".repeat(7000);
    for name in [
        "..",
        "../outside",
        "..%2foutside",
        "%2e%2e%2foutside",
        "%2e%2e%2Foutside/x",
        "%2e%2e%2f",
        "%2e%2e/outside",
        "%00",
        "f%00",
        "f%00/x",
        "%66%00",
        ".",
        "./f",
        "%2ff",
        "f%2f..%2ff",
        "f%5c..",
        "-",
        "*",
        "%",
        "%ff",
        "%F0%9F%91%BB",
        "f%20",
        "%20f",
        "function.toml",
        long.as_str(),
    ] {
        let head = format!("GET /invoke/{name} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let (answer, _) = exchange(&daemon, head.as_bytes()).await;
        assert_eq!(statuses(&answer), [404], "{name:?} was answered {answer}");
        assert!(answer.contains("x-unifaas-error: no_such_function"), "{name:?} was answered {answer}");
    }
    for target in ["/../../../etc/passwd", "/invoke/../debug/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let (answer, _) = exchange(&daemon, head.as_bytes()).await;
        assert_eq!(statuses(&answer), [404], "{target} was answered {answer}");
    }
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn garbage_is_refused() {
    let daemon = Daemon::with(Function::new("f")).await;
    let tls_hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".to_vec();
    let noise: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [
        tls_hello,
        noise,
        b"\r\n\r\n\r\n\r\nGARBAGE\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET /invoke/f/pid\r\n\r\n".to_vec(),
        b"GET /invoke/f/pid HTTP/9.9\r\nHost: h\r\n\r\n".to_vec(),
        b"GET  /invoke/f/pid HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"G\0T /invoke/f/pid HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"GET /invoke/f/\x01 HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
    ] {
        let mut raw = Raw::connect(daemon.listen).await;
        let _ = raw.send(&bytes).await;
        raw.finish().await;
        let (answer, end) = raw.rest(ms(8000)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains(" 200 "), "{:?} was answered {answer}", String::from_utf8_lossy(&bytes));
        assert_ne!(end, End::Open, "{:?}: still open", String::from_utf8_lossy(&bytes));
    }
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn body_beyond_max_body_is_413() {
    let daemon = Daemon::with(Function::new("f").set("max-body", 1)).await;
    let fits = daemon.send(request("POST", "/invoke/f/received", body_of(vec![0_u8; 1 << 20]))).await.unwrap().ok();
    assert_eq!(fits.text(), (1 << 20).to_string());

    let declared = "POST /invoke/f/received HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, declared).await;
    let head = within(AT_ONCE, "a refusal before the body", raw.expect_head()).await;
    assert_eq!((head.status, head.text("x-unifaas-error").as_deref()), (413, Some("body_too_large")));

    let chunk = format!("10000\r\n{}\r\n", "c".repeat(1 << 16));
    let mut raw = Raw::request(
        daemon.listen,
        "POST /invoke/f/received HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    for _ in 0..17 {
        let _ = raw.send(&chunk).await;
    }
    let head = within(AT_ONCE, "a refusal", raw.expect_head()).await;
    assert_eq!((head.status, head.text("x-unifaas-error").as_deref()), (413, Some("body_too_large")));
    assert_eq!(daemon.counter("f", "body_too_large").await, 2);
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn silent_connections_do_not_delay_others() {
    let daemon = Daemon::with(Function::new("f")).await;
    let silent: Vec<_> = futures::future::join_all((0..400).map(|_| Raw::connect(daemon.listen))).await;
    let reply = daemon.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok();
    assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    drop(silent);
    assert_eq!(number(&daemon.function("f").await["counters"], "ok"), 1);
}
