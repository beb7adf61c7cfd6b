//! Reports removed interfaces and deleted nftables tables, from the kernel's multicast messages.
//!
//! Each kind has a socket of its own: a burst of messages overflows its buffer, and would take other messages, or the
//! answers to requests, with it.

use std::{io, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use nix::libc::{AF_UNSPEC, ENOBUFS, RTM_DELLINK, RTNLGRP_LINK};
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, Socket, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use tokio::time::sleep;

/// `NFNLGRP_NFTABLES`
const NFT_GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_DELTABLE`
const TABLE_DELETED: u16 = 10 << 8 | 2;
/// Size of a message header: length (`u32`), type (`u16`), and fields that are not needed here.
const HEADER: usize = 16;
/// Between an error of a socket other than an overflow and the next attempt to read it.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What a stream of events yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<T> {
    /// The kernel has reported this.
    Reported(T),
    /// The receive buffer had overflowed: anything may have happened before this event.
    Missed,
}

/// Yields events of one kind. It does not end.
pub type Events<T> = BoxStream<'static, Event<T>>;

/// Returns a stream of the indices of interfaces that are removed from now on, in the network namespace of this thread.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn removed_interfaces() -> io::Result<Events<u32>> {
    Ok(events(listen(NETLINK_ROUTE, RTNLGRP_LINK)?, removed_interface))
}

fn removed_interface(kind: u16, body: &[u8]) -> Option<u32> {
    match *body {
        // A message of another family only says that an interface left a bridge.
        [family, _, _, _, a, b, c, d, ..] if kind == RTM_DELLINK && i32::from(family) == AF_UNSPEC => {
            Some(u32::from_ne_bytes([a, b, c, d]))
        }
        _ => None,
    }
}

/// Returns a stream of deletions of nftables tables, of any owner, from now on. A script that reloads a host's firewall
/// begins with `flush ruleset`, which deletes every table, this daemon's included.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn deleted_tables() -> io::Result<Events<()>> {
    Ok(events(listen(NETLINK_NETFILTER, NFT_GROUP)?, deleted_table))
}

fn deleted_table(kind: u16, _: &[u8]) -> Option<()> {
    (kind == TABLE_DELETED).then_some(())
}

/// Opens a socket that receives the messages of a multicast group.
fn listen(protocol: isize, group: u32) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    socket.socket_mut().add_membership(group)?;
    Ok(socket)
}

/// Returns a stream of what `parse` makes of the types and bodies of a socket's messages.
fn events<T: Send + 'static>(socket: TokioSocket, parse: fn(u16, &[u8]) -> Option<T>) -> Events<T> {
    let received = stream::unfold(socket, move |socket| async move {
        let events = match socket.recv_from_full().await {
            Ok((datagram, _)) => {
                messages(&datagram).filter_map(|(kind, body)| parse(kind, body)).map(Event::Reported).collect()
            }
            Err(error) => {
                if error.raw_os_error() != Some(ENOBUFS) {
                    sleep(RETRY_INTERVAL).await;
                }
                empty(socket.socket_ref());
                vec![Event::Missed]
            }
        };
        Some((stream::iter(events), socket))
    });
    received.flatten().boxed()
}

/// Discards what is in the receive buffer. After an overflow, the kernel reports nothing before the buffer is empty.
fn empty(socket: &Socket) {
    let is_more = |read: io::Result<usize>| read.map_or_else(|error| error.raw_os_error() == Some(ENOBUFS), |_| true);
    while is_more(socket.recv(&mut Vec::new(), 0)) {}
}

/// Returns the types and bodies of the messages of a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d, kind_a, kind_b, ..] = datagram.get(..HEADER)? else { return None };
        let length = (u32::from_ne_bytes([a, b, c, d]) as usize).max(HEADER);
        let body = datagram.get(HEADER..length.min(datagram.len()))?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind_a, kind_b]), body))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Debug,
        io::Write,
        net::Ipv4Addr,
        process::{Command, Stdio},
        thread,
    };

    use tokio::{runtime, time::timeout};

    use super::*;
    use crate::net::{netlink::Netlink, tap::NewTap, tap_setup::tests::isolated};

    fn message(kind: u16, body: usize) -> Vec<u8> {
        let length = u32::try_from(HEADER + body).unwrap().to_ne_bytes();
        let mut message = [&length[..], &kind.to_ne_bytes(), &[0; HEADER - 6][..], &vec![0xff; body]].concat();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn found(datagram: &[u8]) -> Vec<(u16, usize)> {
        messages(datagram).map(|(kind, body)| (kind, body.len())).collect()
    }

    #[test]
    fn finds_every_message_of_a_datagram() {
        let datagram = [message(0x0a00, 5), message(TABLE_DELETED, 0), message(0x0a0f, 40)].concat();
        assert_eq!(found(&datagram), [(0x0a00, 5), (TABLE_DELETED, 0), (0x0a0f, 40)]);
    }

    #[test]
    fn terminates_on_malformed_messages() {
        for length in 0..=HEADER + 1 {
            let count = usize::from(length >= HEADER);
            assert_eq!([0, 0xff].map(|byte| found(&vec![byte; length]).len()), [count; 2]);
        }
    }

    /// Returns the next event, except reports of what the test did not cause.
    async fn next<T: Debug + PartialEq>(events: &mut Events<T>, expected: &[Event<T>]) -> Event<T> {
        let mut wanted = events.filter(|event| futures::future::ready(expected.contains(event)));
        timeout(Duration::from_secs(30), wanted.next()).await.expect("an event is reported").unwrap()
    }

    /// Opens a socket with a receive buffer that a burst overflows, whatever the host's default is.
    fn small(protocol: isize, group: u32) -> TokioSocket {
        let socket = listen(protocol, group).unwrap();
        socket.socket_ref().set_rx_buf_sz(32_u32 << 10).unwrap();
        socket
    }

    #[test]
    fn interface_that_is_removed_after_an_overflow_is_reported() {
        isolated(|| async {
            let netlink = Netlink::open().unwrap();
            let mut events = events(small(NETLINK_ROUTE, RTNLGRP_LINK), removed_interface);
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
            let expected = [Event::Missed, Event::Reported(index)];
            assert_eq!(next(&mut events, &expected).await, Event::Missed);
            assert!(netlink.interfaces().await.unwrap().iter().any(|found| found.index == index));
            drop(tap);
            assert_eq!(next(&mut events, &expected).await, Event::Reported(index));
        });
    }

    /// Runs nft in the network namespace of this thread.
    fn nft(commands: &str) {
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn table_that_is_deleted_after_an_overflow_is_reported() {
        isolated(|| async {
            let mut events = events(small(NETLINK_NETFILTER, NFT_GROUP), deleted_table);
            // The rules overflow the buffer.
            let rules = "add rule inet t c counter accept\n".repeat(20_000);
            nft(&format!("add table inet other\nadd table inet t\nadd chain inet t c\n{rules}"));
            let expected = [Event::Missed, Event::Reported(())];
            assert_eq!(next(&mut events, &expected).await, Event::Missed);
            nft("delete table inet other\n");
            assert_eq!(next(&mut events, &expected).await, Event::Reported(()));
        });
    }
}
