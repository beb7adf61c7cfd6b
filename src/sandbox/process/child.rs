//! Making a child process, and hearing of its end.
//!
//! The child borrows the daemon's memory until it executes its program (`CLONE_VM | CLONE_VFORK`, as posix_spawn(3)
//! does). A fork copies the page tables of a daemon that may be large, takes them down again at exec, and leaves the
//! daemon to fault on each page it writes to: together more than all the rest of a start. std's own posix_spawn cannot
//! do what `confine.rs` does.
//!
//! Once a child has become another user, the memory it shared until then is dumpable no more: that user cannot trace it in
//! the meantime, and a root daemon leaves no core dump either.
//!
//! The end is told by a pidfd, so nobody polls and no other child is disturbed; until the child has been reaped its number
//! is nobody else's.

use std::{
    cell::Cell,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    errno::Errno,
    libc,
    sched::{self, CloneFlags},
    sys::{
        signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{self, Pid},
};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix,
    sync::Mutex,
};

use super::{confine::Confinement, exec::Program};

/// For the few calls between clone and exec, in bytes.
const STACK: usize = 64 * 1024;

/// Where a child reads from and writes to. All of them are above 2.
#[derive(Debug)]
pub struct Stdio {
    pub stdin: OwnedFd,
    /// Its errors, too.
    pub output: OwnedFd,
}

/// A child. One that is dropped before it was reaped is killed.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    watch: Watch,
    reaped: Cell<bool>,
}

/// What tells that it has ended.
#[derive(Debug)]
enum Watch {
    Pidfd(AsyncFd<OwnedFd>),
    /// Where there are no pidfds (before Linux 5.3, under valgrind, where a filter forbids them): each end of a child,
    /// whichever it is.
    Signal(Mutex<unix::Signal>),
}

impl Child {
    /// Starts a child that confines itself, goes where `confinement` says and executes `program`. Blocks until it has
    /// done so, or has ended. Its number is in `child_pid` before it becomes another user, who may stop it: whoever kills it
    /// ends the wait.
    ///
    /// # Errors
    /// What the system said to any of these steps; there is no child then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        mut program: Program,
        stdio: &Stdio,
        confinement: &Confinement,
        child_pid: &AtomicI32,
    ) -> io::Result<Self> {
        let mut failed = None;
        let mut stack = vec![0; STACK];
        let become_program = Box::new(|| {
            child_pid.store(unistd::getpid().as_raw(), Ordering::Relaxed);
            failed = Some(match prepare(stdio, confinement) {
                Ok(()) => program.execute(),
                Err(error) => error,
            });
            1
        });
        let pid = {
            let _unheard = BlockedSignals::all()?;
            // SAFETY: the child has a stack of its own and shares all other memory, while the thread that made it
            // stands still until the child executes or ends, so what it borrows is there and nobody else's. It neither
            // allocates nor locks nor panics, makes async-signal-safe calls only (changing its user and groups without
            // the C library, whose functions would reach for the daemon's threads), and runs no signal handler: all
            // signals are blocked, and have their default effect by the time they no longer are.
            unsafe {
                sched::clone(
                    become_program,
                    &mut stack,
                    CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK,
                    Some(libc::SIGCHLD),
                )?
            }
        };
        let started = match failed {
            Some(error) => Err(error.into()),
            None => Self::watch(pid),
        };
        if started.is_err() {
            // It has ended already, or it could not be watched.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        started
    }

    fn watch(pid: Pid) -> io::Result<Self> {
        let number = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::ESRCH)?;
        let watch = match pidfd_open(number, PidfdFlags::empty()) {
            // SAFETY: an `OwnedFd` is open, and always the same, for as long as it is owned.
            Ok(pidfd) => Watch::Pidfd(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? }),
            Err(used_up @ (rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM)) => {
                return Err(used_up.into());
            }
            Err(_) => Watch::Signal(Mutex::new(unix::signal(unix::SignalKind::child())?)),
        };
        Ok(Self { pid, watch, reaped: Cell::new(false) })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Resolves when the child has ended. Its number stays its own until it is reaped.
    pub async fn ended(&self) -> io::Result<()> {
        match &self.watch {
            Watch::Pidfd(pidfd) => pidfd.readable().await.map(drop),
            Watch::Signal(ends) => {
                let mut ends = ends.lock().await;
                let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
                // Signals that come between a look and the next one are kept.
                while waitid(Id::Pid(self.pid), look)? == WaitStatus::StillAlive {
                    ends.recv().await;
                }
                Ok(())
            }
        }
    }

    /// How it ended. Once this has been told, its number may be given to anybody.
    ///
    /// # Errors
    /// `ECHILD` when somebody else has reaped it, `EAGAIN` when it has not ended.
    pub fn reap(&self) -> io::Result<ExitStatus> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        let status = waitid(Id::Pid(self.pid), flags);
        self.reaped.set(matches!(status, Err(Errno::ECHILD) | Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))));
        match status? {
            WaitStatus::Exited(_, code) => Ok(ExitStatus::from_raw((code & 0xff) << 8)),
            WaitStatus::Signaled(_, signal, _) => Ok(ExitStatus::from_raw(signal as i32)),
            _ => Err(Errno::EAGAIN.into()),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped.get() {
            let _ = kill(self.pid, Signal::SIGKILL);
            // Which may take it a moment; then the system reaps it when the daemon ends.
            let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Has the system keep how children ended until it is asked, whatever was inherited from whoever started the daemon.
pub fn keep_statuses() -> io::Result<()> {
    // SAFETY: sets no handler.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl)? };
    Ok(())
}

/// What the child does before it becomes the program.
fn prepare(stdio: &Stdio, confinement: &Confinement) -> Result<(), Errno> {
    unistd::dup2_stdin(&stdio.stdin)?;
    unistd::dup2_stdout(&stdio.output)?;
    unistd::dup2_stderr(&stdio.output)?;
    confinement.enter()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// No signal reaches this thread, nor a child made by it, as long as it lives.
struct BlockedSignals(SigSet);

impl BlockedSignals {
    fn all() -> io::Result<Self> {
        Ok(Self(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?))
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // Cannot fail: the set is the one there was.
        let _ = self.0.thread_set_mask();
    }
}
