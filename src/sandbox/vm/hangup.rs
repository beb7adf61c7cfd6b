//! Breaks off the daemon's connections to a guest that is no more.
//!
//! A process that ends has its connections reset by the kernel. A virtual machine just falls silent, and whoever waits
//! for its answer would wait until their patience ends.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Shutdown, TcpStream},
    os::fd::{BorrowedFd, RawFd},
};

/// Ends every connection of this process to `guest`. Looks at all descriptors: not for the actors' thread.
pub fn hang_up(guest: Ipv4Addr) {
    let descriptors = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let sockets = descriptors.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    });
    for number in sockets.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok()) {
        // Its owner may close it at any moment, and the number may become another file: a copy stays what it is.
        // SAFETY: borrowed for one call, which fails without effect where nothing is open.
        let copy = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().map(TcpStream::from);
        let Ok(socket) = copy else { continue };
        if socket.peer_addr().is_ok_and(|peer| peer.ip() == IpAddr::V4(guest)) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener};

    use super::*;

    #[test]
    fn connections_to_the_guest_end_and_no_others() {
        let open = |address: &str| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (stream, listener)
        };
        let (mut gone, _silent) = open("127.0.0.91");
        let (mut other, _also_silent) = open("127.0.0.92");
        hang_up(Ipv4Addr::new(127, 0, 0, 91));
        assert_eq!(gone.read(&mut [0]).unwrap(), 0);
        other.set_nonblocking(true).unwrap();
        assert_eq!(other.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
