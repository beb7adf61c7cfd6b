//! A running daemon, and its end: it leaves nothing behind. `setup.rs` starts it, `requests.rs` asks it.

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitStatus, sync::Arc, thread, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    io::BufReader,
    process::{Child, ChildStdout},
    time::Instant,
};

use crate::{
    SOON, function::Function, home::Home, processes, requests::page_blocking, setup::Setup, wait::poll_blocking, within,
};

/// A running daemon. Dropping it sends SIGTERM and checks that no process is left.
#[derive(Debug)]
pub struct Daemon {
    /// Its directories.
    pub home: Arc<Home>,
    /// Its process id.
    pub pid: u32,
    /// Address of the front.
    pub listen: SocketAddr,
    /// Address of the callback listener.
    pub callback: SocketAddr,
    /// Address of the admin listener, if there is one.
    pub admin: Option<SocketAddr>,
    child: Child,
    /// Whether leftovers are not checked, because another test or daemon owns them.
    killed: bool,
    /// Held open so that the daemon's output has a reader.
    _stdout: BufReader<ChildStdout>,
}

/// How a daemon exited.
#[derive(Debug)]
pub struct Ending {
    /// Its exit status.
    pub status: ExitStatus,
    /// Time from the signal to the exit.
    pub took: Duration,
}

impl Daemon {
    /// Starts a daemon with one function.
    pub async fn with(function: Function) -> Self {
        Setup::default().function(function).start().await
    }

    /// Takes a daemon that has just said that it serves, and where: front, callback and admin listener.
    pub(crate) fn of(
        home: Arc<Home>,
        child: Child,
        stdout: BufReader<ChildStdout>,
        (listen, callback, admin): (SocketAddr, SocketAddr, Option<SocketAddr>),
    ) -> Self {
        let pid = child.id().expect("it serves");
        Self { home, child, _stdout: stdout, pid, listen, callback, admin, killed: false }
    }

    /// Returns a path of its home directory, as seen from its mount namespace.
    pub fn inside(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.pid, self.home.path(name).display()))
    }

    /// Returns its log so far, without an incomplete last line.
    pub fn log(&self) -> String {
        let mut log = fs::read_to_string(self.home.path("log")).unwrap_or_default();
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid, signal);
    }

    /// Waits for its exit, with a short time limit.
    ///
    /// # Panics
    /// When it does not exit in time.
    pub async fn ended(&mut self) -> Ending {
        self.ended_within(SOON).await
    }

    /// Waits for its exit, at most for `limit`.
    ///
    /// # Panics
    /// When it does not exit in time.
    pub async fn ended_within(&mut self, limit: Duration) -> Ending {
        let asked = Instant::now();
        let what = format!("the exit of daemon {}", self.pid);
        let status = within(limit, what, self.child.wait()).await.expect("it can be waited for");
        Ending { status, took: asked.elapsed() }
    }

    /// Sends SIGTERM and waits for its exit.
    pub async fn end(&mut self) -> Ending {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Kills the daemon and waits for its death, without checking for leftovers.
    ///
    /// # Panics
    /// When it does not die.
    pub async fn killed(mut self) {
        self.signal(Signal::SIGKILL);
        self.killed = true;
        self.ended().await;
    }

    /// Waits until the daemon has exited; returns whether it has.
    fn has_exited(&mut self, limit: Duration) -> bool {
        poll_blocking(limit, || matches!(self.child.try_wait(), Ok(Some(_))), |exited| *exited).is_ok()
    }

    /// Prints what a failed test needs to be understood.
    fn print_state(&self) {
        let (log, pid) = (self.log(), self.pid);
        let lines: Vec<_> = log.lines().collect();
        eprintln!("--- processes of daemon {pid}\n{}", processes::tree(pid).join("\n"));
        eprintln!("--- processes of functions\n{}", self.home.described().join("\n"));
        eprintln!("--- /debug\n{}", page_blocking(self.admin.unwrap_or(self.listen), "/debug"));
        eprintln!("--- the last lines of the daemon's log\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut over = self.has_exited(Duration::ZERO);
        let mut in_time = true;
        if thread::panicking() {
            self.print_state();
        }
        if !over {
            self.signal(Signal::SIGTERM);
            over = self.has_exited(SOON);
            in_time = over;
        }
        if !over {
            self.signal(Signal::SIGKILL);
            self.has_exited(SOON);
        }
        if self.killed {
            return;
        }
        let left = self.home.processes();
        let described = self.home.described();
        for pid in &left {
            processes::signal(*pid, Signal::SIGKILL);
        }
        if thread::panicking() {
            return;
        }
        let log = self.log();
        assert!(in_time, "the daemon did not end within {SOON:?} of SIGTERM\n{log}");
        assert!(left.is_empty(), "processes were left behind: {described:?}\n{log}");
        assert!(!log.contains("panicked"), "the daemon panicked:\n{log}");
    }
}
