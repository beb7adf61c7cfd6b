//! What is checked before anything is created: the privilege, and whether the subnet is free on this host.

use super::{
    error::{NetError, refused},
    firewall::Mark,
    netlink::{Netlink, Used},
    subnet::Subnet,
};

/// Fails if an address or a route of this host overlaps `subnet`. Resources that carry the mark `own` do not count.
pub async fn check_conflicts(netlink: &Netlink, subnet: Subnet, own: Mark) -> Result<(), NetError> {
    let mut used = netlink.used(own).await.map_err(refused("netlink"))?;
    used.retain(|used| used.range.overlaps(subnet));
    // Another daemon may end; any other user of the range is permanent, and is reported first.
    used.sort_by_key(|used| used.daemon);
    match used.into_iter().next() {
        Some(Used { by, daemon, .. }) => Err(NetError::Conflict { subnet, used: by, daemon }),
        None => Ok(()),
    }
}

/// Fails if this process lacks CAP_NET_ADMIN.
pub fn check_privilege() -> Result<(), NetError> {
    /// Bit of CAP_NET_ADMIN.
    const BIT: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if mask.is_some_and(|mask| mask & BIT == 0) { Err(NetError::unprivileged()) } else { Ok(()) }
}
