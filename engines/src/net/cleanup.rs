//! Removes what a daemon has created in the network: its own at shutdown, and that of a daemon that was killed.

use std::io;

use slog::{Logger, warn};

use super::{
    firewall::{Firewall, Mark},
    netlink::Netlink,
    network::on_thread,
    subnet::Subnet,
    sysctl,
};
use crate::spawner::Spawner;

/// What may exist, according to the journal.
#[derive(Debug, Clone, Default)]
pub struct Leftovers {
    /// The marks of taps, routes and tables of rules.
    pub marks: Vec<Mark>,
    /// Subnets that are reserved by a route, or were about to be.
    pub subnets: Vec<Subnet>,
    /// Interfaces on which forwarding was switched on, or was about to be.
    pub uplinks: Vec<String>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub taps: usize,
    /// Whether nothing is left.
    pub complete: bool,
}

/// Removes `leftovers`, and logs what cannot be removed.
pub(super) async fn clean(netlink: &Netlink, leftovers: &Leftovers, spawner: &Spawner, log: &Logger) -> Cleaned {
    let Leftovers { marks, subnets, uplinks } = leftovers;
    let interfaces = netlink.interfaces().await.unwrap_or_default();
    let is_tap = |group| marks.iter().any(|mark| mark.groups().contains(&group));
    let taps = interfaces.iter().filter(|interface| is_tap(interface.group)).count();
    let mut complete = true;
    let mut note = |what: &str, result: io::Result<()>| {
        if let Err(error) = &result {
            warn!(log, "could not be removed"; "what" => what, "error" => %error);
            complete = false;
        }
        result.is_ok()
    };
    for mark in marks {
        // Taps before the rules, which stay while there may be taps: a guest must not run without them.
        let mut tapless = true;
        for group in mark.groups() {
            tapless &= note("taps", netlink.remove_group(group).await);
        }
        if tapless {
            note("the firewall table", Firewall::remove(spawner, *mark).await);
        }
        for subnet in subnets {
            note("the reserved subnet", netlink.release(*subnet, *mark).await);
            if let Some(link) = subnet.clone_link() {
                note("the route to clones", netlink.stop_diverting(link.guest, *mark).await);
            }
        }
    }
    if !uplinks.is_empty() {
        // After the own table is removed: of two daemons that end at the same time, one at least sees no other.
        match Firewall::guarded_uplinks(spawner).await {
            Ok(others) => {
                for uplink in uplinks.iter().filter(|uplink| !others.contains(uplink)) {
                    note("forwarding", sysctl::stop_forwarding(uplink));
                }
            }
            // Another daemon may depend on it.
            Err(error) => {
                note("forwarding", Err(error));
            }
        }
    }
    Cleaned { taps, complete }
}

/// Removes what a daemon that has ended left behind.
pub async fn clean_up(leftovers: Leftovers, spawner: Spawner, log: Logger) -> io::Result<Cleaned> {
    on_thread(async move || Ok(clean(&Netlink::open()?, &leftovers, &spawner, &log).await)).await?
}
