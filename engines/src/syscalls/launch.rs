//! What a child process becomes, the steps to it, and which of them failed. Pure.

use std::{ffi::CString, fmt, io};

use nix::libc;
use serde::{Deserialize, Serialize};

/// Below, the arguments of a program could exceed the memory limit of its cgroup, in MiB.
const MIN_SHARED_LIMIT: u64 = 16;
/// The size of a report, a step and an error number, in bytes.
pub(super) const REPORT: usize = 5;

/// What a child becomes. No `Debug`: arguments and environment contain secrets.
#[derive(Serialize, Deserialize)]
pub struct Launch {
    pub program: Program,
    /// The working directory, which the creator can enter; the child's user perhaps not.
    pub directory: CString,
    /// `None`: a program of the host, which keeps the creator's user and privileges.
    pub confinement: Option<Confinement>,
}

/// The parameters of execve(2).
#[derive(Serialize, Deserialize)]
pub struct Program {
    /// The files to be tried, in this order.
    pub files: Vec<CString>,
    /// With the zeroth, the name.
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
}

/// What a child gives up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Confinement {
    /// User, group and supplementary groups. `None` keeps those of the creator.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// The capabilities that its user keeps, a bit for each. `None` keeps all.
    pub capabilities: Option<u64>,
    /// The largest file that it may write, in bytes.
    pub file_size: Option<u64>,
    /// The limit on open files, soft and hard. `None` keeps that of the creator.
    pub open_files: Option<(u64, u64)>,
    /// The files by which it joins its cgroups.
    pub cgroups: Vec<CString>,
    /// The memory limit of its cgroups, in MiB.
    pub memory: Option<u64>,
}

/// A step of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Descriptors,
    Clone,
    DeathSignal,
    Dup2,
    Chdir,
    Setsid,
    Cgroup,
    Setrlimit,
    NoNewPrivileges,
    Fchown,
    Setgroups,
    Setgid,
    Setuid,
    Capset,
    Dumpable,
    Parent,
    SignalMask,
    /// Its error is the program's.
    Exec,
}

/// All steps in their order, with the names of their system calls.
const STEPS: [(Step, &str); 18] = [
    (Step::Descriptors, "descriptors"),
    (Step::Clone, "clone"),
    (Step::DeathSignal, "prctl(PR_SET_PDEATHSIG)"),
    (Step::Dup2, "dup2"),
    (Step::Chdir, "chdir"),
    (Step::Setsid, "setsid"),
    (Step::Cgroup, "cgroup"),
    (Step::Setrlimit, "setrlimit"),
    (Step::NoNewPrivileges, "prctl(PR_SET_NO_NEW_PRIVS)"),
    (Step::Fchown, "fchown"),
    (Step::Setgroups, "setgroups"),
    (Step::Setgid, "setgid"),
    (Step::Setuid, "setuid"),
    (Step::Capset, "capset"),
    (Step::Dumpable, "prctl(PR_SET_DUMPABLE)"),
    (Step::Parent, "getppid"),
    (Step::SignalMask, "sigprocmask"),
    (Step::Exec, "exec"),
];

/// A step that failed, and its error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub step: Step,
    pub errno: i32,
}

impl Launch {
    /// Returns whether the child may use its creator's memory until it executes its program. The OOM killer of a cgroup
    /// kills all processes with the same memory.
    pub(super) fn may_share_memory(&self) -> bool {
        let limit = self.confinement.as_ref().and_then(|confinement| confinement.memory);
        limit.is_none_or(|limit| limit >= MIN_SHARED_LIMIT)
    }
}

impl Failed {
    /// Returns the conversion of an error at `step`.
    pub fn at<E: Into<io::Error>>(step: Step) -> impl FnOnce(E) -> Self {
        move |error| Self { step, errno: error.into().raw_os_error().unwrap_or(libc::EINVAL) }
    }

    /// Returns the error without the step.
    pub fn error(self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    pub(super) fn report(self) -> [u8; REPORT] {
        let [a, b, c, d] = self.errno.to_le_bytes();
        [self.step as u8, a, b, c, d]
    }

    pub(super) fn parse([step, errno @ ..]: [u8; REPORT]) -> Self {
        let step = STEPS.get(usize::from(step)).map_or(Step::Descriptors, |(step, _)| *step);
        Self { step, errno: i32::from_le_bytes(errno) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STEPS.get(*self as usize).map_or("", |(_, name)| name))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_keeps_step_and_error() {
        for (number, (step, name)) in STEPS.into_iter().enumerate() {
            assert_eq!((step as usize, step.to_string().as_str()), (number, name));
            let failed = Failed { step, errno: libc::EPERM };
            assert_eq!(Failed::parse(failed.report()), failed);
        }
        let failed = Failed::at(Step::Setuid)(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(failed.to_string(), "setuid: Operation not permitted (os error 1)");
    }

    #[test]
    fn child_with_a_small_limit_has_memory_of_its_own() {
        let shares = |memory| {
            let program = Program { files: Vec::new(), arguments: Vec::new(), environment: Vec::new() };
            let confinement = Some(Confinement { memory, ..Confinement::default() });
            Launch { program, directory: CString::default(), confinement }.may_share_memory()
        };
        assert!(shares(None) && shares(Some(16)) && !shares(Some(15)) && !shares(Some(1)));
    }
}
