//! Reports deletions of nftables tables, from the kernel's multicast messages.
//!
//! A script that reloads a host's firewall begins with `flush ruleset`, which deletes every table, this daemon's
//! included. `tap_manager.rs` then installs the table again.

use std::io;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_NETFILTER};

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_DELTABLE`
const DELETED: u16 = 10 << 8 | 2;
/// Size of a message header: length (`u32`), type (`u16`), and fields that are not needed here.
const HEADER: usize = 16;

/// Yields an item whenever a table, of any owner, may have been deleted.
pub type Deletions = BoxStream<'static, ()>;

/// Returns a stream of deletions from now on.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn deletions() -> io::Result<Deletions> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    socket.socket_mut().add_membership(GROUP)?;
    let deletions = stream::unfold(socket, |socket| async move {
        loop {
            match socket.recv_from_full().await {
                Ok((messages, _)) if !contain_deletion(&messages) => {}
                // The receive buffer has overflowed: messages are lost.
                Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => return None,
                Ok(_) | Err(_) => return Some(((), socket)),
            }
        }
    });
    Ok(deletions.boxed())
}

/// Returns whether one of these messages reports a deleted table.
fn contain_deletion(mut messages: &[u8]) -> bool {
    while let Some(&[a, b, c, d, kind_a, kind_b, ..]) = messages.get(..HEADER) {
        if u16::from_ne_bytes([kind_a, kind_b]) == DELETED {
            return true;
        }
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        messages = messages.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: usize) -> Vec<u8> {
        let length = u32::try_from(HEADER + body).unwrap().to_ne_bytes();
        let mut message = [&length[..], &kind.to_ne_bytes(), &[0; HEADER - 6][..], &vec![0xff; body]].concat();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn finds_deletion_among_other_messages() {
        let others = [message(0x0a00, 5), message(0x0a08, 0), message(0x0a0f, 40)].concat();
        assert!(!contain_deletion(&others));
        assert!(contain_deletion(&[others.clone(), message(DELETED, 12)].concat()));
        assert!(contain_deletion(&[message(DELETED, 3), others].concat()));
    }

    #[test]
    fn terminates_on_malformed_messages() {
        for length in 0..=HEADER + 1 {
            assert!(!contain_deletion(&vec![0; length]));
            assert!(!contain_deletion(&vec![0xff; length]));
        }
    }
}
