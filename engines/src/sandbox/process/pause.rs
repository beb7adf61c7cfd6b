//! How the processes of an instance are paused: by the freezer of their cgroup, else by signals to their process group.
//!
//! The freezer stops every process, whatever session it is in, and none of them notices. A stop signal leaves out processes
//! that have left the group.

use std::io;

use nix::{sys::signal::Signal, unistd::Pid};
use procfs::process::Process;
use tokio::sync::mpsc::UnboundedSender;

use crate::sandbox::{cgroup::Freezer, pause_deadline::PauseDeadline};

/// What pauses the processes of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PauseMethod {
    /// The freezer of their cgroup.
    Freezer(Freezer),
    /// SIGSTOP and SIGCONT to the process group.
    Signals,
}

impl PauseMethod {
    /// Orders the pause.
    pub(super) fn pause(&self, signals: &UnboundedSender<Signal>) -> io::Result<()> {
        match self {
            Self::Freezer(freezer) => freezer.freeze(),
            Self::Signals => send(signals, Signal::SIGSTOP),
        }
    }

    /// Waits until an ordered pause is complete. `leader` leads the process group.
    pub(super) async fn paused(&self, leader: Pid) -> io::Result<()> {
        match self {
            Self::Freezer(freezer) => freezer.frozen().await,
            Self::Signals => stopped(leader).await,
        }
    }

    /// Ends the pause. Afterwards, a signal reaches the processes.
    pub(super) fn thaw(&self, signals: &UnboundedSender<Signal>) -> io::Result<()> {
        match self {
            Self::Freezer(freezer) => freezer.thaw(),
            Self::Signals => send(signals, Signal::SIGCONT),
        }
    }
}

/// Signals go one way, so they arrive in the order in which they were sent.
fn send(signals: &UnboundedSender<Signal>, signal: Signal) -> io::Result<()> {
    signals.send(signal).map_err(|_| io::Error::other("its supervision has ended"))
}

async fn stopped(leader: Pid) -> io::Result<()> {
    let mut deadline = PauseDeadline::start();
    let state = || Process::new(leader.as_raw()).and_then(|process| process.stat()).map(|stat| stat.state);
    // `t`: a debugger has stopped it.
    while !matches!(state().map_err(io::Error::other)?, 'T' | 't') {
        deadline.next_look("stopped").await?;
    }
    Ok(())
}
