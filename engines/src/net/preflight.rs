//! What is checked before anything is created: the privilege, and whether the subnet is free on this host.

use rustix::thread::CapabilitySet;

use super::{
    error::{NetError, refused},
    firewall::Mark,
    netlink::{Netlink, Used},
    subnet::Subnet,
};
use crate::host::privileges::Privileges;

/// Fails if an address or a route of this host overlaps `subnet`. Resources that carry the mark `own` do not count, and if
/// the range `is_shared`, those of other daemons do not, either.
pub async fn check_conflicts(netlink: &Netlink, subnet: Subnet, own: Mark, is_shared: bool) -> Result<(), NetError> {
    let mut used = netlink.used(own).await.map_err(refused("netlink"))?;
    used.retain(|used| used.range.overlaps(subnet) && !(is_shared && used.daemon));
    // Another daemon may end; any other user of the range is permanent, and is reported first.
    used.sort_by_key(|used| used.daemon);
    match used.into_iter().next() {
        Some(Used { by, daemon, .. }) => Err(NetError::Conflict { subnet, used: by, daemon }),
        None => Ok(()),
    }
}

/// Fails if this process lacks CAP_NET_ADMIN.
pub fn check_privilege() -> Result<(), NetError> {
    if Privileges::own().has(CapabilitySet::NET_ADMIN) { Ok(()) } else { Err(NetError::unprivileged()) }
}
