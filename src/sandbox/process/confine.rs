//! What a child process does between fork and exec: it leaves the daemon's session, privileges and descriptors.
//!
//! The only file of the sandboxes with `unsafe`. Only async-signal-safe calls are allowed in the child, and no
//! allocation: another thread may have held the allocator's lock at the moment of the fork.

use std::{io, os::fd::OwnedFd};

use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl,
        resource::{self, Resource},
        signal::Signal,
        stat::{self, Mode},
    },
    unistd::{self, Pid},
};
use tokio::process::Command;

use super::user::Credentials;

/// The first descriptor that is neither standard input nor output nor error.
const FIRST_OWN: libc::c_uint = 3;
/// Descriptors that are closed one by one, where the kernel cannot do it at once.
const MOST_DESCRIPTORS: u64 = 65_536;

/// Everything the child needs, made before the fork.
#[derive(Debug)]
pub struct Confinement {
    credentials: Option<Credentials>,
    capabilities: Option<u64>,
    file_bytes: Option<u64>,
    doors: Vec<OwnedFd>,
    daemon: Pid,
    descriptors: libc::c_uint,
}

impl Confinement {
    /// `doors` are the files by which the child joins its cgroups; without `credentials` it stays who it is, and without
    /// `capabilities`, a bit for each that is left, root can do what root can. `file_size` is in MiB.
    pub fn new(
        credentials: Option<Credentials>,
        capabilities: Option<u64>,
        file_size: Option<u32>,
        doors: Vec<OwnedFd>,
    ) -> Self {
        let limit = resource::getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST_DESCRIPTORS, |(soft, _)| soft);
        Self {
            credentials,
            capabilities,
            file_bytes: file_size.map(|size| u64::from(size) << 20),
            doors,
            daemon: unistd::getpid(),
            descriptors: limit.min(MOST_DESCRIPTORS) as libc::c_uint,
        }
    }

    /// Makes every child of `command` confine itself. The child has its working directory by then, so that it can be
    /// one which the child's user could not reach.
    pub fn apply_to(self, command: &mut Command) {
        // SAFETY: `enter` neither allocates nor locks nor panics, and makes async-signal-safe calls only.
        unsafe { command.pre_exec(move || self.enter()) };
    }

    fn enter(&self) -> io::Result<()> {
        // First, so that not even a page of the program is counted elsewhere.
        for door in &self.doors {
            unistd::write(door, b"0")?;
        }
        unistd::setsid()?;
        stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
        resource::setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        if let Some(bytes) = self.file_bytes {
            resource::setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes)?;
        }
        default_signals();
        drop_ambient_capabilities();
        if let Some(most) = self.capabilities {
            bound_capabilities(most);
        }
        if let Some(Credentials { uid, gid, groups }) = &self.credentials {
            unistd::setgroups(groups)?;
            unistd::setgid(*gid)?;
            unistd::setuid(*uid)?;
        }
        // After the change of credentials, which resets it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The daemon may have gone before it was set.
        if unistd::getppid() != self.daemon {
            return Err(Errno::ESRCH.into());
        }
        prctl::set_no_new_privs()?;
        close_at_exec(self.descriptors);
        Ok(())
    }
}

/// Ignored signals would stay ignored over exec. The mask is emptied by std.
fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: sets no handler; fails without effect for those that cannot be changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A daemon that was granted CAP_NET_ADMIN by its service manager does not hand it to functions.
fn drop_ambient_capabilities() {
    // SAFETY: takes and returns numbers; fails without effect on kernels that have no such set.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
}

/// What is not in the bounding set is gone with the next exec, also for root.
fn bound_capabilities(most: u64) {
    for capability in (0..u64::BITS).filter(|bit| most & (1 << bit) == 0) {
        // SAFETY: takes numbers only; fails without effect for those that the kernel does not know, and without root.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    }
}

/// Marks instead of closing: std reports a failed exec over a pipe that must live until then.
fn close_at_exec(descriptors: libc::c_uint) {
    // SAFETY: takes numbers only. Called by number because not every libc has the function.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST_OWN, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // Before Linux 5.11.
    if marked != 0 {
        for descriptor in FIRST_OWN..descriptors {
            // SAFETY: takes numbers only; fails without effect for those that are not open.
            unsafe { libc::fcntl(descriptor as libc::c_int, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}
