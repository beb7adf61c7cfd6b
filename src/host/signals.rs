//! The signals that end the daemon, one that must not, and how the kernel tells which are set.

use std::{fs, io};

use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Heard from the moment they are listened to. The first asks for an end, the next one hurries.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    /// `None`: whoever has started the daemon does not want it to end with a terminal, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    /// Listens. To be called before anything else, so that none of them finds the default, which kills.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = (!is_ignored(&status, libc::SIGHUP)).then(|| signal(SignalKind::hangup())).transpose()?;
        // A limit on the size of files is an error to whoever writes to one, like a full disk. The handler stays.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, quit: signal(SignalKind::quit())?, hangup })
    }

    /// The name of the next one.
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

/// Whether `/proc/self/status` says that this process ignores a signal.
fn is_ignored(status: &str, signal: i32) -> bool {
    mask(status, "SigIgn").is_some_and(|mask| mask & 1 << (signal - 1) != 0)
}

/// A set of signals in `/proc/<pid>/status`, by its name there, a bit for each.
pub fn mask(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status =
            "Name:\tunifaas\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(status, libc::SIGHUP) && is_ignored(status, libc::SIGPIPE));
        assert!(!is_ignored(status, libc::SIGINT) && !is_ignored("", libc::SIGHUP));
    }
}
