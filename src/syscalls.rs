//! System calls around child processes for which no crate has a safe function.

use std::{
    fs, io,
    os::fd::RawFd,
    panic::{self, AssertUnwindSafe},
};

use nix::{
    errno::Errno,
    libc::{self, c_uint},
    sys::signal::{SigHandler, Signal, signal},
    unistd::{self, ForkResult, Pid},
};

/// The last standard descriptor, standard error.
const LAST_STANDARD: RawFd = 2;
/// The threads of this process.
const THREADS: &str = "/proc/self/task";

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

/// The proof that this process has one thread, as long as it starts no other.
#[derive(Debug)]
pub struct SingleThread(());

impl SingleThread {
    /// Counts the threads of this process.
    ///
    /// # Errors
    /// `Unsupported` if there are several.
    pub fn check() -> io::Result<Self> {
        if fs::read_dir(THREADS)?.count() == 1 { Ok(Self(())) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// Runs `child` in a child process, which ends when it returns. Returns the process id.
    ///
    /// # Errors
    /// Those of fork(2).
    pub fn fork(&self, child: impl FnOnce()) -> io::Result<Pid> {
        // SAFETY: no other thread exists that could hold a lock of the allocator or the like.
        if let ForkResult::Parent { child } = unsafe { unistd::fork() }? {
            return Ok(child);
        }
        // No frame of the caller may run twice.
        let _ = panic::catch_unwind(AssertUnwindSafe(child));
        // SAFETY: ends this process without destructors or handlers, which are the parent's.
        unsafe { libc::_exit(1) }
    }
}

fn close_range(first: c_uint, flags: c_uint) -> nix::Result<()> {
    // SAFETY: takes numbers only. With the flags of the callers it closes nothing: it marks descriptors, or the range is
    // empty. Called by number because musl has no such function.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) }).map(drop)
}
