//! The limit on open files: raised at start as far as it can be, given back to children as it was, and checked before
//! something is begun that would run into it.
//!
//! Every connection is a file, and so are most of the holds on an instance. Where none can be opened any more, the
//! server waits half a second before it accepts again, and starts are refused as a whole instead of failing half-way.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::OnceLock,
    thread,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use slog::{Logger, debug, warn};

/// Enough for 30,000 requests at a time: each has a connection to its client and one to its instance.
const ENOUGH: u64 = 65_536;
/// With less, a busy daemon may well come to the end of it.
const FEW: u64 = 8_192;
/// What it takes to serve at all: for each thread of the server, and for all else.
const FOR_A_THREAD: u64 = 8;
const FOR_THE_DAEMON: u64 = 64;
/// What a cold start needs for itself, for a moment, of whichever kind the instance is.
const FOR_A_START: usize = 16;

/// The limits, soft and hard, that the daemon was started with.
static INHERITED: OnceLock<(u64, u64)> = OnceLock::new();

/// With less, not even the threads of the server start.
pub fn least() -> u64 {
    FOR_THE_DAEMON + FOR_A_THREAD * thread::available_parallelism().map_or(1, |threads| threads.get() as u64)
}

/// Raises the limit. To be called once, before there are children.
///
/// # Errors
/// The limit, when it is less than [`least`].
pub fn raise(log: &Logger) -> Result<(), u64> {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => *INHERITED.get_or_init(|| limits),
        Err(error) => {
            warn!(log, "the limit on open files is not known"; "error" => %error);
            return Ok(());
        }
    };
    // Beyond the hard limit if that is allowed, else up to it.
    let mut limits = [hard.max(ENOUGH), hard].into_iter();
    let raised = limits.find(|limit| setrlimit(Resource::RLIMIT_NOFILE, *limit, *limit).is_ok());
    let limit = raised.unwrap_or(soft);
    debug!(log, "limit on open files"; "was" => soft, "is" => limit);
    if limit < least() {
        return Err(limit);
    }
    if limit < FEW {
        warn!(log, "few files may be open at once, and each request needs two: raise the hard limit (ulimit -Hn, or \
            LimitNOFILE= of the service)"; "limit" => limit, "requests_at_once" => limit / 2, "enough" => ENOUGH);
    }
    Ok(())
}

/// What children get: many programs expect the small numbers that used to be, some try each of them.
pub fn inherited() -> Option<(u64, u64)> {
    INHERITED.get().copied()
}

/// How many connections of clients there can be, so that those to the instances, and starts, find files as well.
pub fn connections() -> usize {
    usize::try_from(limit() / 3).unwrap_or(usize::MAX).max(1)
}

/// What holds now: somebody may have changed it.
fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// Whether a start would find the files that it needs.
pub fn suffice_for_a_start() -> bool {
    let open = || io::stdout().as_fd().try_clone_to_owned();
    match open() {
        // Numbers are given from the lowest up: unless there have just been far more, half of them are free.
        Ok(file) if (file.as_raw_fd() as u64) < limit() / 2 => true,
        // Standard output may be closed; that says nothing.
        Err(error) if !is_exhaustion(&error) => true,
        _ => (0..FOR_A_START).map(|_| open()).collect::<io::Result<Vec<OwnedFd>>>().is_ok(),
    }
}

/// Whether an error says that the host, or what this process may have of it, is used up.
pub fn is_exhaustion(error: &io::Error) -> bool {
    // The last is said when no local port is left for a connection.
    use nix::libc::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let used_up = [EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|number| used_up.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_exhaustion() {
        for number in [nix::libc::EMFILE, nix::libc::ENFILE, nix::libc::EAGAIN, nix::libc::ENOMEM] {
            assert!(is_exhaustion(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for error in [io::Error::from_raw_os_error(nix::libc::ENOENT), io::Error::other("Too many open files")] {
            assert!(!is_exhaustion(&error), "{error}");
        }
        assert!(suffice_for_a_start());
    }
}
