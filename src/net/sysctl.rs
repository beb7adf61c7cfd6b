//! Switches of the kernel for one interface, below `/proc/sys/net`.

use std::{fs, io, path::PathBuf};

/// Between which addresses of the host and which guests: what an interface does not need is off.
pub fn quiet(interface: &str) {
    // What cannot be set (a kernel without IPv6, for one) costs a guest some packets; nothing depends on it, since the
    // rules of `fence.rs` drop them.
    let _ = fs::write(path("ipv6", interface, "disable_ipv6"), "1");
    // Answer for the addresses of this interface alone.
    let _ = fs::write(path("ipv4", interface, "arp_ignore"), "1");
}

/// Whether what arrives on the interface may go out on another.
pub fn forwards(interface: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path("ipv4", interface, "forwarding"))?.trim() != "0")
}

/// Switches that on.
pub fn forward(interface: &str) -> io::Result<()> {
    fs::write(path("ipv4", interface, "forwarding"), "1")
}

/// Switches it off. An interface that is no more forwards nothing.
pub fn stop_forwarding(interface: &str) -> io::Result<()> {
    match fs::write(path("ipv4", interface, "forwarding"), "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn path(family: &str, interface: &str, switch: &str) -> PathBuf {
    ["/proc/sys/net", family, "conf", interface, switch].iter().collect()
}
