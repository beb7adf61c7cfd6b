//! The address of the callback listener for instances that share the daemon's network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The callback listener as seen from an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Callback {
    /// The address that instances call.
    pub address: SocketAddr,
    /// The source address of those calls.
    pub source: IpAddr,
}

impl Callback {
    /// Returns the callback for instances that share the daemon's network.
    pub fn local(bound: SocketAddr) -> Self {
        let ip = if bound.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bound.ip() };
        // The kernel answers from 127.0.0.1 for all of 127.0.0.0/8; any other local address calls itself.
        let source = match ip {
            IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_loopback() => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        Self { address: SocketAddr::new(ip, bound.port()), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(bound: &str) -> (String, String) {
        let callback = Callback::local(bound.parse().unwrap());
        (callback.address.to_string(), callback.source.to_string())
    }

    #[test]
    fn maps_unspecified_address_to_loopback() {
        assert_eq!(local("0.0.0.0:8124"), ("127.0.0.1:8124".into(), "127.0.0.1".into()));
        assert_eq!(local("[::]:8124"), ("127.0.0.1:8124".into(), "127.0.0.1".into()));
    }

    #[test]
    fn predicts_source_address_of_local_calls() {
        assert_eq!(local("127.0.0.5:8124"), ("127.0.0.5:8124".into(), "127.0.0.1".into()));
        assert_eq!(local("192.0.2.7:8124"), ("192.0.2.7:8124".into(), "192.0.2.7".into()));
        assert_eq!(local("[::1]:8124"), ("[::1]:8124".into(), "::1".into()));
    }

    #[test]
    fn kernel_picks_predicted_source_address() {
        let listener = std::net::TcpListener::bind("127.0.0.5:0").unwrap();
        let callback = Callback::local(listener.local_addr().unwrap());
        let stream = std::net::TcpStream::connect(callback.address).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), callback.source);
    }
}
