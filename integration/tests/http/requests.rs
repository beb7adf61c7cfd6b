//! What reaches the function and what comes back: methods, paths, headers, statuses.

use integration::{Daemon, Function, Head, Raw, Setup, body_of, empty, ms, request, verbatim};

/// Sends a raw request and returns the request head that the function received.
async fn received(daemon: &Daemon, head: &[u8]) -> String {
    let mut raw = Raw::request(daemon.listen, head).await;
    let answer = raw.expect_head().await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.raw));
    let (body, _) = raw.rest(ms(500)).await;
    // One character per byte, so that nothing is lost.
    let body = match answer.text("transfer-encoding") {
        Some(_) => panic!("the known length must be kept"),
        None => body,
    };
    body.iter().map(|byte| char::from(*byte)).collect()
}

/// Returns the values of a header in a request head, in order.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

#[tokio::test]
async fn passes_every_method() {
    let daemon = Daemon::with(Function::new("f")).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "brew"] {
        let reply = daemon.send(request(method, "/invoke/f/some/path", empty())).await.unwrap().ok();
        assert_eq!(reply.text(), format!("{method} /some/path"));
    }
}

#[tokio::test]
async fn passes_path_unchanged() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 4)).await;
    for (sent, expected) in [
        ("/invoke/f", "/"),
        ("/invoke/f/", "/"),
        ("/invoke/f?q=1", "/?q=1"),
        ("/invoke/f/a/b%20c?q=1", "/a/b%20c?q=1"),
        ("/invoke/f//x", "//x"),
        ("/invoke/f/x//", "/x//"),
        ("/invoke/f/a%2Fb", "/a%2Fb"),
        ("/invoke/f/a%2fb", "/a%2fb"),
        ("/invoke/f/../x", "/../x"),
        ("/invoke/f/..", "/.."),
        ("/invoke/f/./x/.", "/./x/."),
        ("/invoke/f/%2e%2e/x", "/%2e%2e/x"),
        ("/invoke/f/a%00b", "/a%00b"),
        ("/invoke/f/%zz%", "/%zz%"),
        ("/invoke/f/%c3%a9%ff", "/%c3%a9%ff"),
        ("/invoke/f/a+b;c=d,e!$&'()*:@~-._", "/a+b;c=d,e!$&'()*:@~-._"),
        ("/invoke/f/x?a=1&a=2&b=%26&c", "/x?a=1&a=2&b=%26&c"),
        ("/invoke/f/x??y=/../z?", "/x??y=/../z?"),
        ("/invoke/f/x?", "/x?"),
        ("/invoke/f/[x]|^{}\"", "/[x]|^{}\""),
        ("/invoke/f/invoke/f/x", "/invoke/f/x"),
    ] {
        let head = format!("GET {sent} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let mut raw = Raw::request(daemon.listen, head).await;
        let answer = raw.expect_head().await;
        let (body, _) = raw.rest(ms(1000)).await;
        assert_eq!(
            (answer.status, String::from_utf8_lossy(&body).as_ref()),
            (200, &*format!("GET {expected}")),
            "{sent}"
        );
    }
    let long = "x".repeat(6000);
    assert_eq!(daemon.get(&format!("/invoke/f/{long}")).await.ok().text(), format!("GET /{long}"));
}

#[tokio::test]
async fn accepts_absolute_target() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = "GET http://example.test/invoke/f/x?y HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    assert_eq!(raw.expect_head().await.status, 200);
    assert_eq!(raw.rest(ms(1000)).await.0, b"GET /x?y");
}

#[tokio::test]
async fn drops_hop_by_hop_request_headers() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = received(
        &daemon,
        b"GET /invoke/f/headers HTTP/1.1\r\nHost: example.test:1234\r\nConnection: keep-alive, X-Private\r\n\
          Keep-Alive: timeout=5\r\nX-Private: 1\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\
          TE: trailers, gzip\r\nUpgrade: h2c\r\nX-Public: 1\r\nAuthorization: Basic eQ==\r\nCookie: a=1\r\n\
          traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: k=v\r\n\
          Accept-Encoding: br\r\nUser-Agent: me\r\n\r\n",
    )
    .await;
    for name in ["Keep-Alive", "X-Private", "Proxy-Connection", "Proxy-Authorization", "Upgrade"] {
        assert!(values(&head, name).is_empty(), "{name} went on:\n{head}");
    }
    assert!(!head.to_ascii_lowercase().contains("x-private"), "{head}");
    assert!(values(&head, "TE").iter().all(|value| *value == "trailers"), "{head}");
    for (name, value) in [
        ("Host", "example.test:1234"),
        ("X-Public", "1"),
        ("Authorization", "Basic eQ=="),
        ("Cookie", "a=1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "k=v"),
        ("Accept-Encoding", "br"),
        ("User-Agent", "me"),
    ] {
        assert_eq!(values(&head, name), [value], "{name} in\n{head}");
    }
}

#[tokio::test]
async fn drops_hop_by_hop_response_headers() {
    let daemon = Daemon::with(Function::new("f")).await;
    let reply = daemon.get("/invoke/f/hop").await.ok();
    for name in ["keep-alive", "x-private", "proxy-connection", "proxy-authenticate"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    assert!(!reply.header("connection").unwrap_or_default().contains("x-private"));
    assert_eq!((reply.header("x-public").as_deref(), reply.text().as_str()), (Some("1"), "hop"));
}

#[tokio::test]
async fn adds_forwarding_headers() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = received(&daemon, b"GET /invoke/f/headers HTTP/1.1\r\nHost: example.test:1234\r\n\r\n").await;
    assert_eq!(values(&head, "X-Forwarded-For"), ["127.0.0.1"]);
    assert_eq!(values(&head, "X-Forwarded-Proto"), ["http"]);
    assert_eq!(values(&head, "X-Forwarded-Host"), ["example.test:1234"]);
    let forwarded = values(&head, "Forwarded").join(", ");
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
    assert!(forwarded.contains("host=\"example.test:1234\""), "a colon needs quotes: {forwarded}");

    let head = received(
        &daemon,
        b"GET /invoke/f/headers HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n\r\n",
    )
    .await;
    assert_eq!(values(&head, "X-Forwarded-For").join(", "), "203.0.113.9, 127.0.0.1");
    let forwarded = values(&head, "Forwarded").join(", ");
    assert!(forwarded.starts_with("for=203.0.113.9, for=127.0.0.1"), "{forwarded}");
}

#[tokio::test]
async fn generates_or_keeps_request_id() {
    let daemon = Daemon::with(Function::new("f")).await;
    let made = daemon.get("/invoke/f/headers").await.ok();
    let id = made.header("x-request-id").expect("an id");
    assert_eq!(values(&made.text(), "X-Request-Id"), [id.as_str()]);
    let other = daemon.get("/invoke/f/headers").await.ok().header("x-request-id").expect("an id");
    assert_ne!(id, other);

    let mut with_id = request("GET", "/invoke/f/headers", empty());
    with_id.headers_mut().insert("x-request-id", "mine-42".parse().unwrap());
    let kept = daemon.send(with_id).await.unwrap().ok();
    assert_eq!(kept.header("x-request-id").as_deref(), Some("mine-42"));
    assert_eq!(values(&kept.text(), "X-Request-Id"), ["mine-42"]);

    let mut to_missing = request("GET", "/invoke/missing/", empty());
    to_missing.headers_mut().insert("x-request-id", "mine-43".parse().unwrap());
    let problem = daemon.send(to_missing).await.unwrap().problem(404, "no_such_function");
    assert_eq!(problem["request_id"], "mine-43");
}

#[tokio::test]
async fn adds_server_timing() {
    let daemon = Daemon::with(Function::new("f").flag("--boot-delay").flag("200")).await;
    let duration = |timing: &str, name: &str| -> f64 {
        let entry = timing.split(',').find_map(|entry| entry.trim().strip_prefix(name)?.strip_prefix(";dur="));
        entry.and_then(|value| value.split(';').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {timing}"))
    };
    let cold = daemon.get("/invoke/f/sleep?ms=100").await.ok().header("server-timing").expect("a server-timing");
    assert!(duration(&cold, "boot") >= 200.0, "{cold}");
    assert!(duration(&cold, "upstream") >= 100.0, "{cold}");
    let warm = daemon.get("/invoke/f/sleep?ms=100").await.ok().header("server-timing").expect("a server-timing");
    assert!(duration(&warm, "queue") < 50.0 && duration(&warm, "upstream") >= 100.0, "{warm}");
    let both = daemon.get("/invoke/f/timing").await.ok();
    let both: Vec<_> = both.headers.get_all("server-timing").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(both.join(", ").contains("db;dur=53"), "the function's own entry is lost: {both:?}");
}

#[tokio::test]
async fn passes_function_errors_unchanged() {
    let daemon = Daemon::with(Function::new("f")).await;
    for status in [400, 404, 418, 429, 500, 502, 503, 504, 599] {
        let reply = daemon.get(&format!("/invoke/f/status/{status}")).await;
        assert_eq!((reply.status, reply.text().as_str()), (status, "the function's own words"));
        assert_eq!(reply.header("x-unifaas-error"), None);
    }
    assert_eq!(daemon.counter("f", "ok").await, 9);
}

#[tokio::test]
async fn passes_legal_request_headers_unchanged() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut head = b"GET /invoke/f/headers HTTP/1.1\r\nHost: h\r\nX-Bytes: ".to_vec();
    head.extend(0x80..=0xff_u8);
    head.extend_from_slice(b"\r\nX-Text: \"q\" \t(c) \\ ~!\r\nX-Empty:\r\nX-Twice: b\r\nX-Twice: a\r\n");
    head.extend_from_slice(b"!#$%&'*+-.^_`|~0: odd name\r\n");
    head.extend_from_slice(format!("X-Long: {}\r\n", "l".repeat(6000)).as_bytes());
    for n in 0..60 {
        head.extend_from_slice(format!("X-Many-{n}: {n}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let got = received(&daemon, &head).await;
    let all: String = (0x80..=0xff_u8).map(char::from).collect();
    assert_eq!(values(&got, "X-Bytes"), [all.as_str()]);
    assert_eq!(values(&got, "X-Text"), ["\"q\" \t(c) \\ ~!"]);
    assert_eq!(values(&got, "X-Empty"), [""]);
    assert_eq!(values(&got, "X-Twice"), ["b", "a"]);
    assert_eq!(values(&got, "!#$%&'*+-.^_`|~0"), ["odd name"]);
    assert_eq!(values(&got, "X-Long"), ["l".repeat(6000)]);
    for n in 0..60 {
        assert_eq!(values(&got, &format!("x-many-{n}")), [n.to_string()]);
    }
}

#[tokio::test]
async fn passes_legal_response_headers_unchanged() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut raw = Raw::request(daemon.listen, "GET /invoke/f/odd-headers HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let head: Head = raw.expect_head().await;
    let all: Vec<u8> = (0x80..=0xff).collect();
    assert_eq!(head.all("X-Bytes"), [all.as_slice()]);
    assert_eq!(head.all("X-Text"), [b"tab \"quoted\" (comment) \\ ~!".as_slice()]);
    assert_eq!(head.all("X-Empty"), [b"".as_slice()]);
    assert_eq!(head.all("Set-Cookie"), [b"a=1".as_slice(), b"b=2", b"c=3"]);
    assert_eq!(head.all("!#$%&'*+-.^_`|~0"), [b"odd name".as_slice()]);
    assert_eq!(head.text("X-Long").map(|value| value.len()), Some(4000));
    assert!((0..60).all(|n| head.text(&format!("X-Many-{n}")) == Some(n.to_string())));
    assert_eq!(raw.bytes(3).await, b"odd");
}

#[tokio::test]
async fn passes_bodies_of_both_framings() {
    let daemon = Daemon::with(Function::new("f")).await;
    let text = "0123456789".repeat(30_000);
    assert_eq!(daemon.post("/invoke/f/echo", &text).await.ok().body, text.as_bytes());
    let mut raw = Raw::request(
        daemon.listen,
        "POST /invoke/f/echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         5;ext=\"1\"\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\n\r\n",
    )
    .await;
    let head = raw.expect_head().await;
    let (body, _) = raw.rest(ms(1000)).await;
    assert_eq!(head.status, 200);
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(body.contains("hello") && body.contains('!') && body.ends_with("0\r\n\r\n"), "{body:?}");
    let put = daemon.send(request("PUT", "/invoke/f/received", body_of(vec![0_u8; 100_000]))).await.unwrap().ok();
    assert_eq!(put.text(), "100000");
}

#[tokio::test]
async fn head_204_and_304_have_no_body() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut connection = daemon.connect().await;
    // One connection for all: an unexpected body would be parsed as the next response.
    for _ in 0..3 {
        let reply = connection.send(request("HEAD", "/invoke/f/pid", empty())).await.unwrap();
        assert_eq!((reply.status, reply.body.len()), (200, 0));
        assert!(reply.header("content-length").is_some_and(|length| length != "0"), "{:?}", reply.headers);
        for status in [204, 304] {
            let path = format!("/invoke/f/status/{status}");
            let reply = connection.send(request("GET", &path, empty())).await.unwrap();
            assert_eq!((reply.status, reply.body.len(), reply.header("etag").as_deref()), (status, 0, Some("\"e\"")));
        }
        let reply = connection.send(request("HEAD", "/invoke/missing/", empty())).await.unwrap();
        assert_eq!((reply.status, reply.body.len()), (404, 0));
    }
}

#[tokio::test]
async fn keeps_connection_and_serves_pipelined_requests() {
    let daemon = Daemon::with(Function::new("f")).await;
    let one = "GET /invoke/f/a HTTP/1.1\r\nHost: h\r\n\r\n";
    let two = "POST /invoke/f/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nxyz";
    let three = "GET /invoke/f/c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, format!("{one}{two}{three}")).await;
    for expected in ["GET /a", "xyz", "GET /c"] {
        let head = raw.expect_head().await;
        let length = head.text("content-length").expect("a length").parse().unwrap();
        assert_eq!(String::from_utf8_lossy(&raw.bytes(length).await), expected);
    }
    assert_eq!(raw.rest(ms(1000)).await, (Vec::new(), integration::End::Closed));
}

#[tokio::test]
async fn pipelined_requests_of_different_kinds_are_framed_separately() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 4)).await;
    let sized = verbatim("f", &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"], 20, "keep");
    let line = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: h\r\n");
    let upload = line("POST", "/invoke/f/echo") + "Content-Length: 9\r\n\r\nin\r\n\r\nout";
    let chunks =
        line("PUT", "/invoke/f/received") + "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\none\r\n0\r\nt: 1\r\n\r\n";
    let head = line("HEAD", "/invoke/f/x") + "\r\n";
    let chunked_head = line("HEAD", "/invoke/f/stream?n=2&ms=1") + "\r\n";
    let get = line("GET", &sized) + "\r\n";
    let last = line("GET", "/invoke/f/last") + "Connection: close\r\n\r\n";
    let expected =
        ["first", "", "3", "", "in\r\n\r\nout", "3", "", "first", "GET /last"].map(|body| (body, body == "GET /last"));
    let requests = [&get, &head, &chunks, &head, &upload, &chunks, &chunked_head, &get, &last];
    let requests = requests.map(String::as_str).concat();
    // As one piece, and with requests that arrive while the first is being served.
    let splits = [get.len(), get.len() + head.len() + 20, get.len() + head.len() + chunks.len() - 20];
    for split in splits.into_iter().chain([requests.len()]) {
        let (early, late) = requests.split_at(split);
        let mut raw = Raw::request(daemon.listen, early).await;
        tokio::time::sleep(ms(5)).await;
        raw.send(late).await.unwrap();
        for (body, closes) in expected {
            let head = raw.expect_head().await;
            assert_eq!((head.status, head.text("connection").is_some()), (200, closes), "{split}: {body}");
            assert_eq!(String::from_utf8_lossy(&raw.bytes(body.len()).await), body, "{split}");
        }
        assert_eq!(raw.rest(ms(1000)).await, (Vec::new(), integration::End::Closed), "{split}");
    }
}

#[tokio::test]
async fn body_that_looks_like_parser_error_is_passed_unchanged() {
    let daemon = Daemon::with(Function::new("f")).await;
    let text = "HTTP/1.1 400 Bad Request\r\nnone: ours\r\n\r\n";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nsays ", text.len() + 5);
    let path = verbatim("f", &[&head, text], 100, "keep");
    let mut connection = daemon.connect().await;
    for _ in 0..2 {
        let reply = connection.send(request("GET", &path, empty())).await.unwrap().ok();
        assert_eq!(reply.text(), format!("says {text}"));
    }
}

#[tokio::test]
async fn targets_without_path_are_refused() {
    let daemon = Daemon::with(Function::new("f")).await;
    for (target, status, code) in [
        ("OPTIONS *", 404, "no_such_page"),
        ("CONNECT h:80", 404, "no_such_page"),
        // The response to `CONNECT` would have no body.
        ("CONNECT /invoke/f/x", 400, "bad_request"),
    ] {
        let mut raw = Raw::request(daemon.listen, format!("{target} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        let head = raw.expect_head().await;
        assert_eq!((head.status, head.text("x-unifaas-error").as_deref()), (status, Some(code)), "{target}");
    }
}

#[tokio::test]
async fn declined_h2c_upgrade_announces_close() {
    let daemon = Daemon::with(Function::new("f")).await;
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA";
    for (path, status) in
        [("/invoke/f/x", 200), ("/healthz", 200), ("/debug", 200), ("/invoke/g/", 404), ("/none", 404)]
    {
        // No request after the last response.
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n\r\n");
        let mut raw = Raw::request(daemon.listen, request.repeat(2)).await;
        let head = raw.expect_head().await;
        assert_eq!((head.status, head.text("connection").as_deref()), (status, Some("close")), "{path}");
        let (rest, end) = raw.rest(ms(4000)).await;
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{path}: {rest:?}");
        assert_eq!(end, integration::End::Closed, "{path}");
    }
}

#[tokio::test]
async fn serves_http_1_0_and_closes_connection() {
    let daemon = Daemon::with(Function::new("f")).await;
    for path in ["/invoke/f/x", "/invoke/f/stream?n=3&ms=10"] {
        let mut raw = Raw::request(daemon.listen, format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        let head = raw.expect_head().await;
        assert_eq!((head.status, head.text("transfer-encoding")), (200, None), "{path}");
        let (body, end) = raw.rest(ms(3000)).await;
        let expected = if path.ends_with('x') { "GET /x" } else { "line 0\nline 1\nline 2\n" };
        assert_eq!((String::from_utf8_lossy(&body).as_ref(), end), (expected, integration::End::Closed), "{path}");
    }
}

#[tokio::test]
async fn function_names_match_exactly() {
    let daemon = Setup::default().function(Function::new("f")).function(Function::new("F-2_x")).start().await;
    daemon.get("/invoke/F-2_x/pid").await.ok();
    for path in ["/invoke/g/", "/invoke/F/", "/invoke/ff/x", "/invoke//f/", "/invoke/", "/invoke/f%2f/"] {
        let problem = daemon.get(path).await.problem(404, "no_such_function");
        assert_eq!(problem["instance"], serde_json::Value::Null);
    }
    for path in ["/invoke", "/somewhere/else"] {
        daemon.get(path).await.problem(404, "no_such_page");
    }
}
