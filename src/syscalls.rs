//! System calls around child processes for which no crate has a safe function.
#![allow(unsafe_code, reason = "the only file of this module with unsafe code")]

use std::{
    io,
    os::fd::{BorrowedFd, IntoRawFd, RawFd},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc::{self, c_uint},
    sched::{self, CloneFlags},
    sys::signal::{SigHandler, Signal, signal},
    unistd,
};

/// The first descriptor after standard input, output and error.
const FIRST_OTHER: c_uint = 3;

/// Restores the default action of every signal. Ignored signals would stay ignored in the executed program.
pub fn reset_signals() {
    for number in Signal::iterator() {
        // SAFETY: installs no handler. Fails without effect for SIGKILL and SIGSTOP.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        // SAFETY: as above. nix has no real-time signals.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Has every descriptor but standard input, output and error closed at exec. Does nothing before Linux 5.11.
pub fn close_others_at_exec() {
    let _ = close_range(FIRST_OTHER, libc::CLOSE_RANGE_CLOEXEC);
}

/// Gives the calling thread a copy of the process's descriptor table, of its own.
///
/// # Errors
/// `PermissionDenied` where a seccomp filter forbids both ways.
pub fn unshare_descriptors() -> io::Result<()> {
    // The default filter of Docker forbids unshare(2).
    Ok(sched::unshare(CloneFlags::CLONE_FILES).or_else(|_| close_range(c_uint::MAX, libc::CLOSE_RANGE_UNSHARE))?)
}

fn close_range(first: c_uint, flags: c_uint) -> nix::Result<()> {
    // SAFETY: takes numbers only. The callers' flags close no descriptor that is open in this process: they mark them, or
    // name a range that is empty. Called by number because musl has no such function.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) }).map(drop)
}

/// Replaces a descriptor of the calling thread's table, which is closed at exec.
///
/// # Safety
/// Nothing that uses this table owns the descriptor.
pub unsafe fn replace(descriptor: RawFd, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the caller's duty.
    let replaced = unsafe { unistd::dup3_raw(by, descriptor, OFlag::O_CLOEXEC) }?;
    let _ = replaced.into_raw_fd();
    Ok(())
}
