//! The user id of a connection's peer, if it is on this host, from the kernel's socket diagnostics.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    sys::time::{TimeVal, TimeValLike},
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
/// Of an `nlmsghdr` and an `inet_diag_req_v2` (see `linux/inet_diag.h`).
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
/// Where the user is in an answer, an `inet_diag_msg` behind an `nlmsghdr`.
const UID: usize = HEADER + 64;
/// The kernel answers before `send` returns.
const PATIENCE_MS: i64 = 100;

/// The user who has opened the socket at `peer` that is connected to `local`.
///
/// # Errors
/// When there is no such socket on this host.
pub fn of(peer: SocketAddr, local: SocketAddr) -> io::Result<u32> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &question(peer, local), &kernel, MsgFlags::empty())?;
    let mut answer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    uid(&answer[..length]).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn question(peer: SocketAddr, local: SocketAddr) -> [u8; REQUEST] {
    let (peer_ip, local_ip) = (peer.ip().to_canonical(), local.ip().to_canonical());
    let family = if peer_ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = [0; REQUEST];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &(REQUEST as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(HEADER, &[family as u8, libc::IPPROTO_TCP as u8]);
    // In any state.
    put(HEADER + 4, &u32::MAX.to_ne_bytes());
    // What follows is seen from the socket that is asked for.
    put(HEADER + 8, &peer.port().to_be_bytes());
    put(HEADER + 10, &local.port().to_be_bytes());
    put(HEADER + 12, &octets(peer_ip));
    put(HEADER + 28, &octets(local_ip));
    // Of any interface, and without a cookie.
    put(HEADER + 48, &[0xff; 8]);
    bytes
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
    }
}

fn uid(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    // Anything else is an error.
    (kind == SOCK_DIAG_BY_FAMILY).then(|| answer.get(UID..UID + 4)?.try_into().ok().map(u32::from_ne_bytes))?
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_of_this_process_is_ours() {
        for (at, to) in
            [("127.0.0.1:0", "127.0.0.1"), ("127.0.0.5:0", "127.0.0.5"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")]
        {
            // Not every host has an IPv6.
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let address = SocketAddr::new(to.parse().unwrap(), listener.local_addr().unwrap().port());
            let _client = TcpStream::connect(address).unwrap();
            let (served, peer) = listener.accept().unwrap();
            let user = of(peer, served.local_addr().unwrap()).unwrap();
            assert_eq!(user, nix::unistd::getuid().as_raw(), "{at}");
        }
    }

    #[test]
    fn a_socket_that_is_not_there_belongs_to_nobody() {
        let nowhere = "127.0.0.1:1".parse().unwrap();
        assert!(of(nowhere, nowhere).is_err());
        assert_eq!(uid(&[]), None);
    }
}
