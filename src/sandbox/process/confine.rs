//! The `unifaas confine` step, which every child executes first: it gives up the daemon's session, user and privileges,
//! joins its cgroups, and executes the program.
//!
//! Between fork and exec a child of a threaded process may do next to nothing. A program of its own may do anything, and
//! the daemon can start it with posix_spawn(3), which copies no page tables. Errors are reported to standard error, which
//! becomes the program's output only at the last moment.

use std::{
    convert::Infallible,
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, ExitCode},
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

use super::user::Credentials;
use crate::syscalls;

/// The first argument of this step.
pub const ARGUMENT: &str = "confine";
/// The step that executes the program: its error is the program's.
pub const EXEC: &str = "exec";

/// What the child gives up. Passed to the step as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Confinement {
    /// The process id of the daemon, whose end kills the child.
    pub daemon: i32,
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

/// A step that failed, and its error number.
#[derive(Debug, PartialEq, Eq)]
struct Failure(&'static str, i32);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

/// Returns the step and the error of a report.
pub fn parse_report(report: &str) -> Option<(&str, io::Error)> {
    let (step, number) = report.split_once(' ')?;
    Some((step, io::Error::from_raw_os_error(number.parse().ok()?)))
}

/// Returns the conversion of an error at `step`.
fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure(step, error.into().raw_os_error().unwrap_or(Errno::EINVAL as i32))
}

/// Confines this process and executes the program. `arguments` are the [`Confinement`], the working directory, the
/// program, its name and its arguments. Returns only after an error, which it reports to standard error.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // Standard error is replaced before the program is executed. The copy is closed by exec, which ends the report.
    if let Ok(mut report) = io::stderr().as_fd().try_clone_to_owned().map(File::from) {
        let Err(failure) = execute(arguments);
        let _ = write!(report, "{failure}");
    }
    ExitCode::FAILURE
}

fn execute(mut arguments: impl Iterator<Item = OsString>) -> Result<Infallible, Failure> {
    let mut next = || arguments.next().ok_or(Errno::EINVAL).map_err(at("arguments"));
    let (confinement, directory, program, name) = (next()?, next()?, next()?, next()?);
    let confinement: Confinement = serde_json::from_slice(confinement.as_encoded_bytes()).map_err(at("arguments"))?;
    // As the daemon's user, since the child's may be unable to reach it.
    unistd::chdir(directory.as_os_str()).map_err(at("chdir"))?;
    confinement.enter()?;
    unistd::dup2_stderr(io::stdout()).map_err(at("dup2"))?;
    Err(at(EXEC)(Command::new(program).arg0(name).args(arguments).exec()))
}

impl Confinement {
    fn enter(&self) -> Result<(), Failure> {
        // Early, so that no memory of the program is charged elsewhere.
        for file in &self.cgroups {
            File::options().write(true).open(file).and_then(|mut file| file.write_all(b"0")).map_err(at("cgroup"))?;
        }
        unistd::setsid().map_err(at("setsid"))?;
        stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
        let limit = |resource, soft, hard| resource::setrlimit(resource, soft, hard).map_err(at("setrlimit"));
        limit(Resource::RLIMIT_CORE, 0, 0)?;
        self.open_files.map_or(Ok(()), |(soft, hard)| limit(Resource::RLIMIT_NOFILE, soft, hard))?;
        self.file_size.map_or(Ok(()), |bytes| limit(Resource::RLIMIT_FSIZE, bytes, bytes))?;
        syscalls::reset_signals();
        // Fails on kernels without ambient capabilities, where there are none to clear.
        let _ = thread::clear_ambient_capability_set();
        self.capabilities.into_iter().for_each(bound_capabilities);
        if let Some((uid, gid, groups)) = &self.user {
            become_user(Uid::from_raw(*uid), Gid::from_raw(*gid), groups)?;
        }
        // After the change of the user, which resets it.
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("prctl"))?;
        // The daemon may have ended before.
        if unistd::getppid() != Pid::from_raw(self.daemon) {
            return Err(Failure("getppid", Errno::ESRCH as i32));
        }
        prctl::set_no_new_privs().map_err(at("prctl"))?;
        syscalls::close_others_at_exec();
        // The thread that starts children blocks all signals.
        SigSet::empty().thread_set_mask().map_err(at("sigprocmask"))
    }
}

fn become_user(uid: Uid, gid: Gid, groups: &[u32]) -> Result<(), Failure> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    // So that the program can open /dev/stdout.
    unistd::fchown(io::stdout(), Some(uid), Some(gid)).map_err(at("fchown"))?;
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

impl From<&Credentials> for (u32, u32, Vec<u32>) {
    fn from(user: &Credentials) -> Self {
        (user.uid.as_raw(), user.gid.as_raw(), user.groups.iter().map(|group| group.as_raw()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit tests start children from the test program, which has the step as well.
    #[ctor::ctor(unsafe)]
    fn confine() {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next().is_some_and(|argument| argument == ARGUMENT) {
            run(arguments);
            #[expect(clippy::disallowed_methods, reason = "this process has nothing to tear down")]
            std::process::exit(1);
        }
    }

    #[test]
    fn report_names_step_and_error() {
        let (step, error) = parse_report("setgroups 1").unwrap();
        assert_eq!((step, error.kind()), ("setgroups", io::ErrorKind::PermissionDenied));
        assert!(parse_report("").is_none() && parse_report("thread 'main' panicked").is_none());
    }

    #[test]
    fn first_failing_step_is_reported() {
        let confinement = |cgroups: &[&str]| Confinement {
            daemon: 1,
            user: None,
            capabilities: None,
            file_size: None,
            open_files: None,
            cgroups: cgroups.iter().map(PathBuf::from).collect(),
        };
        let failure = confinement(&["/no/such/cgroup/tasks"]).enter().unwrap_err();
        assert_eq!(failure, Failure("cgroup", Errno::ENOENT as i32));
        let missing = ["{}".into()].into_iter();
        assert_eq!(execute(missing).unwrap_err(), Failure("arguments", Errno::EINVAL as i32));
    }
}
