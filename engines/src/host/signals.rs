//! The signals that end the daemon or make it read its configuration again, and the signal that must not end it.

use std::io;

use nix::libc;
use procfs::process::Process;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the daemon obeys.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Hangup,
    /// A reload was asked for while only an end was awaited.
    is_reload_due: bool,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The daemon ends: gracefully at the first signal, named here, and at once at the second one.
    End(&'static str),
    /// The daemon reads its configuration again.
    Reload,
}

enum Hangup {
    /// The daemon was started with the signal ignored, as `nohup` does.
    Ignored,
    /// The daemon has a controlling terminal, which sends the signal when it is closed.
    Ends(Signal),
    /// The daemon is a service. No terminal can send the signal, so a person or a program has.
    Reloads(Signal),
}

impl Signals {
    /// Installs the handlers. To be called first, as the default action kills.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        // With a handler, a write beyond the limit on file sizes fails like one to a full disk. The handler stays.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        // They have a meaning for other daemons, such as to open log files again.
        drop((signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?));
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (quit, hangup) = (signal(SignalKind::quit())?, Hangup::listen()?);
        Ok(Self { interrupt, terminate, quit, hangup, is_reload_due: false })
    }

    /// Waits for the next signal, or returns the reload that is due.
    pub async fn next(&mut self) -> Event {
        if self.take_reload() { Event::Reload } else { self.next_signal().await }
    }

    /// Returns whether a reload is due, which it is no more then.
    pub fn take_reload(&mut self) -> bool {
        std::mem::take(&mut self.is_reload_due)
    }

    async fn next_signal(&mut self) -> Event {
        tokio::select! {
            _ = self.interrupt.recv() => Event::End("SIGINT"),
            _ = self.terminate.recv() => Event::End("SIGTERM"),
            _ = self.quit.recv() => Event::End("SIGQUIT"),
            event = self.hangup.next() => event,
        }
    }

    /// Waits for the next signal that ends the daemon. Returns its name. A reload that is asked for meanwhile is due later.
    pub async fn next_end(&mut self) -> &'static str {
        loop {
            match self.next_signal().await {
                Event::End(name) => return name,
                Event::Reload => self.is_reload_due = true,
            }
        }
    }
}

impl Hangup {
    fn listen() -> io::Result<Self> {
        if is_ignored(libc::SIGHUP) {
            return Ok(Self::Ignored);
        }
        // Found out now: a terminal that is closed is no longer a controlling terminal when the signal arrives.
        let ends = has_controlling_terminal();
        signal(SignalKind::hangup()).map(if ends { Self::Ends } else { Self::Reloads })
    }

    async fn next(&mut self) -> Event {
        match self {
            Self::Ignored => std::future::pending().await,
            Self::Ends(signal) => {
                signal.recv().await;
                Event::End("SIGHUP")
            }
            Self::Reloads(signal) => {
                signal.recv().await;
                Event::Reload
            }
        }
    }
}

/// Returns whether the kernel may send SIGHUP to this process because a terminal is closed.
fn has_controlling_terminal() -> bool {
    Process::myself().and_then(|process| process.stat()).is_ok_and(|stat| stat.tty_nr != 0)
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
