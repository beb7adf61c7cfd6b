//! The signals that end the daemon, and the signal that must not.

use std::io;

use nix::libc;
use procfs::process::Process;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the daemon: the first one gracefully, the second one at once.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    /// `None` if the daemon was started with the signal ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    /// Installs the handlers. To be called first, as the default action kills.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        let hangup = (!is_ignored(libc::SIGHUP)).then(|| signal(SignalKind::hangup())).transpose()?;
        // With a handler, a write beyond the limit on file sizes fails like one to a full disk. The handler stays.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, quit: signal(SignalKind::quit())?, hangup })
    }

    /// Waits for the next signal. Returns its name.
    pub async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.quit.recv() => "SIGQUIT",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Returns whether this process ignores a signal.
fn is_ignored(signal: i32) -> bool {
    let status = Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.sigign & 1 << (signal - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_ignored_signals() {
        // Set by the runtime of every Rust program.
        assert!(is_ignored(libc::SIGPIPE) && !is_ignored(libc::SIGCHLD));
    }
}
