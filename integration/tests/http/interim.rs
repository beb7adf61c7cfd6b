//! Interim responses, trailers, HTTP/1.0 requests and absolute targets.

use bytes::Bytes;
use integration::{
    Daemon, End, Function, Http2, Raw, Setup, ms,
    tools::{program, run},
    verbatim,
};
use tokio::time::Instant;

const FINAL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\n\r\n";
const PROCESSING: &str = "HTTP/1.1 102 Processing\r\n\r\n";

async fn served() -> Daemon {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 8)).await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon
}

async fn get(daemon: &Daemon, path: &str, version: &str, fields: &str) -> Raw {
    Raw::request(daemon.listen, format!("GET {path} HTTP/{version}\r\n{fields}\r\n")).await
}

#[tokio::test]
async fn early_hints_arrive_before_response() {
    let daemon = served().await;
    let mut raw = get(&daemon, &verbatim("f", &[HINTS, FINAL], 1500, "keep"), "1.1", "Host: h\r\n").await;
    let hints = raw.expect_head().await;
    assert_eq!(hints.status, 103, "{}", String::from_utf8_lossy(&hints.raw));
    assert_eq!(hints.all("link"), [b"</a.css>; rel=preload".as_slice(), b"</b.js>; rel=preload"]);
    let came = Instant::now();
    assert_eq!(raw.expect_head().await.status, 200);
    assert!(came.elapsed() > ms(200), "the hints waited for the answer, which came {:?} later", came.elapsed());
    assert_eq!(raw.bytes(2).await, b"ok");
}

#[tokio::test]
async fn interim_responses_arrive_in_order() {
    let daemon = served().await;
    for pause in [0, 20] {
        let other = HINTS.replace("a.css", "c.css");
        let path = verbatim("f", &[PROCESSING, HINTS, &other, PROCESSING, FINAL], pause, "keep");
        let mut raw = get(&daemon, &path, "1.1", "Host: h\r\n").await;
        let mut heads = Vec::new();
        while heads.last().is_none_or(|(status, _)| *status < 200) {
            let head = raw.expect_head().await;
            heads.push((head.status, head.text("link").unwrap_or_default()));
        }
        let expected =
            [(102, ""), (103, "</a.css>; rel=preload"), (103, "</c.css>; rel=preload"), (102, ""), (200, "")];
        assert_eq!(heads, expected.map(|(status, link)| (status, link.to_owned())), "{pause} ms apart");
        assert_eq!(raw.bytes(2).await, b"ok");
        raw.send("GET /invoke/f/next HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert_eq!(raw.expect_head().await.status, 200);
        assert_eq!(raw.bytes(9).await, b"GET /next");
    }
}

#[tokio::test]
async fn drops_unrequested_100_continue() {
    let daemon = served().await;
    let path = verbatim("f", &["HTTP/1.1 100 Continue\r\n\r\n", FINAL], 50, "keep");
    let mut raw = get(&daemon, &path, "1.1", "Host: h\r\n").await;
    assert_eq!(raw.expect_head().await.status, 200);
    assert_eq!(raw.bytes(2).await, b"ok");
}

#[tokio::test]
async fn http_1_0_client_receives_no_interim_response() {
    let daemon = served().await;
    let mut raw = get(&daemon, &verbatim("f", &[HINTS, FINAL], 50, "keep"), "1.0", "").await;
    assert_eq!(raw.expect_head().await.status, 200);
    assert_eq!(raw.rest(ms(2000)).await, (b"ok".to_vec(), End::Closed));
}

#[tokio::test]
async fn http_2_response_survives_interim_responses() {
    let daemon = served().await;
    let connection = Http2::connect(daemon.listen).await;
    for pause in [0, 20] {
        let path = verbatim("f", &[PROCESSING, HINTS, FINAL], pause, "keep");
        assert_eq!(connection.get(&path).await.ok().text(), "ok");
        let reply = connection.send("POST", &path, Bytes::from_static(b"body")).await.expect("an answer").ok();
        assert_eq!(reply.text(), "ok");
    }
    let Some(curl) = program("curl") else { return };
    let url = format!("http://{}{}", daemon.listen, verbatim("f", &[HINTS, FINAL], 20, "keep"));
    let output = run(&curl, ["-sS", "--fail", "--noproxy", "*", "--http2-prior-knowledge", &url]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok");
}

#[tokio::test]
async fn drops_hop_by_hop_headers_of_interim_responses() {
    let daemon = served().await;
    let hints = "HTTP/1.1 103 Early Hints\r\nConnection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=7\r\nLink: <a>\r\n\r\n";
    let mut raw = get(&daemon, &verbatim("f", &[hints, FINAL], 50, "keep"), "1.1", "Host: h\r\n").await;
    let head = raw.expect_head().await;
    assert_eq!((head.status, head.text("link").as_deref()), (103, Some("<a>")));
    for name in ["x-private", "keep-alive"] {
        assert_eq!(head.text(name), None, "{name}");
    }
    assert_eq!(raw.expect_head().await.status, 200);
}

#[tokio::test]
async fn te_trailers_is_sent_only_if_trailers_are_forwarded() {
    let daemon = served().await;
    let fields = "Host: h\r\nTE: trailers\r\nConnection: TE, close\r\n";
    let mut raw = get(&daemon, "/invoke/f/headers", "1.1", fields).await;
    assert_eq!(raw.expect_head().await.status, 200);
    let received = String::from_utf8_lossy(&raw.rest(ms(2000)).await.0).to_ascii_lowercase();
    let promised = received.lines().any(|line| line.starts_with("te:"));

    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n";
    let mut raw = get(&daemon, &verbatim("f", &[answer], 0, "keep"), "1.1", fields).await;
    assert_eq!(raw.expect_head().await.status, 200);
    let (body, _) = raw.rest(ms(2000)).await;
    let body = String::from_utf8_lossy(&body).into_owned();
    let carried = body.to_ascii_lowercase().contains("x-sum: 42");
    assert!(body.contains("ok") && body.ends_with("\r\n\r\n"), "{body:?}");
    assert!(carried || !promised, "the request promised TE: trailers, and the trailers were dropped: {received}");
}

/// Sends a raw request and returns the lines of the head that the function received, in lower case.
async fn received(daemon: &Daemon, head: &str) -> Vec<String> {
    let mut raw = Raw::request(daemon.listen, head).await;
    let answer = raw.expect_head().await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.raw));
    let length = answer.text("content-length").expect("a length").parse().unwrap();
    let text = String::from_utf8_lossy(&raw.bytes(length).await).to_ascii_lowercase();
    text.lines().map(str::to_owned).collect()
}

fn values<'a>(head: &'a [String], name: &str) -> Vec<&'a str> {
    let fields = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).collect()
}

#[tokio::test]
async fn adds_host_to_http_1_0_request() {
    let daemon = served().await;
    for (line, fields) in [("HTTP/1.0", ""), ("HTTP/1.0", "Connection: keep-alive\r\n")] {
        let head = received(&daemon, &format!("GET /invoke/f/headers {line}\r\n{fields}\r\n")).await;
        assert_eq!(head[0], "get /headers http/1.1");
        let hosts = values(&head, "host");
        assert!(hosts.len() == 1 && !hosts[0].is_empty(), "{hosts:?} in {head:?}");
    }
    // A Host of the client is kept.
    let head = received(&daemon, "GET /invoke/f/headers HTTP/1.0\r\nHost: example.test:99\r\n\r\n").await;
    assert_eq!(values(&head, "host"), ["example.test:99"]);
}

#[tokio::test]
async fn host_is_authority_of_absolute_target() {
    let daemon = served().await;
    for version in ["1.1", "1.0"] {
        let target = "http://target.test:8080/invoke/f/headers?q=1";
        let head =
            received(&daemon, &format!("GET {target} HTTP/{version}\r\nHost: other.test\r\nConnection: close\r\n\r\n"))
                .await;
        assert_eq!(head[0], "get /headers?q=1 http/1.1");
        assert_eq!(values(&head, "host"), ["target.test:8080"], "{head:?}");
        assert_eq!(values(&head, "x-forwarded-host"), ["target.test:8080"], "{head:?}");
        let forwarded = values(&head, "forwarded").join(", ");
        assert!(forwarded.contains("target.test:8080") && !forwarded.contains("other.test"), "{forwarded}");
    }
    // HTTP/1.0 without a Host.
    let head = received(&daemon, "GET http://target.test/invoke/f/headers HTTP/1.0\r\n\r\n").await;
    assert_eq!(values(&head, "host"), ["target.test"], "{head:?}");
}

#[tokio::test]
async fn absolute_target_does_not_bypass_host_check_of_pages() {
    let daemon = Setup::default().function(Function::new("f")).start().await;
    // The Host would be allowed, but the authority of the target takes precedence.
    let head = "GET http://evil.test/debug HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    assert_eq!(raw.expect_head().await.status, 404);
}
