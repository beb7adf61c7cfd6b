//! Which headers are passed on, and which ones a proxy adds. Pure.
//!
//! actix-http has the types of http 0.2, hyper those of http 1: names and values are copied from one to the other here.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
};

use actix_http::{RequestHead, header::HeaderMap as ActixHeaders};
use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use super::{client_body::BodyLength, request_id::RequestId};

/// The request's id, taken over from the client or made.
pub const REQUEST_ID: &str = "x-request-id";
/// Says that a response is the platform's own, and which one.
pub const ERROR_CODE: &str = "x-unifaas-error";
/// Where the time of a request went.
pub const SERVER_TIMING: &str = "server-timing";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID);

/// The address of a client as headers have it. Written once per connection.
#[derive(Debug)]
pub struct Peer {
    /// Of a request that came through no other proxy.
    forwarded_for: HeaderValue,
    address: String,
    /// A `node` of RFC 7239.
    node: String,
    proto: &'static str,
    /// What the last request's host led to: the next one of the connection has the same, most often.
    last: RefCell<Option<HostValues>>,
}

/// The values that depend on the host alone, unless an earlier proxy has set them.
#[derive(Debug, Clone)]
struct HostValues {
    host: HeaderValue,
    forwarded: HeaderValue,
}

impl Peer {
    /// Takes the address of a connection, and whether it came over TLS.
    pub fn new(address: IpAddr, is_tls: bool) -> Self {
        let (address, node) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_string(), address.to_string()),
            IpAddr::V6(address) => (address.to_string(), format!("\"[{address}]\"")),
        };
        let forwarded_for = value([address.as_bytes()]);
        let proto = if is_tls { "https" } else { "http" };
        Self { forwarded_for, address, node, proto, last: RefCell::default() }
    }

    /// Returns the values for a host, which needs no escapes in a quoted string: see [`is_host`].
    fn for_host(&self, host: &[u8]) -> HostValues {
        let mut last = self.last.borrow_mut();
        if let Some(values) = last.as_ref().filter(|values| values.host.as_bytes() == host) {
            return values.clone();
        }
        last.insert(HostValues { host: value([host]), forwarded: value(self.forwarded(Some(host))) }).clone()
    }

    fn forwarded<'a>(&'a self, host: Option<&'a [u8]>) -> [&'a [u8]; 7] {
        let [before, host, after] = host.map_or([&b""[..]; 3], |host| [b";host=\"", host, b"\""]);
        [b"for=", self.node.as_bytes(), b";proto=", self.proto.as_bytes(), before, host, after]
    }
}

/// Joins parts of a value, all of which come from valid ones.
fn value<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> HeaderValue {
    let mut joined = Vec::with_capacity(64);
    parts.into_iter().for_each(|part| joined.extend_from_slice(part));
    HeaderValue::from_maybe_shared(Bytes::from(joined)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What is passed on besides the client's own headers.
#[derive(Debug, Clone, Copy)]
pub struct ForwardContext<'a> {
    pub client: &'a Peer,
    pub request_id: &'a RequestId,
    /// Whether the request is passed on as an upgrade to WebSocket.
    pub is_websocket: bool,
    /// Whether `Expect: 100-continue` is passed on.
    pub expects_continue: bool,
    /// `None`: no body.
    pub body: Option<BodyLength>,
    /// Names the instance to which a request without a host goes.
    pub instance: SocketAddr,
}

/// Whether a header concerns one connection only (RFC 9110, section 7.6.1), or frames the body. The sender frames it anew.
fn is_hop_by_hop(name: &str) -> bool {
    match name.len() {
        // Trailers are not passed on, so they are not promised either.
        2 => name == "te",
        7 => name == "trailer" || name == "upgrade",
        10 => name == "connection" || name == "keep-alive",
        14 => name == "content-length",
        17 => name == "transfer-encoding",
        _ => name.starts_with("proxy-"),
    }
}

/// Whether one of the values of a `Connection` header lists the name: then that header concerns one connection only.
fn lists<'a>(mut values: impl Iterator<Item = &'a [u8]>, name: &str) -> bool {
    values.any(|value| {
        value.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Whether the options name any header but those that are never passed on. Few do.
fn lists_others<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    values.any(|value| {
        value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|option| {
            !option.eq_ignore_ascii_case(b"keep-alive")
                && !option.eq_ignore_ascii_case(b"close")
                && !option.eq_ignore_ascii_case(b"upgrade")
        })
    })
}

/// Returns the host that a client asked for: that of an absolute target or of HTTP/2 comes before the header (RFC 9112,
/// section 3.2.2).
pub fn host(head: &RequestHead) -> Option<&[u8]> {
    match head.uri.authority() {
        // Without a user, which is no part of a host.
        Some(authority) => Some(authority.as_str().rsplit('@').next().unwrap_or_default().as_bytes()),
        None => head.headers.get(actix_http::header::HOST).map(|host| host.as_bytes()),
    }
    .filter(|host| !host.is_empty())
}

/// Whether these bytes can be a host and a port (RFC 3986, section 3.2.2).
pub fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| {
        matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
            || matches!(byte, b'!' | b'$' | b'&'..=b',' | b';' | b'=')
    })
}

/// Returns the headers that an instance gets for a client's request.
///
/// The chain of addresses grows by the client. Protocol and host are those that the first proxy saw, so they are set only
/// if no proxy before has set them.
pub fn request_headers(head: &RequestHead, context: ForwardContext<'_>) -> HeaderMap {
    let from = &head.headers;
    let options = || from.get_all(actix_http::header::CONNECTION).map(|value| value.as_bytes());
    let options_name_others = lists_others(options());
    let mut to = HeaderMap::with_capacity(from.len_keys() + 8);
    let (host, client) = (host(head), context.client);
    let host_values = host.map(|host| client.for_host(host));
    let to_host = host_values.as_ref().map(|values| values.host.clone());
    to.insert(header::HOST, to_host.unwrap_or_else(|| value([context.instance.to_string().as_bytes()])));

    let (mut had_proto, mut had_host, mut had_chain, mut had_forwarded, mut cookies) = (false, false, false, false, 0);
    for (name, field) in from {
        let name = name.as_str();
        let is_passed_on = match name {
            "host" | REQUEST_ID => false,
            "forwarded" => {
                had_forwarded = true;
                false
            }
            "x-forwarded-for" => {
                had_chain = true;
                false
            }
            // An instance relies on these two, whatever `Connection` lists.
            "x-forwarded-host" => {
                had_host = true;
                true
            }
            "x-forwarded-proto" => {
                had_proto = true;
                true
            }
            "expect" => context.expects_continue,
            _ => !(is_hop_by_hop(name) || options_name_others && lists(options(), name)),
        };
        if is_passed_on && let Some((name, field)) = to_hyper(name, field.as_bytes()) {
            cookies += usize::from(name == header::COOKIE);
            to.append(name, field);
        }
    }
    if cookies > 1 {
        // HTTP/2 may split what HTTP/1.1 has in one field (RFC 9113, section 8.2.3).
        let all: Vec<_> = to.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let joined = value([&all.join(&b"; "[..])[..]]);
        to.insert(header::COOKIE, joined);
    }
    match context.body {
        Some(BodyLength::Known(length)) => to.insert(header::CONTENT_LENGTH, length.into()),
        Some(BodyLength::Unknown) => to.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        None if from.contains_key(actix_http::header::CONTENT_LENGTH) => to.insert(header::CONTENT_LENGTH, 0.into()),
        None => None,
    };
    if context.is_websocket {
        to.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        to.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    to.insert(X_REQUEST_ID, value([context.request_id.as_bytes()]));
    let chain = |name: &str, last: &[&[u8]]| {
        let earlier = from.get_all(name).flat_map(|value| [value.as_bytes(), b", "]);
        value(earlier.chain(last.iter().copied()))
    };
    let forwarded_for = match had_chain {
        true => chain("x-forwarded-for", &[client.address.as_bytes()]),
        false => client.forwarded_for.clone(),
    };
    to.insert(X_FORWARDED_FOR, forwarded_for);
    if !had_proto {
        to.insert(X_FORWARDED_PROTO, HeaderValue::from_static(client.proto));
    }
    let forwarded = match &host_values {
        Some(values) if !had_forwarded => values.forwarded.clone(),
        _ => chain("forwarded", &client.forwarded(host)),
    };
    to.insert(header::FORWARDED, forwarded);
    if let Some(HostValues { host, .. }) = host_values.filter(|_| !had_host) {
        to.insert(X_FORWARDED_HOST, host);
    }
    to
}

/// Copies the headers of an instance's response that are meant for the client: not those that concern only the connection
/// to it or frame the body, nor what the platform says itself.
pub fn copy_response_headers(from: &HeaderMap, status: StatusCode, to: &mut ActixHeaders) {
    let options = || from.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let options_name_others = lists_others(options());
    for (name, value) in from {
        let name = name.as_str();
        let is_passed_on = match name {
            REQUEST_ID | ERROR_CODE => false,
            "upgrade" => status == StatusCode::SWITCHING_PROTOCOLS,
            // What a `304` announces is the length of the body that does not follow.
            "content-length" => status == StatusCode::NOT_MODIFIED,
            _ => !(is_hop_by_hop(name) || (options_name_others && lists(options(), name))),
        };
        if is_passed_on && let Some((name, value)) = to_actix(name, value.as_bytes()) {
            to.append(name, value);
        }
    }
}

/// Writes an interim response (RFC 9110, section 15.2) of HTTP/1.1.
pub fn interim_response(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut out =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).into_bytes();
    let options = || headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    for (name, value) in headers {
        if is_hop_by_hop(name.as_str()) || lists(options(), name.as_str()) {
            continue;
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn to_hyper(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
}

fn to_actix(name: &str, value: &[u8]) -> Option<(actix_http::header::HeaderName, actix_http::header::HeaderValue)> {
    use actix_http::header::{HeaderName, HeaderValue};
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
}

#[cfg(test)]
mod tests {
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

    fn sent(head: &RequestHead, client: &str, is_websocket: bool) -> Vec<String> {
        let context = ForwardContext {
            client: &Peer::new(client.parse().unwrap(), false),
            request_id: &RequestId::of(Some(b"id-1")),
            is_websocket,
            expects_continue: false,
            body: Some(BodyLength::Unknown),
            instance: "127.0.0.1:9".parse().unwrap(),
        };
        let mut headers = request_headers(head, context);
        assert_eq!(headers.remove(header::TRANSFER_ENCODING).unwrap(), "chunked");
        sorted(&headers)
    }

    fn returned(status: u16, lines: &[(&str, &str)]) -> Vec<String> {
        let (mut from, mut to) = (HeaderMap::new(), ActixHeaders::new());
        for (name, value) in lines {
            let (name, value) = to_hyper(name, value.as_bytes()).unwrap();
            from.append(name, value);
        }
        copy_response_headers(&from, StatusCode::from_u16(status).unwrap(), &mut to);
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
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "7"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
            ("host", "h"),
        ];
        let lines = sent(&head("/", &lines), "10.0.0.1", false);
        let names: Vec<_> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
        let expected =
            ["accept", "forwarded", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"];
        assert_eq!(names, expected);
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
        assert_eq!(sent(&head("/", &lines), "10.0.0.1", false), expected);
    }

    #[test]
    fn the_target_names_the_host_before_the_header_does() {
        let lines = sent(&head("http://user@target.example:81/x", &[("host", "other.example")]), "10.0.0.1", false);
        assert!(lines.contains(&"host: target.example:81".to_owned()), "{lines:?}");
        assert!(lines.contains(&"x-forwarded-host: target.example:81".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_request_without_a_host_gets_the_instances_address() {
        let lines = sent(&head("/", &[]), "10.0.0.1", false);
        assert!(lines.contains(&"host: 127.0.0.1:9".to_owned()));
        assert!(!lines.iter().any(|line| line.starts_with("x-forwarded-host")));
        assert!(lines.contains(&"forwarded: for=10.0.0.1;proto=http".to_owned()));
        assert!(is_host(b"[2001:db8::1]:80") && is_host(b"a.example") && !is_host(b"a\"b") && !is_host(b"a/b"));
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
            sent(&head("/", &chain), "::1", false)[..5],
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
        assert_eq!(sent(&head("/", &lines), "10.0.0.1", false), expected);
    }

    #[test]
    fn websocket_is_the_only_upgrade() {
        let lines = sent(&head("/", &[("connection", "Upgrade"), ("upgrade", "WebSocket")]), "10.0.0.1", true);
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
}
