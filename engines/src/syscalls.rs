//! System calls around child processes for which no crate has a safe function.
//!
//! - `child.rs`: a child in the memory of its creator, until it executes its program.
//! - `steps.rs`: what it does meanwhile; `launch.rs`: the parameters, and which step failed.

mod child;
mod launch;
mod steps;

use std::{fs, os::fd::RawFd};

use nix::{
    errno::Errno,
    libc::{self, c_uint},
    sys::signal::{SigHandler, Signal, signal},
};

pub use child::{NewChild, STANDARD};
pub use launch::{Confinement, Failed, Launch, Program, Step};

/// The first descriptor after standard input, output and error.
const FIRST_OTHER: RawFd = 3;
/// The descriptors of this process.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Restores the default action of every signal. Ignored signals would stay ignored in executed programs.
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

/// Has every descriptor but standard input, output and error closed at exec.
pub fn close_others_at_exec() {
    // SAFETY: takes numbers only, and marks descriptors instead of closing them. Called by number because musl has no such
    // function.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER as c_uint, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if Errno::result(marked).is_ok() {
        return;
    }
    // Before Linux 5.11.
    let entries = fs::read_dir(DESCRIPTORS).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number >= FIRST_OTHER) {
        // SAFETY: changes a flag of a descriptor, or fails for that of the directory, which is closed by now.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
