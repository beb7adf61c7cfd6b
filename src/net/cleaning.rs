//! Taking back what a daemon has, or had, in the network: its own at the end, and that of one which could not.

use std::io;

use slog::{Logger, warn};
use tokio::sync::oneshot;

use super::{
    fence::{Fence, Mark},
    link::Netlink,
    on_thread,
    subnet::Subnet,
    sysctl,
};

/// What there may be.
#[derive(Debug, Clone, Default)]
pub struct Remains {
    pub marks: Vec<Mark>,
    /// Ranges that are, or were about to be, reserved.
    pub subnets: Vec<Subnet>,
    /// Interfaces on which forwarding is, or was about to be, switched on.
    pub uplinks: Vec<String>,
}

/// What there was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub taps: usize,
    /// Whether all of it could be removed.
    pub whole: bool,
}

/// Removes all that is there of it; what cannot be is logged.
pub(super) async fn clean(netlink: &Netlink, remains: &Remains, log: &Logger) -> Cleaned {
    let Remains { marks, subnets, uplinks } = remains;
    let groups: Vec<u32> = marks.iter().flat_map(|mark| [mark.closed(), mark.open()]).collect();
    let interfaces = netlink.interfaces().await.unwrap_or_default();
    let taps = interfaces.iter().filter(|interface| groups.contains(&interface.group)).count();
    let mut whole = true;
    let mut note = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            warn!(log, "could not be removed"; "what" => what, "error" => %error);
            whole = false;
        }
    };
    // Interfaces first: without the rules their guests would be free.
    for group in groups {
        note("taps", netlink.remove_group(group).await);
    }
    for mark in marks {
        note("the table of rules", Fence::lower(*mark));
        for subnet in subnets {
            note("the reserved subnet", netlink.release(*subnet, *mark).await);
        }
    }
    if !uplinks.is_empty() {
        // After that, so that of two daemons that end at the same moment one at least is the last.
        let others = Fence::guarded();
        for uplink in uplinks.iter().filter(|uplink| !others.contains(uplink)) {
            note("forwarding", sysctl::stop_forwarding(uplink));
        }
    }
    Cleaned { taps, whole }
}

/// The same for a daemon that is no more.
pub async fn clean_up(remains: Remains, log: Logger) -> io::Result<Cleaned> {
    let (done, answer) = oneshot::channel();
    on_thread(async move {
        let cleaned = match Netlink::open() {
            Ok(netlink) => Ok(clean(&netlink, &remains, &log).await),
            Err(error) => Err(error),
        };
        let _ = done.send(cleaned);
    })?;
    answer.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}
