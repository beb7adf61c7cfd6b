//! Which headers are passed on. Pure. Those that a proxy adds are in `http/forwarded.rs`.
//!
//! actix-http has the types of http 0.2, hyper those of http 1: names and values are copied from one to the other here.

use std::{mem, net::SocketAddr};

use actix_http::{
    RequestHead,
    header::{HeaderMap as ActixHeaders, HeaderName as ActixName, HeaderValue as ActixValue},
};
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    header::{self, HeaderName, HeaderValue},
};

use super::target::split_target;
use crate::{
    header_names::{ERROR_CODE, HOP, NODE, REQUEST_ID, UNTOUCHED},
    http::{
        Framing, Peer, RequestFacts, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID, host_of,
        joined_value,
    },
    request_id::RequestId,
};

const REQUEST_ID_NAME: ActixName = ActixName::from_static(REQUEST_ID);
const NODE_NAME: ActixName = ActixName::from_static(NODE);
const SERVER_TIMING_NAME: ActixName = ActixName::from_static("server-timing");

/// Whether a header concerns one connection only (RFC 9110, section 7.6.1), or frames the body. The sender frames it anew.
pub fn is_hop_by_hop(name: &str) -> bool {
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

/// Returns the headers of a request as the instance at that address gets them.
///
/// The chain of addresses grows by the client. Protocol and host are those that the first proxy saw, so they are set only
/// if no proxy before has set them.
pub fn instance_headers(
    head: &RequestHead,
    facts: &RequestFacts,
    client: &Peer,
    expects_continue: bool,
    instance: SocketAddr,
) -> HeaderMap {
    let (from, host) = (&head.headers, host_of(head));
    // Another node has set those of a proxy already.
    let is_node = client.is_node();
    let mut to = client.headers(host);
    if is_node {
        for name in [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, header::FORWARDED] {
            to.remove(name);
        }
    }
    if let Ok(request_id) = HeaderValue::from_bytes(facts.request_id.as_bytes()) {
        to.insert(X_REQUEST_ID, request_id);
    }
    if host.is_none() {
        to.insert(header::HOST, joined_value([instance.to_string().as_bytes()]));
    }
    let options = || from.get_all(actix_http::header::CONNECTION).map(|value| value.as_bytes());
    let (mut had_proto, mut had_host, mut had_chain, mut had_forwarded, mut cookies) = (false, false, false, false, 0);
    for (name, field) in from {
        let name = name.as_str();
        let is_first = |seen: &mut bool| !mem::replace(seen, true);
        let replaces = match name {
            "host" | REQUEST_ID | HOP => continue,
            // An instance relies on these, whatever `Connection` lists.
            "forwarded" => is_first(&mut had_forwarded),
            "x-forwarded-for" => is_first(&mut had_chain),
            "x-forwarded-host" => is_first(&mut had_host),
            "x-forwarded-proto" => is_first(&mut had_proto),
            "expect" if expects_continue => false,
            _ if name == "expect" || is_hop_by_hop(name) || facts.lists_headers && lists(options(), name) => continue,
            _ => false,
        };
        let Some((name, field)) = to_hyper(name, field.as_bytes()) else { continue };
        cookies += usize::from(name == header::COOKIE);
        if replaces {
            to.insert(name, field);
        } else {
            to.append(name, field);
        }
    }
    let mut join = |name: HeaderName, separator: &[u8], last: &[u8]| {
        let parts: Vec<_> = to.get_all(&name).iter().map(HeaderValue::as_bytes).chain([last]).collect();
        let joined = joined_value([&*parts[..parts.len() - usize::from(last.is_empty())].join(separator)]);
        to.insert(name, joined);
    };
    if cookies > 1 {
        // HTTP/2 may split what HTTP/1.1 has in one field (RFC 9113, section 8.2.3).
        join(header::COOKIE, b"; ", b"");
    }
    if had_chain && !is_node {
        join(X_FORWARDED_FOR, b", ", client.address.as_bytes());
    }
    if had_forwarded && !is_node {
        join(header::FORWARDED, b", ", &client.forwarded(host).concat());
    }
    match facts.framing {
        Framing::Length(length) => to.insert(header::CONTENT_LENGTH, length.into()),
        Framing::Unknown => to.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        Framing::None | Framing::Tunnel => None,
    };
    if facts.is_websocket {
        to.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        to.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    to
}

/// Returns the headers of a request as another node gets them. `withheld`: its body comes when the node wants it.
pub fn peer_headers(
    head: &RequestHead,
    facts: &RequestFacts,
    client: &Peer,
    withheld: bool,
    may_wait: bool,
) -> HeaderMap {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut to = instance_headers(head, facts, client, false, nowhere);
    if withheld {
        to.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    to.insert(HeaderName::from_static(HOP), HeaderValue::from_static(if may_wait { "wait" } else { "now" }));
    to
}

/// Returns the method of a request as an instance or another node gets it.
pub fn method_of(head: &RequestHead) -> Method {
    // What actix-http accepts as a method, hyper does as well.
    Method::from_bytes(head.method.as_str().as_bytes()).unwrap_or_default()
}

/// Returns the target of a request as another node gets it.
pub fn peer_target(head: &RequestHead) -> Uri {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    target.parse().unwrap_or_default()
}

/// Returns the target of a request as an instance gets it.
pub fn instance_target(head: &RequestHead) -> Uri {
    // What actix-http accepts as a target, hyper does as well.
    match split_target(head).map_or("/", |(_, target)| target) {
        "/" | "" => Uri::default(),
        target if target.starts_with('/') => target.parse().unwrap_or_default(),
        query => format!("/{query}").parse().unwrap_or_default(),
    }
}

/// Makes the headers of the response from those of an instance that are meant for the client: not those that concern only
/// the connection to it or frame the body, nor what the platform says itself.
pub fn copy_response_headers(
    from: &HeaderMap,
    status: StatusCode,
    (request_id, node): (&RequestId, Option<ActixValue>),
    timing: ActixValue,
    is_node: bool,
    to: &mut ActixHeaders,
) {
    let options = || from.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let has_options = from.keys().any(|name| name == header::CONNECTION);
    for (name, value) in from {
        let name = name.as_str();
        let is_passed_on = match name {
            REQUEST_ID => false,
            ERROR_CODE | NODE => is_node,
            UNTOUCHED => false,
            "upgrade" => status == StatusCode::SWITCHING_PROTOCOLS,
            // What a `304` announces is the length of the body that does not follow.
            "content-length" => status == StatusCode::NOT_MODIFIED,
            _ => !(is_hop_by_hop(name) || (has_options && lists(options(), name))),
        };
        if is_passed_on && let Some((name, value)) = to_actix(name, value.as_bytes()) {
            to.append(name, value);
        }
    }
    if let Ok(request_id) = ActixValue::from_bytes(request_id.as_bytes()) {
        to.insert(REQUEST_ID_NAME, request_id);
    }
    to.append(SERVER_TIMING_NAME, timing);
    if let Some(node) = node.filter(|_| !is_node) {
        to.insert(NODE_NAME, node);
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

fn to_actix(name: &str, value: &[u8]) -> Option<(ActixName, ActixValue)> {
    Some((ActixName::from_bytes(name.as_bytes()).ok()?, ActixValue::from_bytes(value).ok()?))
}

#[cfg(test)]
mod tests;
