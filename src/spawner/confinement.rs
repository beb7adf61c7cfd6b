//! What a forked child does before it executes its program: it gives up the daemon's session, user and privileges, and
//! joins its cgroups.
//!
//! The spawner process has one thread. So its children may allocate, and do anything else that needs no other thread.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::Command,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{self, Resource},
        signal::{SigSet, Signal},
        stat::{self, Mode},
    },
    unistd::{self, Gid, Pid, Uid},
};
use rustix::thread::{self, CapabilitySet};
use serde::{Deserialize, Serialize};

use super::protocol::{EXEC, Failure, Launch, STANDARD, at};
use crate::syscalls;

/// What a child gives up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Confinement {
    /// User, group and supplementary groups. `None` keeps those of the daemon.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// The capabilities that root keeps, a bit for each. `None` keeps all.
    pub capabilities: Option<u64>,
    /// The largest file that it may write, in bytes.
    pub file_size: Option<u64>,
    /// The limit on open files, soft and hard. `None` keeps that of the daemon.
    pub open_files: Option<(u64, u64)>,
    /// The files by which it joins its cgroups.
    pub cgroups: Vec<PathBuf>,
}

/// Executes a program in this process, a child of `spawner`. Returns only after an error.
pub fn execute(
    launch: Launch,
    [stdin, stdout, stderr]: [OwnedFd; STANDARD],
    spawner: Pid,
) -> Result<Infallible, Failure> {
    let Launch { invocation, directory, confinement } = launch;
    unistd::dup2_stdin(stdin).map_err(at("dup2"))?;
    unistd::dup2_stdout(stdout).map_err(at("dup2"))?;
    unistd::dup2_stderr(stderr).map_err(at("dup2"))?;
    // As the daemon's user, since the child's may be unable to reach it.
    unistd::chdir(directory.as_os_str()).map_err(at("chdir"))?;
    unistd::setsid().map_err(at("setsid"))?;
    syscalls::reset_signals();
    confinement.as_ref().map_or(Ok(()), Confinement::enter)?;
    // After the change of the user, which resets it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("prctl"))?;
    // The spawner may have ended before.
    if unistd::getppid() != spawner {
        return Err(at("getppid")(Errno::ESRCH));
    }
    syscalls::close_others_at_exec();
    SigSet::empty().thread_set_mask().map_err(at("sigprocmask"))?;
    let mut command = Command::new(invocation.program);
    command.arg0(invocation.name).args(invocation.arguments).env_clear().envs(invocation.env);
    Err(at(EXEC)(command.exec()))
}

impl Confinement {
    fn enter(&self) -> Result<(), Failure> {
        // Early, so that no memory of the program is charged elsewhere.
        for file in &self.cgroups {
            File::options().write(true).open(file).and_then(|mut file| file.write_all(b"0")).map_err(at("cgroup"))?;
        }
        stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
        let limit = |resource, soft, hard| resource::setrlimit(resource, soft, hard).map_err(at("setrlimit"));
        limit(Resource::RLIMIT_CORE, 0, 0)?;
        self.open_files.map_or(Ok(()), |(soft, hard)| limit(Resource::RLIMIT_NOFILE, soft, hard))?;
        self.file_size.map_or(Ok(()), |bytes| limit(Resource::RLIMIT_FSIZE, bytes, bytes))?;
        // Fails on kernels without ambient capabilities, where there are none to clear.
        let _ = thread::clear_ambient_capability_set();
        self.capabilities.into_iter().for_each(bound_capabilities);
        if let Some((uid, gid, groups)) = &self.user {
            become_user(Uid::from_raw(*uid), Gid::from_raw(*gid), groups)?;
        }
        prctl::set_no_new_privs().map_err(at("prctl"))
    }
}

fn become_user(uid: Uid, gid: Gid, groups: &[u32]) -> Result<(), Failure> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    // So that the program can open /dev/stdout.
    unistd::fchown(io::stdout().as_fd(), Some(uid), Some(gid)).map_err(at("fchown"))?;
    unistd::setgroups(&groups).map_err(at("setgroups"))?;
    unistd::setgid(gid).map_err(at("setgid"))?;
    unistd::setuid(uid).map_err(at("setuid"))?;
    // Until exec, other processes of this user must not trace it: it may still have the daemon's capabilities.
    prctl::set_dumpable(false).map_err(at("prctl"))
}

/// Removes all but `kept` from the bounding set: exec then takes the others from root, too.
fn bound_capabilities(kept: u64) {
    for bit in (0..u64::BITS).map(|bit| 1 << bit).filter(|bit| kept & bit == 0) {
        // Fails without effect for capabilities that the kernel does not know, and without privileges.
        let _ = thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit));
    }
}
