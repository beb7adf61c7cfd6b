//! What a proxy adds to a request: where it came from. The same for most requests of a connection.

use std::{cell::RefCell, net::IpAddr};

use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};

use unifaas_actors::cluster::PublicKey;

use crate::header_names::REQUEST_ID;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID);

/// The address of a client as headers have it. Written once per connection.
#[derive(Debug)]
pub struct Peer {
    pub address: String,
    /// A `node` of RFC 7239.
    node: String,
    proto: &'static str,
    /// It is another node, whose headers say where requests came from.
    is_node: bool,
    /// The key of the node, over TLS.
    pub key: Option<PublicKey>,
    /// The last request's host, and what a proxy adds for that: the next request has the same, most often.
    added: RefCell<(Option<HeaderValue>, HeaderMap)>,
}

impl Peer {
    /// Takes the address of a connection, and whether it came over TLS.
    pub fn new(address: IpAddr, is_tls: bool) -> Self {
        let (address, node) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_string(), address.to_string()),
            IpAddr::V6(address) => (address.to_string(), format!("\"[{address}]\"")),
        };
        Self {
            address,
            node,
            proto: if is_tls { "https" } else { "http" },
            is_node: false,
            key: None,
            added: RefCell::default(),
        }
    }

    /// Takes another node, whose headers say where requests came from, and its key if it came over TLS.
    pub fn node(address: IpAddr, key: Option<PublicKey>) -> Self {
        Self { is_node: true, key, ..Self::new(address, false) }
    }

    /// Whether it is another node.
    pub fn is_node(&self) -> bool {
        self.is_node
    }

    /// Whether the connection came over TLS.
    pub fn is_tls(&self) -> bool {
        self.proto == "https"
    }

    /// Returns the headers of a request that came through no other proxy, for a host that needs no escapes in a quoted
    /// string: see [`is_host`](super::request_facts::is_host).
    pub fn headers(&self, host: Option<&[u8]>) -> HeaderMap {
        let mut added = self.added.borrow_mut();
        if added.1.is_empty() || added.0.as_ref().map(HeaderValue::as_bytes) != host {
            let mut headers = HeaderMap::with_capacity(8);
            headers.insert(X_FORWARDED_FOR, joined_value([self.address.as_bytes()]));
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.proto));
            headers.insert(header::FORWARDED, joined_value(self.forwarded(host)));
            headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
            let host = host.map(|host| joined_value([host]));
            if let Some(host) = &host {
                headers.insert(header::HOST, host.clone());
                headers.insert(X_FORWARDED_HOST, host.clone());
            }
            *added = (host, headers);
        }
        added.1.clone()
    }

    /// Returns the parts of a `Forwarded` element.
    pub fn forwarded<'a>(&'a self, host: Option<&'a [u8]>) -> [&'a [u8]; 7] {
        let [before, host, after] = host.map_or([&b""[..]; 3], |host| [b";host=\"", host, b"\""]);
        [b"for=", self.node.as_bytes(), b";proto=", self.proto.as_bytes(), before, host, after]
    }
}

/// Joins parts of a value, all of which come from valid ones.
pub fn joined_value<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> HeaderValue {
    let joined: Vec<_> = parts.into_iter().flatten().copied().collect();
    HeaderValue::from_bytes(&joined).unwrap_or_else(|_| HeaderValue::from_static(""))
}
