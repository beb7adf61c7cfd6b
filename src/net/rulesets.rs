//! Tells when tables of nftables are deleted, as the kernel reports it.
//!
//! Whoever loads a host's firewall anew begins with `flush ruleset`, which takes every table away, ours included. What
//! becomes of that is the business of `keeper.rs`.

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
/// Of a message: its length (`u32`), its type (`u16`), and what does not matter here.
const HEADER: usize = 16;

/// An item whenever a table may have been deleted, anybody's.
pub type Deletions = BoxStream<'static, ()>;

/// What is deleted from now on.
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
                Ok((messages, _)) if !tell_of_deletion(&messages) => {}
                // There were more than the kernel keeps for us.
                Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => return None,
                Ok(_) | Err(_) => return Some(((), socket)),
            }
        }
    });
    Ok(deletions.boxed())
}

/// Whether one of these messages of the kernel is about a table that is no more.
fn tell_of_deletion(mut messages: &[u8]) -> bool {
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
    fn a_deletion_is_found_among_other_messages() {
        let others = [message(0x0a00, 5), message(0x0a08, 0), message(0x0a0f, 40)].concat();
        assert!(!tell_of_deletion(&others));
        assert!(tell_of_deletion(&[others.clone(), message(DELETED, 12)].concat()));
        assert!(tell_of_deletion(&[message(DELETED, 3), others].concat()));
    }

    #[test]
    fn any_bytes_have_an_end() {
        for length in 0..=HEADER + 1 {
            assert!(!tell_of_deletion(&vec![0; length]));
            assert!(!tell_of_deletion(&vec![0xff; length]));
        }
    }
}
