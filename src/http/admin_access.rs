//! Which requests see the admin pages.
//!
//! By default only those of this host do that reach the daemon directly. Those are not: another host, a proxy of this host
//! that speaks for others, a page in a browser of this host whose name was made to point here (DNS rebinding), a function.

use std::{
    future::{Ready, ready},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use actix_http::{
    RequestHead,
    header::{self, HeaderMap, HeaderName},
};
use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use slog::warn;

use super::{
    accept_policy::ConnAddrs,
    client_connection::client_of,
    headers::{REQUEST_ID, host},
    request_id::RequestId,
    shared::Shared,
    status::{Failure, Rejection},
};
use crate::host::peer_uid;

/// The clients to which a listener shows the admin pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAudience {
    Hidden,
    ThisHost,
    /// Every client that can connect: the listener has a public address.
    Public,
}

/// The right to see a page. Handlers of admin pages extract it; without it the page does not exist.
#[derive(Debug)]
pub struct AdminAccess;

impl FromRequest for AdminAccess {
    type Error = Rejection;
    type Future = Ready<Result<Self, Rejection>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let access = || {
            let audience = request.app_data::<AdminAudience>()?;
            let shared = request.app_data::<web::Data<Shared>>()?;
            let addrs = client_of(request)?.addrs;
            audience.includes(request.head(), addrs, shared).then_some(Self)
        };
        ready(access().ok_or_else(|| reject(request, Failure::NoSuchPage)))
    }
}

/// Returns the answer to a request for a page that fails.
pub fn reject(request: &HttpRequest, failure: Failure) -> Rejection {
    let request_id = RequestId::of(request.headers().get(REQUEST_ID).map(|id| id.as_bytes()));
    Rejection { failure, function: None, request_id }
}

/// What a proxy adds to the requests that it passes on.
const OF_PROXIES: [HeaderName; 6] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

impl AdminAudience {
    /// Returns the audience of an admin listener at that address.
    pub fn at(listener: SocketAddr) -> Self {
        if listener.ip().to_canonical().is_loopback() { Self::ThisHost } else { Self::Public }
    }

    /// Whether a request with this head on that connection sees the pages.
    fn includes(self, head: &RequestHead, addrs: ConnAddrs, shared: &Shared) -> bool {
        match self {
            Self::Hidden => false,
            Self::Public => true,
            Self::ThisHost => is_direct(&head.headers) && names_this_host(host(head)) && is_no_function(addrs, shared),
        }
    }
}

fn is_direct(headers: &HeaderMap) -> bool {
    OF_PROXIES.iter().all(|name| !headers.contains_key(name))
}

/// Whether the host that was asked for is an address or this host's own name for itself. Any other name can be made to
/// point here by its owner. Clients that are no browsers need not name one.
fn names_this_host(host: Option<&[u8]>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = str::from_utf8(host) else { return false };
    // `[::1]:80`, `127.0.0.1:80`, `localhost`
    let name = match host.strip_prefix('[') {
        Some(v6) => return v6.split_once(']').is_some_and(|(v6, _)| v6.parse::<Ipv6Addr>().is_ok()),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Whether it comes from this host, and not from a process that runs as functions do.
fn is_no_function(addrs: ConnAddrs, shared: &Shared) -> bool {
    if !addrs.peer.ip().to_canonical().is_loopback() {
        return false;
    }
    match peer_uid::of(addrs.peer, addrs.local) {
        Ok(user) => !shared.function_peers.include_user(user),
        Err(error) => {
            if let Some(times) = shared.log_throttles.unknown_user.due() {
                warn!(shared.log, "admin pages not shown: the kernel does not tell which user asks";
                    "error" => %error, "times" => times);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_http::header::HeaderValue;

    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn this_host_is_named_by_address_or_as_localhost() {
        for host in ["127.0.0.1", "127.0.0.1:8123", "localhost", "LocalHost:8123", "[::1]", "[::1]:8123", "10.1.2.3:80"]
        {
            assert!(names_this_host(Some(host.as_bytes())), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[evil]:1", "[::1"]
        {
            assert!(!names_this_host(Some(host.as_bytes())), "{host}");
        }
        assert!(names_this_host(None));
    }

    #[test]
    fn requests_through_a_proxy_are_not_of_this_host() {
        for name in OF_PROXIES {
            assert!(!is_direct(&with(name, "127.0.0.1")));
        }
        assert!(is_direct(&with(header::HOST, "127.0.0.1")));
    }

    #[test]
    fn a_listener_that_others_reach_is_for_them() {
        for (listener, audience) in [
            ("127.0.0.1:9000", AdminAudience::ThisHost),
            ("[::1]:9000", AdminAudience::ThisHost),
            ("0.0.0.0:9000", AdminAudience::Public),
            ("192.0.2.7:9000", AdminAudience::Public),
        ] {
            assert_eq!(AdminAudience::at(listener.parse().unwrap()), audience);
        }
    }
}
