//! Reports interfaces of this host that are removed, from the kernel's multicast messages.
//!
//! They have a socket of their own: a burst of them overflows its buffer, and would take the answers to requests with it.

use std::{io, time::Duration};

use futures::{StreamExt, future::ready, stream::BoxStream};
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{AddressFamily, RouteNetlinkMessage},
};
use tokio::time::sleep;

/// Until everything in a buffer that has overflowed is read. The kernel reports nothing more before that.
const DRAIN: Duration = Duration::from_millis(500);

/// What has happened to interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface with this index was removed.
    Removed(u32),
    /// The receive buffer had overflowed: any interface may have been removed before this event.
    Missed,
}

/// Yields what happens to interfaces.
pub type LinkEvents = BoxStream<'static, LinkEvent>;

/// Returns a stream of what happens from now on, in the network namespace of this thread.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn link_events() -> io::Result<LinkEvents> {
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
    tokio::spawn(connection);
    let events = messages.filter_map(|(message, _)| ready(event(&message.payload)));
    let settled = events.then(|event| async move {
        if event == LinkEvent::Missed {
            sleep(DRAIN).await;
        }
        event
    });
    Ok(settled.boxed())
}

/// Returns what a message says. A message of another family only says that an interface left a bridge.
fn event(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<LinkEvent> {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
            if link.header.interface_family == AddressFamily::Unspec =>
        {
            Some(LinkEvent::Removed(link.header.index))
        }
        NetlinkPayload::Overrun(_) => Some(LinkEvent::Missed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, thread};

    use tokio::{runtime, time::timeout};

    use super::*;
    use crate::net::{netlink::Netlink, tap::NewTap, tap_setup::tests::isolated};

    #[test]
    fn burst_of_changes_is_noticed_and_costs_no_answer() {
        isolated(|| async {
            let netlink = Netlink::open().unwrap();
            let mut events = link_events().unwrap();
            let tap = NewTap::create(0).unwrap();
            let index = netlink.find(&tap.name).await.unwrap();
            // The kernel reports changes of what is up.
            netlink.set_up(index, Ipv4Addr::new(10, 1, 1, 1)).await.unwrap();
            // This thread waits, so that nothing is read meanwhile.
            let burst = async move || {
                let other = Netlink::open().unwrap();
                for group in 1..2000 {
                    other.set_group(index, group).await.unwrap();
                }
            };
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            thread::spawn(move || runtime.block_on(burst())).join().unwrap();
            let missed = events.by_ref().any(|event| ready(event == LinkEvent::Missed));
            assert!(timeout(Duration::from_secs(10), missed).await.unwrap());
            assert!(netlink.interfaces().await.unwrap().iter().any(|found| found.index == index));
            drop(tap);
            let removed = events.any(|event| ready(event == LinkEvent::Removed(index)));
            assert!(timeout(Duration::from_secs(10), removed).await.unwrap());
        });
    }
}
