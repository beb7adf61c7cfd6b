//! What follows from an attempt: done, another attempt, or the end as a dead letter. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{backoff::wait_after, time::UnixMillis};
use crate::spec::AsyncSpec;

/// The first and the longest wait while a function cannot be reached at all, as the host or the function has no room.
const UNTOUCHED_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered.
    Answered {
        /// Its status.
        status: u16,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// No instance was touched: the platform refused the request, or could not start an instance.
    Untouched {
        /// The platform's wish.
        retry_after: Option<Duration>,
    },
    /// An instance got the request and gave no answer.
    Failed,
    /// The request can never be served: it breaks a limit of the function.
    Unservable,
}

/// Why an invocation was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The function answered that it will not take the request.
    Rejected,
    /// Every attempt failed.
    AttemptsExhausted,
    /// It was not done within `max-age`.
    Expired,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Rejected, Self::AttemptsExhausted, Self::Expired];

    /// Returns the stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Expired => "expired",
        }
    }
}

/// What is to be recorded of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The function has answered.
    Done {
        /// Its status.
        status: u16,
    },
    /// The next attempt.
    Retry {
        /// When it is due.
        due: UnixMillis,
        /// Whether the last attempt counts.
        counts: bool,
    },
    /// No further attempt.
    Dead {
        /// Why there is none.
        reason: DeadReason,
        /// The status of the last answer, if there was one.
        status: Option<u16>,
    },
}

/// What is known of an invocation whose attempt has ended.
#[derive(Debug, Clone, Copy)]
pub struct Tried {
    /// Attempts that count, this one included.
    pub attempts: u32,
    /// Attempts in a row that touched no instance, this one included, of any invocation of the function.
    pub untouched: u32,
    /// When the invocation expires.
    pub deadline: UnixMillis,
}

/// Decides what follows from an attempt. `random` is from 0 to 1.
pub fn settle(tried: Tried, outcome: Outcome, spec: &AsyncSpec, now: UnixMillis, random: f64) -> Settlement {
    let (status, retry_after) = match outcome {
        Outcome::Answered { status, retry_after } => match status {
            _ if spec.retry_on.contains(status) => (Some(status), retry_after),
            400.. => return Settlement::Dead { reason: DeadReason::Rejected, status: Some(status) },
            _ => return Settlement::Done { status },
        },
        Outcome::Unservable => return Settlement::Dead { reason: DeadReason::Rejected, status: None },
        Outcome::Untouched { retry_after } => {
            let (first, most) = UNTOUCHED_BACKOFF;
            // Not below the half of the bound: a host without room must not be asked all the time.
            let wait = wait_after(tried.untouched, first, most, retry_after, 0.5 + random / 2.0);
            return retry(now.after(wait), false, tried.deadline);
        }
        Outcome::Failed => (None, None),
    };
    if now >= tried.deadline {
        return Settlement::Dead { reason: DeadReason::Expired, status };
    }
    if tried.attempts as usize >= spec.attempts.get() {
        return Settlement::Dead { reason: DeadReason::AttemptsExhausted, status };
    }
    let wait = wait_after(tried.attempts, spec.backoff, spec.backoff_max, retry_after, random);
    retry(now.after(wait), true, tried.deadline)
}

/// An invocation whose next attempt would be too late is due when it expires, and ends then.
fn retry(due: UnixMillis, counts: bool, deadline: UnixMillis) -> Settlement {
    Settlement::Retry { due: due.min(deadline), counts }
}
