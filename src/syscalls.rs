//! System calls around child processes for which no crate has a safe function.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::OFlag,
    libc::{self, c_uint},
    sched::{self, CloneFlags},
    sys::{
        signal::{SigHandler, Signal, signal},
        stat::Mode,
    },
    unistd,
};

/// The last standard descriptor, standard error.
const LAST_STANDARD: RawFd = 2;
/// The descriptor table of the calling thread.
const OWN_DESCRIPTORS: &str = "/proc/thread-self/fd";

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
    let _ = close_range(LAST_STANDARD as c_uint + 1, libc::CLOSE_RANGE_CLOEXEC);
}

/// Gives the calling thread a descriptor table of its own, with standard input, output and error, and the returned copy of
/// `kept`. Threads that it creates will share it.
///
/// All other descriptors are replaced by a socket on which nothing is ever sent. So their numbers are not reused, and a
/// runtime on this thread gets no signals: it would wake the tasks that wait for them by a descriptor of the other table.
///
/// # Errors
/// `PermissionDenied` where a seccomp filter forbids it.
pub fn isolate_descriptors(kept: &UnixStream) -> io::Result<UnixStream> {
    // The default filter of Docker forbids unshare(2).
    sched::unshare(CloneFlags::CLONE_FILES).or_else(|_| close_range(c_uint::MAX, libc::CLOSE_RANGE_UNSHARE))?;
    let inherited = descriptors()?;
    let kept = kept.try_clone()?;
    let (silent, other_end) = UnixStream::pair()?;
    silent.set_nonblocking(true)?;
    for descriptor in inherited.into_iter().filter(|descriptor| *descriptor > LAST_STANDARD) {
        replace(descriptor, silent.as_fd())?;
    }
    // Both ends stay open as long as the thread.
    let _ = (silent.into_raw_fd(), other_end.into_raw_fd());
    Ok(kept)
}

/// Returns the open descriptors of this thread.
fn descriptors() -> io::Result<Vec<RawFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::open(OWN_DESCRIPTORS, flags, Mode::empty())?;
    let own = directory.as_raw_fd();
    let entries = directory.iter().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok());
    Ok(numbers.filter(|number| *number != own).collect())
}

/// Replaces a descriptor of a table that belongs to the calling thread alone. The new one is closed at exec.
fn replace(descriptor: RawFd, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: values that own the descriptor are used by other threads, in their table, where it stays open.
    let replaced = unsafe { unistd::dup3_raw(by, descriptor, OFlag::O_CLOEXEC) }?;
    let _ = replaced.into_raw_fd();
    Ok(())
}

fn close_range(first: c_uint, flags: c_uint) -> nix::Result<()> {
    // SAFETY: takes numbers only. With the flags of the callers it closes nothing: it marks descriptors, or the range is
    // empty. Called by number because musl has no such function.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) }).map(drop)
}
