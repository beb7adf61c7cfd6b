//! Which headers travel on, and which ones a proxy adds. Pure.

use std::net::IpAddr;

use actix_http::StatusCode;

use super::{
    request_id::RequestId,
    wire::{Fields, ResponseHead, put_header, put_number},
};

/// The request's id, taken over from the client or made.
pub const REQUEST_ID: &str = "x-request-id";
/// Says that a response is the platform's own, and which one.
pub const ERROR_CODE: &str = "x-unifaas-error";
/// Where the time of a request went.
pub const SERVER_TIMING: &str = "server-timing";

/// The options that a `Connection` header lists: they concern this connection only, and so do the headers they name.
struct ConnectionOptions<'a> {
    fields: &'a Fields,
    /// Whether it lists anything but what has no header of its own. Few do.
    names_others: bool,
}

impl<'a> ConnectionOptions<'a> {
    fn of(fields: &'a Fields) -> Self {
        let usual = |option: &[u8]| option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close");
        Self { fields, names_others: !fields.list(b"connection").all(usual) }
    }

    fn lists(&self, name: &[u8]) -> bool {
        self.names_others && self.fields.lists(b"connection", name)
    }
}

/// Whether a header concerns one connection only (RFC 9110, section 7.6.1). Its framing of the body is counted among them.
fn is_hop_by_hop(name: &[u8], connection: &ConnectionOptions<'_>) -> bool {
    let is = |this: &[u8]| name.eq_ignore_ascii_case(this);
    // By length first: nearly no header gets past this.
    let fixed = match name.len() {
        2 => is(b"te"),
        7 => is(b"trailer") || is(b"upgrade"),
        10 => is(b"connection") || is(b"keep-alive"),
        14 => is(b"content-length"),
        17 => is(b"transfer-encoding"),
        _ => false,
    };
    fixed || name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"proxy-")) || connection.lists(name)
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
    pub request_id: &'a RequestId,
    /// Whether the request is passed on as one to switch to WebSocket.
    pub websocket: bool,
}

/// Writes the headers that an instance gets for a client's request: `Host` and all that are meant for it, unchanged,
/// and who the client is. The framing of the body is the caller's business.
pub fn put_request_headers(out: &mut Vec<u8>, fields: &Fields, via: Via<'_>) {
    let connection = ConnectionOptions::of(fields);
    // What the client said of these is looked up only if it said anything.
    let (mut host, mut said) = (&b""[..], Said::default());
    for (name, value) in fields.iter() {
        let is = |this: &[u8]| name.eq_ignore_ascii_case(this);
        let way = match name.len() {
            2 if is(b"te") => {
                said.trailers |= value.eq_ignore_ascii_case(b"trailers");
                Way::Replaced
            }
            4 if is(b"host") => {
                host = value;
                Way::Always
            }
            9 if is(b"forwarded") => {
                said.forwarded = true;
                Way::Replaced
            }
            12 if is(REQUEST_ID.as_bytes()) => Way::Replaced,
            15 if is(b"x-forwarded-for") => {
                said.forwarded_for = true;
                Way::Replaced
            }
            16 if is(b"x-forwarded-host") => {
                said.forwarded_host = true;
                Way::Always
            }
            17 if is(b"x-forwarded-proto") => {
                said.forwarded_proto = true;
                Way::Always
            }
            _ => Way::UnlessHopByHop,
        };
        if way == Way::Always || (way == Way::UnlessHopByHop && !is_hop_by_hop(name, &connection)) {
            put_header(out, name, [value]);
        }
    }
    if via.websocket {
        put_header(out, b"connection", [&b"Upgrade"[..]]);
        put_header(out, b"upgrade", [&b"websocket"[..]]);
    } else if said.trailers {
        put_header(out, b"connection", [&b"te"[..]]);
        put_header(out, b"te", [&b"trailers"[..]]);
    }
    put_header(out, REQUEST_ID.as_bytes(), [via.request_id.as_bytes()]);
    put_forwarded(out, fields, via.client, host, said);
}

/// What becomes of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is passed on whatever the client has `Connection` say: without it an instance would be told less, or be wrong.
    Always,
    UnlessHopByHop,
    /// Something else is sent for it.
    Replaced,
}

/// Which headers came that a proxy adds to, or does not replace.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    trailers: bool,
    forwarded: bool,
    forwarded_for: bool,
    forwarded_host: bool,
    forwarded_proto: bool,
}

/// `X-Forwarded-*` and RFC 7239's `Forwarded`. The chain of addresses grows by the client; protocol and host are those
/// that the first proxy saw, so they are set only when no proxy before this one did.
fn put_forwarded(out: &mut Vec<u8>, fields: &Fields, client: Option<&Peer>, host: &[u8], said: Said) {
    let earlier = |name: &'static [u8], there: bool| {
        let values = there.then(|| fields.all(name)).into_iter().flatten();
        values.flat_map(|value| [value, b", "])
    };
    if let Some(client) = client {
        let earlier = earlier(b"x-forwarded-for", said.forwarded_for);
        put_header(out, b"x-forwarded-for", earlier.chain([client.address.as_bytes()]));
    }
    if !said.forwarded_proto {
        put_header(out, b"x-forwarded-proto", [&b"http"[..]]);
    }
    if !said.forwarded_host && !host.is_empty() {
        put_header(out, b"x-forwarded-host", [host]);
    }
    let node = client.map_or("unknown", |client| &client.node).as_bytes();
    // A host that is no more than one needs no escapes in a quoted string: `wire` has seen to that.
    let [before, host, after] = if host.is_empty() { [&b""[..]; 3] } else { [b";host=\"", host, b"\""] };
    let last = [&b"for="[..], node, b";proto=http", before, host, after];
    put_header(out, b"forwarded", earlier(b"forwarded", said.forwarded).chain(last));
}

/// Writes the headers of an instance's response that are meant for the client: not those that concern only the connection
/// to it, nor what is the platform's to say. Tells whether a `Date` was among them.
pub fn put_response_headers(out: &mut Vec<u8>, head: &ResponseHead) -> bool {
    let connection = ConnectionOptions::of(&head.fields);
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut dated = false;
    for (name, value) in head.fields.iter() {
        let is = |this: &[u8]| name.eq_ignore_ascii_case(this);
        let replaced = match name.len() {
            12 => is(REQUEST_ID.as_bytes()),
            15 => is(ERROR_CODE.as_bytes()),
            _ => false,
        };
        let for_client = !is_hop_by_hop(name, &connection) || (upgraded && is(b"upgrade"));
        if for_client && !replaced {
            dated |= name.len() == 4 && is(b"date");
            put_header(out, name, [value]);
        }
    }
    // Of a `204` there is none, of a `HEAD` or a `304` it is that of the body that does not follow.
    if let Some(length) = head.length
        && (!head.is_bodiless() || head.status == StatusCode::NOT_MODIFIED)
    {
        put_number(out, b"content-length", length);
    }
    dated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(out: Vec<u8>) -> Vec<String> {
        let mut lines: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// The lines an instance gets, sorted.
    fn sent(lines: &[(&str, &str)], client: &str, websocket: bool) -> Vec<String> {
        let mut out = Vec::new();
        let request_id = RequestId::of(Some(b"id-1"));
        let client = client.parse().ok().map(Peer::new);
        let via = Via { client: client.as_ref(), request_id: &request_id, websocket };
        put_request_headers(&mut out, &Fields::of(lines), via);
        sorted(out)
    }

    /// The lines a client gets, sorted, and whether there was a date.
    fn returned(status: &str, lines: &[(&str, &str)]) -> (Vec<String>, bool) {
        let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (mut head, mut out) = (ResponseHead::default(), Vec::new());
        assert!(head.take(&mut format!("HTTP/1.1 {status} x\r\n{lines}\r\n").as_bytes().into(), false).unwrap());
        let dated = put_response_headers(&mut out, &head);
        (sorted(out), dated)
    }

    #[test]
    fn headers_of_one_connection_do_not_travel() {
        let hop_by_hop = [
            ("Connection", "close, X-Private"),
            ("x-private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("proxy-authorization", "secret"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("Content-Length", "7"),
            ("accept", "*/*"),
        ];
        let lines = sent(&hop_by_hop, "10.0.0.1", false);
        let names: Vec<&str> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(names, ["accept", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-request-id"]);
    }

    #[test]
    fn the_instance_learns_who_the_client_is() {
        let lines = sent(&[("Host", "example.org:81"), ("X-Request-Id", "forged twice")], "10.0.0.1", false);
        assert_eq!(
            lines,
            [
                "Host: example.org:81",
                "forwarded: for=10.0.0.1;proto=http;host=\"example.org:81\"",
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
            ("X-Forwarded-For", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("Forwarded", "for=1.1.1.1"),
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
    fn a_client_cannot_have_taken_away_what_instances_rely_on() {
        let lines = [
            ("Connection", "Host, x-forwarded-proto, X-Forwarded-Host, x-forwarded-for, forwarded, x-request-id"),
            ("Host", "h"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "shop.example"),
            ("X-Forwarded-For", "1.1.1.1"),
        ];
        assert_eq!(
            sent(&lines, "10.0.0.1", false),
            [
                "Host: h",
                "X-Forwarded-Host: shop.example",
                "X-Forwarded-Proto: https",
                "forwarded: for=10.0.0.1;proto=http;host=\"h\"",
                "x-forwarded-for: 1.1.1.1, 10.0.0.1",
                "x-request-id: id-1",
            ]
        );
    }

    #[test]
    fn only_websocket_is_upgraded_and_trailers_are_announced() {
        let lines = sent(&[("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")], "10.0.0.1", true);
        assert!(lines.contains(&"connection: Upgrade".to_owned()) && lines.contains(&"upgrade: websocket".to_owned()));
        assert!(!lines.iter().any(|line| line.contains("WebSocket")));
        assert!(sent(&[("te", "trailers")], "10.0.0.1", false).contains(&"te: trailers".to_owned()));
    }

    #[test]
    fn responses_lose_what_concerns_the_inner_connection_or_is_the_platforms_to_say() {
        let lines = [
            ("Connection", "x-inner"),
            ("X-Inner", "1"),
            ("Keep-Alive", "1"),
            ("Upgrade", "websocket"),
            ("Proxy-Authenticate", "Basic"),
            ("X-UniFaaS-Error", "forged"),
            ("X-Request-Id", "forged"),
            ("Set-Cookie", "a"),
            ("set-cookie", "b"),
        ];
        assert_eq!(returned("200", &lines).0, ["Set-Cookie: a", "set-cookie: b"]);
        assert_eq!(returned("101", &lines).0, ["Set-Cookie: a", "Upgrade: websocket", "set-cookie: b"]);
    }

    #[test]
    fn a_length_is_said_once_and_only_where_it_belongs() {
        let twice = [("Content-Length", "05"), ("content-length", "5")];
        assert_eq!(returned("200", &twice).0, ["content-length: 5"]);
        assert_eq!(returned("304", &twice).0, ["content-length: 5"]);
        assert_eq!(returned("204", &twice), (vec![], false));
        assert_eq!(returned("200", &[("Transfer-Encoding", "chunked")]).0, [""; 0]);
        assert_eq!(returned("200", &[("DATE", "today")]), (vec!["DATE: today".to_owned()], true));
        assert_eq!(returned("200", &[("Date", "today"), ("Connection", "Date")]), (vec![], false));
    }
}
