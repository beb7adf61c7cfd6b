//! What a schedule does next: which instant fires, and what is done about runs that were missed. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::spec::{CronSpec, Missed};

/// A run that is at most so late counts as being on time: a restart or a busy host has delayed it.
const ON_TIME: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// What a schedule does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It fires for this instant, and everything before it is settled.
    Fire(Timestamp),
    /// It waits for this instant. `None`: it does not fire any more.
    Wait(Option<Timestamp>),
}

/// Returns the next step at `now` of a schedule that has settled every instant up to `settled`.
///
/// Runs that are on time fire each, in order. Earlier ones were missed: `missed` says what is done about those that are not
/// older than `missed-within`.
pub fn step(spec: &CronSpec, settled: Timestamp, now: Timestamp) -> Step {
    let next_after = |time| spec.schedule.next_after(time);
    // Instants are whole seconds, and so are the bounds here.
    let now = before(now, Duration::ZERO);
    let on_time = before(now, ON_TIME + SECOND);
    let oldest = before(now, spec.missed_within.max(ON_TIME).saturating_add(SECOND));
    let Some(first) = next_after(settled.max(oldest)) else { return Step::Wait(None) };
    if first > now {
        return Step::Wait(Some(first));
    }
    if first > on_time || spec.missed == Missed::All {
        return Step::Fire(first);
    }
    // A run that is on time stands for those that were missed.
    match (spec.missed, next_after(on_time.max(settled))) {
        (_, Some(next)) if next <= now => Step::Fire(next),
        (Missed::Skip, next) => Step::Wait(next),
        (Missed::Once | Missed::All, _) => {
            let last = spec.schedule.last_until(on_time).filter(|last| *last > first);
            Step::Fire(last.unwrap_or(first))
        }
    }
}

/// Returns the whole second so long before a time, or the earliest time.
fn before(time: Timestamp, duration: Duration) -> Timestamp {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    whole.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
