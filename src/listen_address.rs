//! Parses the address of a listener.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Parses `HOST:PORT`. A name is looked up.
///
/// # Errors
/// When it is no address, or the name has none.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let resolved = text.to_socket_addrs().map_err(|error| format!("expected HOST:PORT: {error}"))?;
    // A name such as `localhost` may mean several; clients try IPv4 as well, some guests know nothing else.
    let mut addresses: Vec<SocketAddr> = resolved.collect();
    addresses.sort_by_key(|address| matches!(address.ip(), IpAddr::V6(_)));
    addresses.first().copied().ok_or_else(|| "the name has no address".to_owned())
}
