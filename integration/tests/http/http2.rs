//! HTTP/2 in cleartext with prior knowledge, on the same port as HTTP/1.1: requests and responses.
//!
//! Streams that end early, wait, or are too many are in `http2_streams.rs`, TLS is in `tls.rs`.

use bytes::Bytes;
use futures::future::join_all;
use hyper::HeaderMap;
use integration::{
    AT_ONCE, Daemon, End, Function, Http2, Raw, SOON, Setup,
    h2::{next, send_all},
    ms,
    tools::{program, run},
    within,
};
use tokio::time::Instant;

async fn served() -> (Daemon, Http2) {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 100).set("queue", 5000)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let connection = Http2::connect(daemon.listen).await;
    (daemon, connection)
}

/// Returns the lines of a request head in lower case.
fn lines(head: &str) -> Vec<String> {
    head.to_ascii_lowercase().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn passes_methods_paths_and_statuses() {
    let (_daemon, connection) = served().await;
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let reply = connection.send(method, "/invoke/f/x", Bytes::new()).await.expect("an answer").ok();
        assert_eq!(reply.text(), format!("{method} /x"));
    }
    for (sent, expected) in [
        ("/invoke/f", "/"),
        ("/invoke/f?q=1", "/?q=1"),
        ("/invoke/f/a%20b", "/a%20b"),
        ("/invoke/f//x//", "//x//"),
        ("/invoke/f/../x", "/../x"),
        ("/invoke/f/%2e%2e/x", "/%2e%2e/x"),
    ] {
        assert_eq!(connection.get(sent).await.ok().text(), format!("GET {expected}"), "{sent}");
    }
    for status in [404, 418, 503] {
        let reply = connection.get(&format!("/invoke/f/status/{status}")).await;
        assert_eq!((reply.status, reply.header("x-unifaas-error")), (status, None));
    }
    for status in [204, 304] {
        let reply = connection.get(&format!("/invoke/f/status/{status}")).await;
        assert_eq!((reply.status, reply.body.len(), reply.header("etag").as_deref()), (status, 0, Some("\"e\"")));
    }
    let head = connection.send("HEAD", "/invoke/f/pid", Bytes::new()).await.expect("an answer");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(connection.get("/invoke/f/hop").await.ok().text(), "hop", "without its hop-by-hop fields");
}

#[tokio::test]
async fn serves_curl_with_prior_knowledge() {
    let Some(curl) = program("curl") else { return };
    let (daemon, _connection) = served().await;
    let base = format!("http://{}", daemon.listen);
    let text = async |arguments: &[&str]| {
        let always = ["-sS", "--fail", "--noproxy", "*", "--http2-prior-knowledge"];
        let output = run(&curl, always.iter().chain(arguments)).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(text(&[&format!("{base}/invoke/f/a%20b?c")]).await, "GET /a%20b?c");
    assert_eq!(text(&["-d", "a=1", &format!("{base}/invoke/f/echo")]).await, "a=1");
    assert_eq!(text(&["-o", "/dev/null", "-w", "%{http_version}", &format!("{base}/invoke/f/")]).await, "2");
    assert_eq!(text(&[&format!("{base}/invoke/f/sse?n=3&ms=10")]).await, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    assert_eq!(text(&[&format!("{base}/healthz")]).await.trim(), "ok");
    assert!(text(&[&format!("{base}/debug")]).await.contains("\"serving\""));
}

#[tokio::test]
async fn serves_both_versions_on_one_port() {
    let (daemon, connection) = served().await;
    for n in 0..5 {
        assert_eq!(daemon.get(&format!("/invoke/f/one/{n}")).await.ok().text(), format!("GET /one/{n}"));
        assert_eq!(connection.get(&format!("/invoke/f/two/{n}")).await.ok().text(), format!("GET /two/{n}"));
    }
    let head = "GET /invoke/f/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    assert_eq!(raw.expect_head().await.status, 200, "an upgrade to h2c is answered over HTTP/1.1");
    // A preface in pieces.
    let mut raw = Raw::request(daemon.listen, "PRI * HT").await;
    tokio::time::sleep(ms(100)).await;
    raw.send(b"TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert!(!raw.bytes(9).await.is_empty(), "its settings");
}

#[tokio::test]
async fn echoes_five_mebibytes() {
    let (_daemon, connection) = served().await;
    let body: Bytes = (0..5 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<_>>().into();
    let reply = connection.send("POST", "/invoke/f/echo", body.clone()).await.expect("an answer").ok();
    assert!(reply.body == body, "{} of {} bytes", reply.body.len(), body.len());
    let reply = connection.send("PUT", "/invoke/f/received", body.clone()).await.expect("an answer").ok();
    assert_eq!(reply.text(), body.len().to_string());
}

#[tokio::test]
async fn request_and_response_stream_concurrently() {
    let (_daemon, connection) = served().await;
    let stream = connection.start("POST", "/invoke/f/echo", &HeaderMap::new(), false).await.expect("a stream");
    let (response, mut upload) = within(SOON, "the head", stream.response()).await.expect("an answer");
    assert_eq!(response.status(), 200, "before anything of the body was sent");
    let mut body = response.into_body();
    for n in 0..10 {
        let word = Bytes::from(format!("word {n}\n"));
        send_all(&mut upload, word.clone(), n == 9).await.expect("it is taken");
        let echo = within(AT_ONCE, "the echo", next(&mut body)).await.expect("a piece").expect("a good one");
        assert_eq!(echo, word);
    }
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn server_sent_events_arrive_immediately() {
    let (_daemon, connection) = served().await;
    let stream = connection.start("GET", "/invoke/f/sse?n=4&ms=400", &HeaderMap::new(), true).await.expect("a stream");
    let (response, _) = stream.response().await.expect("an answer");
    let mut body = response.into_body();
    let mut first = None;
    for n in 0..4 {
        let piece = next(&mut body).await.expect("an event").expect("a good one");
        assert_eq!(piece, format!("data: {n}\n\n"));
        first.get_or_insert_with(Instant::now);
    }
    let time = first.unwrap().elapsed();
    assert!(time > ms(600), "all events of 1.2 s arrived within {time:?}");
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn serves_64_streams_concurrently() {
    let (_daemon, connection) = served().await;
    let began = Instant::now();
    let replies = join_all((0..64).map(|_| connection.get("/invoke/f/sleep?ms=500"))).await;
    replies.into_iter().for_each(|reply| drop(reply.ok()));
    assert!(began.elapsed() < ms(16_000), "{:?} for 64 requests of 500 ms", began.elapsed());
    let replies = join_all((0..64).map(|n| {
        let body = Bytes::from(vec![b'x'; 100_000 + n]);
        connection.send("POST", "/invoke/f/received", body)
    }));
    for (n, reply) in replies.await.into_iter().enumerate() {
        assert_eq!(reply.expect("an answer").ok().text(), (100_000 + n).to_string());
    }
}

#[tokio::test]
async fn function_receives_http_1_request_with_host_from_authority() {
    let daemon = Daemon::with(Function::new("f")).await;
    let connection = Http2::connect_as(daemon.listen, "authority.test:8080").await;
    let head = lines(&connection.get("/invoke/f/headers?q").await.ok().text());
    assert_eq!(head[0], "get /headers?q http/1.1");
    let named =
        |name: &str| head.iter().filter(|line| line.starts_with(&format!("{name}:"))).cloned().collect::<Vec<_>>();
    assert_eq!(named("host"), ["host: authority.test:8080"], "{head:?}");
    assert_eq!(named("x-forwarded-host"), ["x-forwarded-host: authority.test:8080"], "{head:?}");
    assert_eq!(named("x-forwarded-proto"), ["x-forwarded-proto: http"], "{head:?}");
    for name in ["transfer-encoding", "content-length", ":authority", ":path"] {
        assert!(named(name).is_empty(), "a request without a body has no framing, and no pseudo-header: {head:?}");
    }
}

#[tokio::test]
async fn joins_split_cookie_headers() {
    let (_daemon, connection) = served().await;
    let mut headers = HeaderMap::new();
    for cookie in ["a=1", "b=2", "c=3"] {
        headers.append("cookie", cookie.parse().unwrap());
    }
    let stream = connection.start("GET", "/invoke/f/headers", &headers, true).await.expect("a stream");
    let (response, _) = stream.response().await.expect("an answer");
    let mut body = response.into_body();
    let head = next(&mut body).await.expect("the head").expect("whole");
    let head = lines(&String::from_utf8_lossy(&head));
    let cookies: Vec<_> = head.iter().filter(|line| line.starts_with("cookie:")).collect();
    assert_eq!(cookies, ["cookie: a=1; b=2; c=3"], "RFC 9113, 8.2.3");
}

#[tokio::test]
async fn platform_errors_are_problem_documents() {
    let function = Function::new("f").set("max-body", 1);
    let daemon =
        Setup::default().function(function).function(Function::verbatim("bad", "nonsense = 1\n")).start().await;
    let connection = Http2::connect(daemon.listen).await;
    connection.get("/invoke/nobody/").await.problem(404, "no_such_function");
    connection.get("/nowhere").await.problem(404, "no_such_page");
    connection.get("/invoke/bad/").await.problem(500, "function_misconfigured");
    connection.get("/invoke/f/garbage").await.problem(502, "instance_failed");
    let large = Bytes::from(vec![b'x'; 20 << 20]);
    connection.send("POST", "/invoke/f/received", large).await.expect("a whole answer").problem(413, "body_too_large");
    connection.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn truncated_response_resets_stream() {
    let (_daemon, connection) = served().await;
    for path in ["/truncate?ms=200", "/truncate-chunked?ms=200", "/bad-chunk?ms=200", "/reset?after=head&ms=200"] {
        let reply = connection.send("GET", &format!("/invoke/f{path}"), Bytes::new()).await;
        assert!(reply.as_ref().is_err_and(h2::Error::is_reset), "{path}: {reply:?}");
        connection.get("/invoke/f/pid").await.ok();
    }
}

#[tokio::test]
async fn invalid_frames_close_only_their_connection() {
    let (daemon, connection) = served().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0].as_slice();
    for garbage in [
        // No settings first.
        b"this is no frame of any kind".to_vec(),
        // Settings, then DATA on a stream that was never opened.
        [settings, &[0, 0, 1, 0, 0, 0, 0, 0, 1, b'x']].concat(),
        // A HEADERS frame whose block is nonsense.
        [settings, &[0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat(),
        // A frame longer than allowed.
        [settings, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
    ] {
        let mut raw = Raw::request(daemon.listen, [preface, &garbage].concat()).await;
        let (_, end) = raw.rest(ms(5000)).await;
        let end = if end == End::Open { raw.rest(ms(8000)).await.1 } else { end };
        assert_ne!(end, End::Open, "{garbage:?}: still open");
        connection.get("/invoke/f/pid").await.ok();
    }
}

#[tokio::test]
async fn body_of_wrong_length_is_refused_without_ending_instance() {
    let (daemon, connection) = served().await;
    let pid = connection.get("/invoke/f/pid").await.ok().text();
    let mut fields = HeaderMap::new();
    fields.insert("content-length", 5.into());
    // The stream ends with its head.
    let stream = connection.start("POST", "/invoke/f/echo", &fields, true).await.expect("a stream");
    let (response, _) = stream.response().await.expect("an answer");
    assert_eq!(response.status(), 400);
    fields.append("content-length", 4.into());
    let stream = connection.start("POST", "/invoke/f/echo", &fields, false).await.expect("a stream");
    let (response, _) = stream.response().await.expect("an answer");
    assert_eq!(response.status(), 400);
    assert_eq!(connection.get("/invoke/f/pid").await.ok().text(), pid);
    assert_eq!(daemon.function("f").await["instances_started"], 1);
}
