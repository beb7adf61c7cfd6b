//! Waits with a time limit. At its limit, each panics at the caller's line and shows what it saw last.
//!
//! A failed test also prints the state and the log of each of its daemons: see the destructor in `daemon.rs`.

use std::{fmt::Debug, panic::Location, thread, time::Duration};

use tokio::time::{Instant, sleep, timeout};

const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Longest description of what was seen, in characters.
const MAX_SEEN: usize = 20_000;

/// Calls `look` repeatedly until `done` accepts its result, and returns that result.
///
/// # Panics
/// When no result is accepted within `limit`. The message shows the last result.
#[track_caller]
pub fn eventually<T: Debug>(
    limit: Duration,
    what: impl Into<String>,
    mut look: impl AsyncFnMut() -> T,
    mut done: impl FnMut(&T) -> bool,
) -> impl Future<Output = T> {
    let (caller, what) = (Location::caller(), what.into());
    async move {
        let mut last = None;
        let looks = async {
            loop {
                let seen = look().await;
                if done(&seen) {
                    return seen;
                }
                last = Some(seen);
                sleep(LOOK_INTERVAL).await;
            }
        };
        match timeout(limit, looks).await {
            Ok(seen) => seen,
            Err(_) => give_up(caller, limit, &what, last.as_ref()),
        }
    }
}

/// Like [`eventually`], outside of a runtime: blocks the thread.
///
/// # Panics
/// See [`eventually`].
#[track_caller]
pub fn eventually_blocking<T: Debug>(
    limit: Duration,
    what: &str,
    look: impl FnMut() -> T,
    done: impl FnMut(&T) -> bool,
) -> T {
    poll_blocking(limit, look, done).unwrap_or_else(|last| give_up(Location::caller(), limit, what, Some(&last)))
}

/// Calls `look` repeatedly until `done` accepts its result or `limit` is over. Returns the last result, as an error in the
/// second case. For destructors, which must not panic while the test does.
pub(crate) fn poll_blocking<T>(
    limit: Duration,
    mut look: impl FnMut() -> T,
    mut done: impl FnMut(&T) -> bool,
) -> Result<T, T> {
    let until = Instant::now() + limit;
    loop {
        let seen = look();
        if done(&seen) {
            return Ok(seen);
        }
        if Instant::now() > until {
            return Err(seen);
        }
        pause();
    }
}

/// Awaits a future with a time limit.
///
/// # Panics
/// When it takes longer than `limit`.
#[track_caller]
pub fn within<F: Future>(limit: Duration, what: impl Into<String>, future: F) -> impl Future<Output = F::Output> {
    let (caller, what) = (Location::caller(), what.into());
    async move {
        match timeout(limit, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: took longer than {limit:?}: {what}"),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "outside of any runtime, or in a destructor")]
fn pause() {
    thread::sleep(LOOK_INTERVAL);
}

fn give_up(caller: &Location<'_>, limit: Duration, what: &str, last: Option<&impl Debug>) -> ! {
    let seen = last.map_or_else(|| "nothing: the first look has not returned".to_owned(), |last| format!("{last:?}"));
    let cut = seen.char_indices().nth(MAX_SEEN).map_or(seen.as_str(), |(end, _)| &seen[..end]);
    panic!("{caller}: not within {limit:?}: {what}; seen last: {cut}");
}
