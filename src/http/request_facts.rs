//! What the head of a request says of itself: one look at its headers. Pure.

use actix_http::{
    RequestHead,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE},
};
use actix_web::http::{Method, Version};
use memchr::memchr;

use crate::{header_names::REQUEST_ID, request_id::RequestId};

/// Most headers of a request, and its largest head in bytes, as in actix-http's parser of HTTP/1.1.
const MAX_HEADERS: usize = 96;
const MAX_HEAD: usize = 128 * 1024;

/// How the head of a request frames its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    #[default]
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// Chunks; over HTTP/2, whatever comes to the end of the stream.
    Unknown,
    /// All that comes to the end of the connection.
    Tunnel,
}

impl Framing {
    /// Adds what a line of a head declares. A hint: the line may be the end of one.
    pub fn declare(&mut self, line: &[u8]) {
        if !matches!(line.first(), Some(b't' | b'T' | b'u' | b'U' | b'c' | b'C')) {
            return;
        }
        let Some(colon) = memchr(b':', line) else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            *self = Self::Unknown;
        } else if *self != Self::Unknown && name.eq_ignore_ascii_case(b"upgrade") && is_websocket(value) {
            *self = Self::Tunnel;
        } else if *self == Self::None && name.eq_ignore_ascii_case(b"content-length") {
            *self = number(value).map_or(Self::None, Self::Length);
        }
    }
}

/// The facts.
#[derive(Debug)]
pub struct RequestFacts {
    pub request_id: RequestId,
    pub framing: Framing,
    pub is_websocket: bool,
    /// Whether `Connection` lists any header but those that are never passed on.
    pub lists_headers: bool,
    /// Whether actix-http sees a request where another server sees something else.
    pub is_ambiguous: bool,
    /// Whether the head is larger than actix-http takes over HTTP/1.1. Over HTTP/2 it takes any.
    pub is_too_large: bool,
}

impl RequestFacts {
    /// Looks at a head that actix-http has parsed.
    pub fn of(head: &RequestHead, is_http2: bool) -> Self {
        let (mut count, mut size) = (0, head.uri.path().len());
        let (mut id, mut host, mut length, mut lengths, mut is_coded) = (None, None, None, 0, false);
        let (mut asks_for_upgrade, mut names_websocket, mut lists_headers) = (false, false, false);
        for (name, value) in &head.headers {
            let value = value.as_bytes();
            count += 1;
            size += name.as_str().len() + value.len();
            match *name {
                HOST => host = host.or(Some(value)),
                CONTENT_LENGTH => (length, lengths) = (number(value), lengths + 1),
                TRANSFER_ENCODING => is_coded = true,
                UPGRADE => names_websocket |= is_websocket(value),
                CONNECTION => {
                    for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                        let is_upgrade = option.eq_ignore_ascii_case(b"upgrade");
                        asks_for_upgrade |= is_upgrade;
                        lists_headers |= !(is_upgrade
                            || option.eq_ignore_ascii_case(b"keep-alive")
                            || option.eq_ignore_ascii_case(b"close"));
                    }
                }
                _ if id.is_none() && name == REQUEST_ID => id = Some(value),
                _ => {}
            }
        }
        let declares_body = is_coded || length.is_some_and(|length| length > 0);
        let reads_as_tunnel = (names_websocket && !is_http2) || head.method == Method::CONNECT;
        let framing = match length {
            _ if reads_as_tunnel && !is_coded => Framing::Tunnel,
            Some(length) => Framing::Length(length),
            None if is_coded || is_http2 => Framing::Unknown,
            None => Framing::None,
        };
        Self {
            request_id: RequestId::of(id),
            framing,
            is_websocket: asks_for_upgrade && framing == Framing::Tunnel && head.version == Version::HTTP_11,
            lists_headers,
            // The answer to `CONNECT` would be a tunnel (RFC 9110, section 9.3.6).
            is_ambiguous: head.method == Method::CONNECT
                || (reads_as_tunnel && declares_body)
                || lengths > 1
                || !asked_host(head, host).is_none_or(is_host),
            is_too_large: is_http2 && (count > MAX_HEADERS || size > MAX_HEAD),
        }
    }

    /// Whether the head declares a body.
    pub fn declares_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }
}

/// Returns the host that a client asked for: that of an absolute target or of HTTP/2 comes before the header (RFC 9112,
/// section 3.2.2).
pub fn host_of(head: &RequestHead) -> Option<&[u8]> {
    asked_host(head, head.headers.get(HOST).map(|host| host.as_bytes()))
}

/// Returns the same, given the header.
fn asked_host<'a>(head: &'a RequestHead, header: Option<&'a [u8]>) -> Option<&'a [u8]> {
    match head.uri.authority() {
        // Without a user, which is no part of a host.
        Some(authority) => Some(authority.as_str().rsplit('@').next().unwrap_or_default().as_bytes()),
        None => header,
    }
    .filter(|host| !host.is_empty())
}

/// Whether these bytes can be a host and a port (RFC 3986, section 3.2.2).
pub fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| IN_HOST[usize::from(*byte)])
}

/// The bytes of a host, as a table: each request has one.
const IN_HOST: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
            || matches!(byte as u8, b'!' | b'$' | b'&'..=b',' | b';' | b'=');
        byte += 1;
    }
    table
};

fn is_websocket(protocol: &[u8]) -> bool {
    protocol.trim_ascii().eq_ignore_ascii_case(b"websocket")
}

fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_no_delimiters_of_other_parts() {
        for (host, valid) in [("[2001:db8::1]:80", true), ("a.example", true), ("a\"b", false), ("a/b", false)] {
            assert_eq!(is_host(host.as_bytes()), valid, "{host}");
        }
    }
}
