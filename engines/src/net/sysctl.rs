//! Kernel switches of one interface, below `/proc/sys/net`.

use std::{fs, io, path::PathBuf};

/// Switches off IPv6, and ARP replies for addresses of other interfaces. Failures are ignored.
pub fn quiet(interface: &str) {
    // Without it (a kernel without IPv6, for instance) a guest receives a few packets more; `firewall.rs` drops what it
    // sends.
    let _ = fs::write(path("ipv6", interface, "disable_ipv6"), "1");
    let _ = fs::write(path("ipv4", interface, "arp_ignore"), "1");
}

/// Accepts packets from a source to which the best route is another interface. The kernel takes the higher of this value
/// and that for all interfaces, and this is the highest.
pub fn accept_any_route_back(interface: &str) -> io::Result<()> {
    fs::write(path("ipv4", interface, "rp_filter"), "2")
}

/// Returns whether packets that arrive on the interface are forwarded.
pub fn forwards(interface: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path("ipv4", interface, "forwarding"))?.trim() != "0")
}

/// Switches forwarding on.
pub fn forward(interface: &str) -> io::Result<()> {
    fs::write(path("ipv4", interface, "forwarding"), "1")
}

/// Switches forwarding off. A missing interface is no error.
pub fn stop_forwarding(interface: &str) -> io::Result<()> {
    match fs::write(path("ipv4", interface, "forwarding"), "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn path(family: &str, interface: &str, switch: &str) -> PathBuf {
    ["/proc/sys/net", family, "conf", interface, switch].iter().collect()
}
