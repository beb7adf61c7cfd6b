//! Who is shown the admin pages.
//!
//! Unless asked for otherwise they are for whoever works on this host, and for nobody who reaches it through somebody
//! else: no other host, no proxy of this host that speaks for others, no page in a browser of this host whose name was
//! made to point here (DNS rebinding), and no function.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use actix_http::header::{self, HeaderMap, HeaderName};
use slog::warn;

use super::{Shared, gate::Ends, owner};

/// Whom a listener shows the admin pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    Nobody,
    ThisHost,
    /// Whoever reaches the listener: it was put where others do.
    Everybody,
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

impl Audience {
    /// Of a listener at that address that is there for the admin pages alone.
    pub fn at(listener: SocketAddr) -> Self {
        if listener.ip().to_canonical().is_loopback() { Self::ThisHost } else { Self::Everybody }
    }

    /// Whether the one who sends a request with these headers on that connection belongs to it.
    pub fn includes(self, headers: &HeaderMap, ends: Ends, shared: &Shared) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::ThisHost => is_direct(headers) && names_this_host(headers) && is_no_function(ends, shared),
        }
    }
}

fn is_direct(headers: &HeaderMap) -> bool {
    OF_PROXIES.iter().all(|name| !headers.contains_key(name))
}

/// Whether the host that was asked for is an address or this host's own name for itself. Any other name can be made to
/// point here by whoever owns it. What is no browser need not name one.
fn names_this_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    // `[::1]:80`, `127.0.0.1:80`, `localhost`
    let name = match host.strip_prefix('[') {
        Some(v6) => return v6.split_once(']').is_some_and(|(v6, _)| v6.parse::<Ipv6Addr>().is_ok()),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Whether it comes from this host, and not from a process that runs as functions do.
fn is_no_function(ends: Ends, shared: &Shared) -> bool {
    if !ends.peer.ip().to_canonical().is_loopback() {
        return false;
    }
    match owner::of(ends.peer, ends.local) {
        Ok(user) => !shared.peers.include_user(user),
        Err(error) => {
            if let Some(times) = shared.strangers.due() {
                warn!(shared.log, "admin pages are not shown: the kernel does not tell who asks for them";
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
    fn a_host_is_this_one_by_address_or_as_localhost() {
        for host in ["127.0.0.1", "127.0.0.1:8123", "localhost", "LocalHost:8123", "[::1]", "[::1]:8123", "10.1.2.3:80"]
        {
            assert!(names_this_host(&with(header::HOST, host)), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[evil]:1", "[::1"]
        {
            assert!(!names_this_host(&with(header::HOST, host)), "{host}");
        }
        assert!(names_this_host(&HeaderMap::new()));
    }

    #[test]
    fn whoever_comes_through_a_proxy_is_not_on_this_host_whatever_the_proxy_says() {
        for name in OF_PROXIES {
            assert!(!is_direct(&with(name, "127.0.0.1")));
        }
        assert!(is_direct(&with(header::HOST, "127.0.0.1")));
    }

    #[test]
    fn a_listener_where_others_reach_it_is_for_them() {
        for (listener, audience) in [
            ("127.0.0.1:9000", Audience::ThisHost),
            ("[::1]:9000", Audience::ThisHost),
            ("0.0.0.0:9000", Audience::Everybody),
            ("192.0.2.7:9000", Audience::Everybody),
        ] {
            assert_eq!(Audience::at(listener.parse().unwrap()), audience);
        }
    }
}
