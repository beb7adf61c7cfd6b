//! Which headers pass, and in which form.

use super::*;

fn head(uri: &str, lines: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.uri = uri.parse().unwrap();
    for (name, value) in lines {
        let (name, value) = to_actix(name, value.as_bytes()).unwrap();
        head.headers.append(name, value);
    }
    head
}

fn sorted(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

fn sent(head: &RequestHead, client: &str) -> Vec<String> {
    let (client, instance) = (Peer::new(client.parse().unwrap(), false), "127.0.0.1:9".parse().unwrap());
    // The second request of a connection does not differ.
    let [first, second] = [(); 2].map(|()| {
        let facts = RequestFacts { request_id: RequestId::of(Some(b"id-1")), ..RequestFacts::of(head, false) };
        sorted(&instance_headers(head, &facts, &client, false, instance))
    });
    assert_eq!(first, second);
    first
}

fn returned(status: u16, lines: &[(&str, &str)]) -> Vec<String> {
    let (mut from, mut to) = (HeaderMap::new(), ActixHeaders::new());
    for (name, value) in lines {
        let (name, value) = to_hyper(name, value.as_bytes()).unwrap();
        from.append(name, value);
    }
    let (status, request_id) = (StatusCode::from_u16(status).unwrap(), RequestId::of(Some(b"id-1")));
    copy_response_headers(&from, status, (&request_id, None), ActixValue::from_static("timing"), false, &mut to);
    assert_eq!(to.remove(REQUEST_ID).map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>(), [b"id-1"]);
    assert!(to.remove("server-timing").next().is_some());
    let mut lines: Vec<_> = to.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn hop_by_hop_headers_are_not_passed_on() {
    let lines = [
        ("connection", "close, X-Private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "secret"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("content-length", "7"),
        ("expect", "100-continue"),
        ("accept", "*/*"),
        ("host", "h"),
    ];
    let lines = sent(&head("/", &lines), "10.0.0.1");
    let names: Vec<_> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
    let expected =
        "accept content-length forwarded host x-forwarded-for x-forwarded-host x-forwarded-proto x-request-id";
    assert_eq!(names.join(" "), expected);
}

#[test]
fn the_instance_learns_who_the_client_is() {
    let lines = [("host", "example.org:81"), ("x-request-id", "forged twice")];
    let expected = [
        "forwarded: for=10.0.0.1;proto=http;host=\"example.org:81\"",
        "host: example.org:81",
        "x-forwarded-for: 10.0.0.1",
        "x-forwarded-host: example.org:81",
        "x-forwarded-proto: http",
        "x-request-id: id-1",
    ];
    assert_eq!(sent(&head("/", &lines), "10.0.0.1"), expected);
}

#[test]
fn the_target_names_the_host_before_the_header_does() {
    let lines = sent(&head("http://user@target.example:81/x", &[("host", "other.example")]), "10.0.0.1");
    assert!(lines.contains(&"host: target.example:81".to_owned()), "{lines:?}");
    assert!(lines.contains(&"x-forwarded-host: target.example:81".to_owned()), "{lines:?}");
}

#[test]
fn a_request_without_a_host_gets_the_instances_address() {
    let lines = sent(&head("/", &[]), "10.0.0.1");
    assert!(lines.contains(&"host: 127.0.0.1:9".to_owned()));
    assert!(!lines.iter().any(|line| line.starts_with("x-forwarded-host")));
    assert!(lines.contains(&"forwarded: for=10.0.0.1;proto=http".to_owned()));
}

#[test]
fn a_chain_of_proxies_grows_by_the_client() {
    let chain = [
        ("host", "h"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("forwarded", "for=1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
    ];
    assert_eq!(
        sent(&head("/", &chain), "::1")[..5],
        [
            "forwarded: for=1.1.1.1, for=\"[::1]\";proto=http;host=\"h\"",
            "host: h",
            "x-forwarded-for: 1.1.1.1, 2.2.2.2, ::1",
            "x-forwarded-host: shop.example",
            "x-forwarded-proto: https",
        ]
    );
}

#[test]
fn connection_options_cannot_remove_what_instances_rely_on() {
    let lines = [
        ("connection", "Host, x-forwarded-proto, X-Forwarded-Host, x-forwarded-for, forwarded, x-request-id"),
        ("host", "h"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-for", "1.1.1.1"),
    ];
    let expected = [
        "forwarded: for=10.0.0.1;proto=http;host=\"h\"",
        "host: h",
        "x-forwarded-for: 1.1.1.1, 10.0.0.1",
        "x-forwarded-host: shop.example",
        "x-forwarded-proto: https",
        "x-request-id: id-1",
    ];
    assert_eq!(sent(&head("/", &lines), "10.0.0.1"), expected);
}

#[test]
fn websocket_is_the_only_upgrade() {
    let lines = sent(&head("/", &[("connection", "Upgrade"), ("upgrade", "WebSocket")]), "10.0.0.1");
    assert!(lines.contains(&"connection: Upgrade".to_owned()) && lines.contains(&"upgrade: websocket".to_owned()));
    assert!(!lines.iter().any(|line| line.contains("WebSocket")));
}

#[test]
fn responses_lose_what_concerns_the_inner_connection_or_is_the_platforms_to_say() {
    let lines = [
        ("connection", "x-inner"),
        ("x-inner", "1"),
        ("keep-alive", "1"),
        ("upgrade", "websocket"),
        ("proxy-authenticate", "Basic"),
        ("x-unifaas-error", "forged"),
        ("x-request-id", "forged"),
        ("content-length", "5"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
    ];
    assert_eq!(returned(200, &lines), ["set-cookie: a", "set-cookie: b"]);
    assert_eq!(returned(101, &lines), ["set-cookie: a", "set-cookie: b", "upgrade: websocket"]);
    assert_eq!(returned(304, &lines), ["content-length: 5", "set-cookie: a", "set-cookie: b"]);
}
