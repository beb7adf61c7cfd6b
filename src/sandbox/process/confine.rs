//! What a child process does before it executes its program: it leaves the daemon's session, privileges, descriptors and
//! working directory.
//!
//! Only async-signal-safe calls are allowed here, no allocation and no lock: until it executes, the child lives in the
//! daemon's memory (`child.rs`).

use std::{
    ffi::CString,
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::LazyLock,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl,
        resource::{self, Resource},
        signal::Signal,
        stat::{self, Mode},
    },
    unistd::{self, Gid, Pid, Uid},
};

use super::user::Credentials;
use crate::{
    host::{open_files, signals},
    sandbox::ports,
};

/// The first descriptor that is neither standard input nor output nor error.
const FIRST_OWN: libc::c_uint = 3;
/// Descriptors that are closed one by one, where the kernel cannot do it at once.
const MOST_DESCRIPTORS: u64 = 65_536;

/// Everything the child needs, made before there is one.
#[derive(Debug)]
pub struct Confinement {
    credentials: Option<Credentials>,
    capabilities: Option<u64>,
    file_bytes: Option<u64>,
    join_fds: Vec<OwnedFd>,
    directory: CString,
    port: Option<u16>,
    daemon: Pid,
    descriptors: libc::c_uint,
    signals: &'static [libc::c_int],
    /// The limit on open files, soft and hard, if it is not to be the daemon's.
    open_files: Option<(u64, u64)>,
}

impl Confinement {
    /// The child works in `directory`, which it enters first, so that it can be one which the child's user could not
    /// reach. `join_fds` are the files by which the child joins its cgroups; without `credentials` it stays who it is, and without
    /// `capabilities`, a bit for each that is left, root can do what root can. `file_size` is in MiB. `port` is
    /// the one at which the program will listen, on this host.
    ///
    /// # Errors
    /// `InvalidInput` if the path of the directory contains a zero byte.
    pub fn new(
        directory: &Path,
        credentials: Option<Credentials>,
        capabilities: Option<u64>,
        file_size: Option<u32>,
        join_fds: Vec<OwnedFd>,
        port: Option<u16>,
    ) -> io::Result<Self> {
        let limit = resource::getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST_DESCRIPTORS, |(soft, _)| soft);
        Ok(Self {
            credentials,
            capabilities,
            file_bytes: file_size.map(|size| u64::from(size) << 20),
            join_fds,
            directory: CString::new(directory.as_os_str().as_bytes())?,
            port,
            daemon: unistd::getpid(),
            descriptors: limit.min(MOST_DESCRIPTORS) as libc::c_uint,
            signals: &SET,
            open_files: open_files::inherited(),
        })
    }

    /// To be called by the child.
    pub fn enter(&self) -> Result<(), Errno> {
        unistd::chdir(self.directory.as_c_str())?;
        // Early, so that not even a page of the program is counted elsewhere.
        for join_fd in &self.join_fds {
            unistd::write(join_fd, b"0")?;
        }
        unistd::setsid()?;
        stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
        resource::setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        if let Some((soft, hard)) = self.open_files {
            resource::setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        }
        if let Some(bytes) = self.file_bytes {
            resource::setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes)?;
        }
        default_signals(self.signals);
        drop_ambient_capabilities();
        if let Some(most) = self.capabilities {
            bound_capabilities(most);
        }
        if let Some(Credentials { uid, gid, groups }) = &self.credentials {
            become_user(*uid, *gid, groups)?;
            // Nor may its new user trace it while the daemon's memory is its own; that is how most systems are set anyway.
            prctl::set_dumpable(false)?;
        }
        // After the change of credentials, which resets it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The daemon may have gone before it was set.
        if unistd::getppid() != self.daemon {
            return Err(Errno::ESRCH);
        }
        prctl::set_no_new_privs()?;
        close_at_exec(self.descriptors);
        self.port.into_iter().for_each(ports::wait_until_free);
        Ok(())
    }
}

/// The C library's functions of these names have all threads of a process change, and would take the daemon's for the
/// child's. These change who calls them.
fn become_user(uid: Uid, gid: Gid, groups: &[Gid]) -> Result<(), Errno> {
    // Where there are two of a kind, the older one has numbers of 16 bits.
    #[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
    use libc::{SYS_setgid as SETGID, SYS_setgroups as SETGROUPS, SYS_setuid as SETUID};
    #[cfg(any(target_arch = "x86", target_arch = "arm"))]
    use libc::{SYS_setgid32 as SETGID, SYS_setgroups32 as SETGROUPS, SYS_setuid32 as SETUID};

    // SAFETY: `Gid` is a `gid_t` (nix declares it transparent), and there are as many as said; the others are numbers.
    unsafe {
        Errno::result(libc::syscall(SETGROUPS, groups.len(), groups.as_ptr()))?;
        Errno::result(libc::syscall(SETGID, gid.as_raw()))?;
        Errno::result(libc::syscall(SETUID, uid.as_raw()))?;
    }
    Ok(())
}

/// Signals that do not have their default effect on the daemon: ignored ones would stay ignored over exec, and no handler
/// may run in the child. The daemon sets its handlers before the first start, all but the one for its children's ends.
static SET: LazyLock<Vec<libc::c_int>> = LazyLock::new(|| {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_set = set_signals(&status).map_or(u64::MAX, |set| set | 1 << (libc::SIGCHLD - 1));
    (1..=libc::SIGRTMAX()).filter(|signal| is_set & (1 << (signal - 1)) != 0).collect()
});

/// The ignored and the caught ones in `/proc/<pid>/status`, a bit for each.
fn set_signals(status: &str) -> Option<u64> {
    Some(signals::mask(status, "SigIgn")? | signals::mask(status, "SigCgt")?)
}

fn default_signals(set: &[libc::c_int]) {
    for signal in set {
        // SAFETY: sets no handler; fails without effect for those that cannot be changed.
        unsafe { libc::signal(*signal, libc::SIG_DFL) };
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

/// Marks instead of closing: the directory of a script may still have to be read.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_from_the_table_of_the_kernel() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000440\n";
        assert_eq!(set_signals(status), Some(0x1440));
        assert_eq!(set_signals("SigIgn:\t0\n"), None);
        // What Rust programs ignore, and what they catch.
        assert!(SET.contains(&libc::SIGPIPE) && SET.contains(&libc::SIGSEGV) && !SET.contains(&libc::SIGUSR2));
    }
}
