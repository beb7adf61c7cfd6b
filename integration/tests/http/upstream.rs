//! Functions whose responses are unusual, broken or not HTTP, and what the client gets.

use integration::{Daemon, End, Function, Raw, empty, ms, request};

#[tokio::test]
async fn close_delimited_response_is_complete() {
    let daemon = Daemon::with(Function::new("f")).await;
    for _ in 0..3 {
        assert_eq!(daemon.get("/invoke/f/close-delimited").await.ok().text(), "to the end");
        assert_eq!(daemon.get("/invoke/f/http10").await.ok().text(), "of old");
    }
    assert_eq!(daemon.function("f").await["instances_started"], 1);
}

#[tokio::test]
async fn byte_by_byte_response_is_complete() {
    let daemon = Daemon::with(Function::new("f")).await;
    assert_eq!(daemon.get("/invoke/f/drip").await.ok().text(), "drip");
}

/// Returns responses that break off at once, perhaps before the daemon has sent a head, and after a while.
fn truncated() -> impl Iterator<Item = (String, bool)> {
    let paths = ["/truncate?", "/truncate-chunked?", "/bad-chunk?", "/reset?after=head&"];
    paths
        .into_iter()
        .flat_map(|path| [(0, false), (200, true)].map(|(ms, late)| (format!("/invoke/f{path}ms={ms}"), late)))
}

#[tokio::test]
async fn truncated_response_breaks_client_connection() {
    let daemon = Daemon::with(Function::new("f")).await;
    for (path, late) in truncated() {
        match daemon.send(request("GET", &path, empty())).await {
            Ok(reply) if !late => drop(reply.problem(502, "instance_failed")),
            Ok(reply) => panic!("{path} looks whole: {reply:?}"),
            Err(error) => assert!(!error.is_timeout(), "{path}: {error:?}"),
        }
    }
    daemon.get("/invoke/f/pid").await.ok();
    assert_eq!(daemon.counter("f", "instance_failed").await, 8);
}

#[tokio::test]
async fn truncated_response_has_no_last_chunk() {
    let daemon = Daemon::with(Function::new("f")).await;
    for (path, _) in truncated().filter(|(_, late)| *late) {
        let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let mut raw = Raw::request(daemon.listen, head).await;
        assert_eq!(raw.expect_head().await.status, 200);
        let (body, end) = raw.rest(ms(3000)).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(body.contains("part of it") && !body.ends_with("0\r\n\r\n"), "{path}: {body:?}");
        assert_ne!(end, End::Open, "{path}: the connection is still open");
    }
}

#[tokio::test]
async fn truncated_response_resets_http_1_0_client() {
    let daemon = Daemon::with(Function::new("f")).await;
    for path in ["/truncate-chunked?ms=200", "/bad-chunk?ms=200"] {
        let mut raw = Raw::request(daemon.listen, format!("GET /invoke/f{path} HTTP/1.0\r\n\r\n")).await;
        assert_eq!(raw.expect_head().await.status, 200);
        // The end of the connection is the end of such a response: only a reset shows the difference.
        assert_eq!(raw.rest(ms(3000)).await.1, End::Reset, "{path}");
    }
}

#[tokio::test]
async fn broken_protocol_is_502() {
    let daemon = Daemon::with(Function::new("f")).await;
    for path in ["/garbage", "/reset", "/mute", "/two-lengths"] {
        let reply = daemon.get(&format!("/invoke/f{path}")).await;
        let problem = reply.problem(502, "instance_failed");
        assert_eq!(problem["function"], "f");
        assert!(problem["instance"].is_string(), "{problem}");
        let post = daemon.post(&format!("/invoke/f{path}"), "not to be sent twice").await;
        post.problem(502, "instance_failed");
    }
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn large_head_passes_and_huge_head_is_502() {
    let daemon = Daemon::with(Function::new("f")).await;
    let reply = daemon.get("/invoke/f/big-head?kib=12").await.ok();
    assert_eq!(reply.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-big-")).count(), 12);
    daemon.get("/invoke/f/big-head?kib=2000").await.problem(502, "instance_failed");
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn stale_connection_fails_no_request() {
    let daemon = Daemon::with(Function::new("f").flag("--forgetful").set("concurrent-requests", 8)).await;
    for _ in 0..30 {
        daemon.get("/invoke/f/pid").await.ok();
    }
    assert_eq!(daemon.function("f").await["instances_started"], 1);
}

#[tokio::test]
async fn stale_connection_fails_no_request_with_body() {
    // The function closes the connection between the requests, which the daemon can see.
    let daemon = Daemon::with(Function::new("f")).await;
    for _ in 0..10 {
        assert_eq!(daemon.get("/invoke/f/close-delimited").await.ok().text(), "to the end");
        assert_eq!(daemon.post("/invoke/f/echo", "once only").await.ok().text(), "once only");
    }
}

#[tokio::test]
async fn instance_that_leaves_connections_unanswered_is_a_failed_start() {
    let daemon = Daemon::with(Function::new("f").flag("--full")).await;
    let reply = daemon.get("/invoke/f/pid").await;
    let problem = reply.problem(502, "boot_failed").to_string();
    assert!(problem.contains("the instance called back, but did not answer connections to 127.0.0.1:"), "{problem}");
    assert!(reply.took > ms(4900) && reply.took < ms(20_000), "{:?}", reply.took);
    assert_eq!(daemon.function("f").await["instances_started"], 1);
    // The boot timeout is a limit, too.
    let daemon = Daemon::with(Function::new("f").flag("--full").set("boot-timeout", 2)).await;
    let reply = daemon.get("/invoke/f/pid").await;
    let problem = reply.problem(504, "boot_timed_out").to_string();
    assert!(problem.contains("it called back, but did not answer connections to 127.0.0.1:"), "{problem}");
    assert!(reply.took < ms(20_000), "{:?}", reply.took);
    assert_eq!(daemon.function("f").await["instances_started"], 1);
}
