//! What a child process does until it executes its program: it gives up the daemon's session, user and privileges, and
//! joins its cgroups.
//!
//! It runs in its creator's memory. So it makes raw system calls only, of rustix and of `execve`: it allocates and locks
//! nothing, does not panic, and uses no thread-local variable, not even `errno`.

use std::{ffi::CStr, os::fd::BorrowedFd};

use nix::sys::signal::SigSet;
use rustix::{
    fs::{Mode, OFlags, fchown, open},
    io::{Errno, read, write},
    process::{
        DumpableBehavior, Gid, Pid, Resource, Rlimit, Signal, Uid, chdir, getppid, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit, setsid, umask,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
        set_thread_gid, set_thread_groups, set_thread_uid,
    },
};

use super::{
    child::{Memory, SHELL, execve},
    launch::{Confinement, Failed, Step},
};

/// How an ELF file starts.
const ELF: &[u8; 4] = b"\x7fELF";

impl Memory {
    /// Executes the program. Returns only after an error.
    pub(super) fn become_program(&self) -> Failed {
        self.confine().err().unwrap_or_else(|| Failed::at(Step::Exec)(self.execute()))
    }

    fn confine(&self) -> Result<(), Failed> {
        die_with_creator()?;
        let [stdin, stdout, stderr] = self.standard;
        let standard = dup2_stdin(stdin).and_then(|()| dup2_stdout(stdout)).and_then(|()| dup2_stderr(stderr));
        standard.map_err(Failed::at(Step::Dup2))?;
        // As the creator's user, since the child's may be unable to reach it.
        chdir(self.launch.directory.as_c_str()).map_err(Failed::at(Step::Chdir))?;
        setsid().map_err(Failed::at(Step::Setsid))?;
        if let Some(confinement) = &self.launch.confinement {
            confinement.enter([stdout, stderr], &self.groups)?;
            // Again, as a change of the user resets it.
            die_with_creator()?;
        }
        // The creator may have ended before.
        if getppid().map(Pid::as_raw_pid) != Some(self.creator.as_raw()) {
            return Err(Failed::at(Step::Parent)(Errno::SRCH));
        }
        // The C library returns the error instead of setting `errno`.
        SigSet::empty().thread_set_mask().map_err(Failed::at(Step::SignalMask))
    }

    fn execute(&self) -> Errno {
        let mut denied = false;
        for file in &self.launch.program.files {
            match execve(file, &self.arguments, &self.environment) {
                // POSIX has it for execvp. An ELF file is damaged, or built for another machine.
                Errno::NOEXEC if !is_elf(file) => {
                    self.script.set_second(file);
                    return execve(SHELL, &self.script, &self.environment);
                }
                Errno::ACCESS => denied = true,
                Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
                other => return other,
            }
        }
        if denied { Errno::ACCESS } else { Errno::NOENT }
    }
}

fn is_elf(file: &CStr) -> bool {
    let mut magic = [0; ELF.len()];
    // A named pipe must not block.
    let file = open(file, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    file.is_ok_and(|file| read(&file, &mut magic) == Ok(ELF.len()) && magic == *ELF)
}

fn die_with_creator() -> Result<(), Failed> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failed::at(Step::DeathSignal))
}

impl Confinement {
    fn enter(&self, output: [BorrowedFd<'_>; 2], groups: &[Gid]) -> Result<(), Failed> {
        // Early, so that no memory of the program is charged elsewhere.
        for file in &self.cgroups {
            let file = open(file.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            file.and_then(|file| write(file, b"0")).map_err(Failed::at(Step::Cgroup))?;
        }
        umask(Mode::WGRP | Mode::WOTH);
        let limit = |resource, soft, hard| {
            let limits = Rlimit { current: Some(soft), maximum: Some(hard) };
            setrlimit(resource, limits).map_err(Failed::at(Step::Setrlimit))
        };
        limit(Resource::Core, 0, 0)?;
        self.open_files.map_or(Ok(()), |(soft, hard)| limit(Resource::Nofile, soft, hard))?;
        self.file_size.map_or(Ok(()), |bytes| limit(Resource::Fsize, bytes, bytes))?;
        // Fails on kernels without ambient capabilities, where there are none to clear.
        let _ = clear_ambient_capability_set();
        set_no_new_privs(true).map_err(Failed::at(Step::NoNewPrivileges))?;
        if let Some((uid, gid, _)) = &self.user {
            become_user(Uid::from_raw(*uid), Gid::from_raw(*gid), groups, output)?;
        }
        self.capabilities.map_or(Ok(()), |kept| keep_capabilities(kept).map_err(Failed::at(Step::Capset)))
    }
}

fn become_user(uid: Uid, gid: Gid, groups: &[Gid], output: [BorrowedFd<'_>; 2]) -> Result<(), Failed> {
    // So that the program can open /dev/stdout and /dev/stderr.
    let owned = output.into_iter().try_for_each(|pipe| fchown(pipe, Some(uid), Some(gid)));
    owned.map_err(Failed::at(Step::Fchown))?;
    set_thread_groups(groups).map_err(Failed::at(Step::Setgroups))?;
    set_thread_gid(gid).map_err(Failed::at(Step::Setgid))?;
    set_thread_uid(uid).map_err(Failed::at(Step::Setuid))?;
    // The kernel has done so, unless fs.suid_dumpable forbids it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Failed::at(Step::Dumpable))
}

/// Gives up all capabilities but `kept`, which takes no privilege. Without new privileges, exec returns none to root.
fn keep_capabilities(kept: u64) -> Result<(), Errno> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let kept = CapabilitySet::from_bits_retain(kept);
    let sets = CapabilitySets {
        effective: effective & kept,
        permitted: permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}
