//! What the kernel tells of a TCP connection.

use std::{
    mem,
    os::fd::{AsFd, AsRawFd},
};

use nix::libc;

/// Returns how many of the bytes sent the other side has acknowledged, its SYN counted as one (`tcp(7)`, `TCP_INFO`).
/// `None`: the kernel does not tell.
pub fn bytes_acked(socket: impl AsFd) -> Option<u64> {
    // SAFETY: all of its fields are integers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    let fd = socket.as_fd();
    // SAFETY: the descriptor is open as long as it is borrowed; the kernel writes at most `length` bytes, all of `info`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    // Older kernels know fewer fields.
    let known = mem::offset_of!(libc::tcp_info, tcpi_bytes_acked) + mem::size_of::<u64>();
    (result == 0 && length as usize >= known).then_some(info.tcpi_bytes_acked)
}
