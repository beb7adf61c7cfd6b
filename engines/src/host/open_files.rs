//! The limit on open files: raised as far as possible at startup, restored for children, and checked before a cold
//! start.
//!
//! Every connection is an open file, and so are most handles of an instance. At the limit, the server waits half a
//! second before it accepts again, and starts are refused as a whole instead of failing half-way.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::OnceLock,
    thread,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use slog::{Logger, debug, warn};

/// Enough for 30,000 concurrent requests: each has a connection to its client and one to its instance.
const WANTED: u64 = 65_536;
/// A busy daemon may reach a lower limit: that is logged.
const LOW: u64 = 8_192;
/// The least to serve at all: for each thread of the server, and for all else.
const PER_THREAD: u64 = 8;
const BASE: u64 = 64;
/// What a cold start of any kind needs for a moment.
const PER_START: usize = 16;

/// The limits, soft and hard, with which the daemon was started.
static INHERITED: OnceLock<(u64, u64)> = OnceLock::new();

/// Returns the limit below which not even the threads of the server start.
pub fn minimum() -> u64 {
    BASE + PER_THREAD * thread::available_parallelism().map_or(1, |threads| threads.get() as u64)
}

/// Raises the limit. To be called once, before the first child is started.
///
/// # Errors
/// The limit, when it is less than [`minimum`].
pub fn raise(log: &Logger) -> Result<(), u64> {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => *INHERITED.get_or_init(|| limits),
        Err(error) => {
            warn!(log, "the limit on open files is not known"; "error" => %error);
            return Ok(());
        }
    };
    // Beyond the hard limit if that is allowed, else up to it.
    let mut limits = [hard.max(WANTED), hard].into_iter();
    let raised = limits.find(|limit| setrlimit(Resource::RLIMIT_NOFILE, *limit, *limit).is_ok());
    let limit = raised.unwrap_or(soft);
    debug!(log, "limit on open files"; "was" => soft, "is" => limit);
    if limit < minimum() {
        return Err(limit);
    }
    if limit < LOW {
        warn!(log, "few files may be open at once, and each request needs two: raise the hard limit (ulimit -Hn, or \
            LimitNOFILE= of the service)"; "limit" => limit, "requests_at_once" => limit / 2, "enough" => WANTED);
    }
    Ok(())
}

/// Returns the limits for children. Many programs expect a small limit, and some close every possible descriptor.
pub fn inherited() -> Option<(u64, u64)> {
    INHERITED.get().copied()
}

/// Returns how many client connections there can be beside those to instances and the files of starts.
pub fn max_connections() -> usize {
    usize::try_from(limit() / 3).unwrap_or(usize::MAX).max(1)
}

/// Returns the current limit, which another process may have changed.
fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// Returns whether a cold start can open the files that it needs.
pub fn suffice_for_start() -> bool {
    let open = || io::stdout().as_fd().try_clone_to_owned();
    match open() {
        // The kernel assigns the lowest free descriptor: below half of the limit, nearly half of them are free.
        Ok(file) if (file.as_raw_fd() as u64) < limit() / 2 => true,
        // Standard output may be closed, which says nothing about the limit.
        Err(error) if !is_exhaustion(&error) => true,
        _ => (0..PER_START).map(|_| open()).collect::<io::Result<Vec<OwnedFd>>>().is_ok(),
    }
}

/// Returns whether an error says that a resource of the host, or of this process, is exhausted.
pub fn is_exhaustion(error: &io::Error) -> bool {
    // EADDRNOTAVAIL: no local port is left for a connection.
    use nix::libc::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let exhausted = [EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|number| exhausted.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_errors_are_exhaustion() {
        for number in [nix::libc::EMFILE, nix::libc::ENFILE, nix::libc::EAGAIN, nix::libc::ENOMEM] {
            assert!(is_exhaustion(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for error in [io::Error::from_raw_os_error(nix::libc::ENOENT), io::Error::other("Too many open files")] {
            assert!(!is_exhaustion(&error), "{error}");
        }
        assert!(suffice_for_start());
    }
}
