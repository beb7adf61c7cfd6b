//! Which headers travel on, and which ones a proxy adds. Pure.

use std::net::IpAddr;

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use bytes::BytesMut;

use super::upstream::put_header;

/// The request's id, taken over from the client or made.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Says that a response is the platform's own, and which one.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-unifaas-error");
/// Where the time of a request went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The options that a `Connection` header lists: they concern this connection only, and so do the headers they name.
struct ConnectionOptions<'a>(Vec<&'a str>);

impl<'a> ConnectionOptions<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let values = headers.get_all(header::CONNECTION).filter_map(|value| value.to_str().ok());
        Self(values.flat_map(|value| value.split(',')).map(str::trim).filter(|option| !option.is_empty()).collect())
    }

    fn lists(&self, name: &str) -> bool {
        self.0.iter().any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// Whether a header concerns one connection only (RFC 9110, section 7.6.1).
fn is_hop_by_hop(name: &HeaderName, connection: &ConnectionOptions<'_>) -> bool {
    *name == header::CONNECTION
        || *name == KEEP_ALIVE
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || name.as_str().starts_with("proxy-")
        || connection.lists(name.as_str())
}

/// Whether the client asks to switch to WebSocket.
pub fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let websocket = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    ConnectionOptions::of(headers).lists("upgrade") && headers.get_all(header::UPGRADE).any(websocket)
}

/// The address of a client, as the headers that name it have it. Written once per connection.
#[derive(Debug)]
pub struct Peer {
    address: String,
    /// A `node` of RFC 7239.
    node: String,
}

impl Peer {
    pub fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self { address: address.to_string(), node: address.to_string() },
            IpAddr::V6(address) => Self { address: address.to_string(), node: format!("\"[{address}]\"") },
        }
    }
}

/// What a proxy tells about the client it speaks for.
#[derive(Debug, Clone, Copy)]
pub struct Via<'a> {
    /// The client, as seen by this daemon.
    pub client: Option<&'a Peer>,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// Whether the request is passed on as one to switch to WebSocket.
    pub websocket: bool,
}

/// Writes the headers that an instance gets for a client's request: `Host` and all that are meant for it, unchanged,
/// and who the client is. The framing of the body is the caller's business.
pub fn put_request_headers(out: &mut BytesMut, headers: &HeaderMap, via: Via<'_>) {
    let connection = ConnectionOptions::of(headers);
    for (name, value) in headers.iter() {
        let replaced = *name == REQUEST_ID || *name == FORWARDED_FOR || *name == header::FORWARDED;
        if !replaced && *name != header::CONTENT_LENGTH && !is_hop_by_hop(name, &connection) {
            put_header(out, name.as_str().as_bytes(), [value.as_bytes()]);
        }
    }
    let takes_trailers = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers");
    match (via.websocket, headers.get_all(header::TE).any(takes_trailers)) {
        (true, _) => {
            put_header(out, b"connection", [&b"Upgrade"[..]]);
            put_header(out, b"upgrade", [&b"websocket"[..]]);
        }
        (false, true) => {
            put_header(out, b"connection", [&b"te"[..]]);
            put_header(out, b"te", [&b"trailers"[..]]);
        }
        (false, false) => {}
    }
    put_header(out, REQUEST_ID.as_str().as_bytes(), [via.request_id.as_bytes()]);
    put_forwarded(out, headers, via.client);
}

/// `X-Forwarded-*` and RFC 7239's `Forwarded`. The chain of addresses grows by the client; protocol and host are those
/// that the first proxy saw, so they are set only when no proxy before this one did.
fn put_forwarded(out: &mut BytesMut, headers: &HeaderMap, client: Option<&Peer>) {
    let host = headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());

    if let Some(client) = client {
        put_joined(out, headers, &FORWARDED_FOR, [client.address.as_bytes()]);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        put_header(out, FORWARDED_PROTO.as_str().as_bytes(), [&b"http"[..]]);
    }
    if !headers.contains_key(FORWARDED_HOST) && !host.is_empty() {
        put_header(out, FORWARDED_HOST.as_str().as_bytes(), [host]);
    }

    let node = client.map_or("unknown", |client| &client.node).as_bytes();
    // A quoted string cannot hold every byte that a Host header can.
    let quotable = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let [before, host, after] = match host {
        [] => [&b""[..]; 3],
        host if host.iter().all(quotable) => [b";host=\"", host, b"\""],
        _ => [&b""[..]; 3],
    };
    put_joined(out, headers, &header::FORWARDED, [b"for=", node, b";proto=http", before, host, after]);
}

/// Appends to a list that may have come with the request.
fn put_joined<const N: usize>(out: &mut BytesMut, headers: &HeaderMap, name: &HeaderName, last: [&[u8]; N]) {
    let earlier = headers.get_all(name).flat_map(|value| [value.as_bytes(), b", "]);
    put_header(out, name.as_str().as_bytes(), earlier.chain(last));
}

/// Takes out of a function's response what concerns only the connection to it, or is the platform's to say.
///
/// `upgraded`: the response is a `101`, whose `Upgrade` header is meant for the client.
pub fn strip_response_headers(headers: &mut HeaderMap, upgraded: bool) {
    let connection = ConnectionOptions::of(headers);
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| **name == ERROR_CODE || is_hop_by_hop(name, &connection))
        .filter(|name| !(upgraded && **name == header::UPGRADE))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    /// The lines an instance gets, sorted.
    fn sent(lines: &[(&'static str, &str)], client: &str, websocket: bool) -> Vec<String> {
        let mut out = BytesMut::new();
        let request_id = HeaderValue::from_static("id-1");
        let client = client.parse().ok().map(Peer::new);
        let via = Via { client: client.as_ref(), request_id: &request_id, websocket };
        put_request_headers(&mut out, &map(lines), via);
        let text = String::from_utf8_lossy(&out).into_owned();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn headers_of_one_connection_do_not_travel() {
        let hop_by_hop = [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "secret"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "7"),
            ("accept", "*/*"),
        ];
        let lines = sent(&hop_by_hop, "10.0.0.1", false);
        let names: Vec<&str> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(names, ["accept", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-request-id"]);
    }

    #[test]
    fn the_instance_learns_who_the_client_is() {
        let lines = sent(&[("host", "example.org:81"), ("x-request-id", "forged twice")], "10.0.0.1", false);
        assert_eq!(
            lines,
            [
                "forwarded: for=10.0.0.1;proto=http;host=\"example.org:81\"",
                "host: example.org:81",
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-host: example.org:81",
                "x-forwarded-proto: http",
                "x-request-id: id-1",
            ]
        );
    }

    #[test]
    fn a_chain_of_proxies_is_appended_to() {
        let chain = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
        ];
        assert_eq!(
            sent(&chain, "::1", false)[..4],
            [
                "forwarded: for=1.1.1.1, for=\"[::1]\";proto=http",
                "x-forwarded-for: 1.1.1.1, 2.2.2.2, ::1",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: https",
            ]
        );
    }

    #[test]
    fn only_websocket_is_upgraded_and_trailers_are_announced() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(asks_for_websocket(&map(&websocket)));
        let lines = sent(&websocket, "10.0.0.1", true);
        assert!(lines.contains(&"connection: Upgrade".to_owned()) && lines.contains(&"upgrade: websocket".to_owned()));
        assert!(!asks_for_websocket(&map(&[("connection", "Upgrade"), ("upgrade", "h2c")])));
        assert!(!asks_for_websocket(&map(&[("upgrade", "websocket")])));
        assert!(sent(&[("te", "trailers")], "10.0.0.1", false).contains(&"te: trailers".to_owned()));
    }

    #[test]
    fn responses_lose_what_concerns_the_inner_connection() {
        let lines = [
            ("connection", "x-inner"),
            ("x-inner", "1"),
            ("keep-alive", "1"),
            ("upgrade", "websocket"),
            ("x-unifaas-error", "forged"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ];
        let mut headers = map(&lines);
        strip_response_headers(&mut headers, false);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["set-cookie"]);
        assert_eq!(headers.get_all("set-cookie").count(), 2);
        let mut headers = map(&lines);
        strip_response_headers(&mut headers, true);
        assert!(headers.contains_key("upgrade"));
    }
}
