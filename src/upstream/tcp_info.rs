//! What the kernel tells of a TCP connection.

use std::{
    mem,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use nix::libc;

/// Returns the round trip, as the kernel has measured it. `None`: it does not tell.
pub fn round_trip(socket: impl AsFd) -> Option<Duration> {
    let (info, length) = tcp_info(socket)?;
    let known = mem::offset_of!(libc::tcp_info, tcpi_rtt) + mem::size_of::<u32>();
    (length >= known && info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

/// Returns how many of the bytes sent the other side has acknowledged, its SYN counted as one (`tcp(7)`, `TCP_INFO`).
/// `None`: the kernel does not tell.
pub fn bytes_acked(socket: impl AsFd) -> Option<u64> {
    let (info, length) = tcp_info(socket)?;
    let known = mem::offset_of!(libc::tcp_info, tcpi_bytes_acked) + mem::size_of::<u64>();
    (length >= known).then_some(info.tcpi_bytes_acked)
}

/// What is under way on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// The other side has not acknowledged everything. A receiver that takes no more is not meant: it says so.
    pub is_unacked: bool,
    /// Bytes that it has acknowledged.
    pub acked: u64,
    /// How often segments were sent again.
    pub sent_again: u32,
    pub round_trip: Duration,
}

/// Returns what is under way. `None`: the kernel does not tell.
pub fn in_flight(socket: impl AsFd) -> Option<InFlight> {
    let (info, length) = tcp_info(socket)?;
    let known = mem::offset_of!(libc::tcp_info, tcpi_bytes_acked) + mem::size_of::<u64>();
    (length >= known).then(|| InFlight {
        is_unacked: info.tcpi_unacked > 0,
        acked: info.tcpi_bytes_acked,
        sent_again: info.tcpi_total_retrans,
        round_trip: Duration::from_micros(info.tcpi_rtt.into()),
    })
}

/// Returns what the kernel tells, and how many bytes of that there are: older kernels know fewer fields.
fn tcp_info(socket: impl AsFd) -> Option<(libc::tcp_info, usize)> {
    // SAFETY: all of its fields are integers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    let fd = socket.as_fd();
    // SAFETY: the descriptor is open as long as it is borrowed; the kernel writes at most `length` bytes, all of `info`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    (result == 0).then_some((info, length as usize))
}
