//! The signals that end the daemon, the one that must not, and the signal sets of `/proc`.

use std::{fs, io};

use nix::libc;
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
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = (!is_ignored(&status, libc::SIGHUP)).then(|| signal(SignalKind::hangup())).transpose()?;
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

/// Returns whether `/proc/self/status` says that this process ignores a signal.
fn is_ignored(status: &str, signal: i32) -> bool {
    mask(status, "SigIgn").is_some_and(|mask| mask & 1 << (signal - 1) != 0)
}

/// Returns the signal set `name` of `/proc/<pid>/status`, a bit for each signal.
pub fn mask(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ignored_signals_from_mask() {
        let status =
            "Name:\tunifaas\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(status, libc::SIGHUP) && is_ignored(status, libc::SIGPIPE));
        assert!(!is_ignored(status, libc::SIGINT) && !is_ignored("", libc::SIGHUP));
    }
}
