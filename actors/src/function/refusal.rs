//! Why a caller got no slot. The HTTP front turns each into a status; nothing here knows one.

use std::{sync::Arc, time::Duration};

use crate::{id::InstanceId, sandbox::SandboxExit, stats::Outcome};

/// Why a caller got no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The function's file is wrong; it serves again once the file is mended.
    #[error("{reason}")]
    Misconfigured {
        /// Every problem of the file, one per line.
        reason: Arc<str>,
    },
    /// As many callers wait as the function allows.
    #[error("{waiting} requests are waiting already")]
    Saturated {
        /// Callers in the queue.
        waiting: usize,
        /// When a new attempt is likely to find room.
        retry_after: Duration,
    },
    /// The host has no memory, port or address left for another instance.
    #[error("{why}")]
    HostSaturated {
        /// What there is none left of.
        why: String,
        /// When a new attempt is likely to find room.
        retry_after: Duration,
    },
    /// The function or the whole daemon is going away. The caller may try elsewhere.
    #[error("the function is being shut down")]
    Draining,
    /// The instance that was to serve the caller could not be started.
    #[error("{why}")]
    StartFailed {
        /// Which one.
        instance: InstanceId,
        /// What the engine said.
        why: String,
    },
    /// The instance that was to serve the caller ended before it was ready.
    #[error("the instance ended before it was ready: {exit}")]
    BootFailed {
        /// Which one.
        instance: InstanceId,
        /// How it ended.
        exit: SandboxExit,
        /// The last it printed.
        output: Vec<String>,
    },
    /// The instance that was to serve the caller was not ready in time.
    #[error("the instance was not ready within {:.3} s", after.as_secs_f64())]
    BootTimedOut {
        /// Which one.
        instance: InstanceId,
        /// The time it had.
        after: Duration,
        /// The last it printed.
        output: Vec<String>,
    },
    /// The instances that were to serve callers failed so often that no further one is started for a while.
    #[error("{last}; this happens again and again, and the next start is tried in {:.1} s", retry_after.as_secs_f64())]
    Failing {
        /// What became of the last one.
        last: Box<Refusal>,
        /// When the next one is started.
        retry_after: Duration,
    },
    /// No slot became free before the caller's deadline.
    #[error("no instance had room within {:.3} s", after.as_secs_f64())]
    QueueTimedOut {
        /// How long the caller waited.
        after: Duration,
    },
    /// An actor died of a bug before it answered. Its successor will serve the next attempt.
    #[error("the request was lost inside the daemon")]
    Lost,
}

impl Refusal {
    /// What was said first, if this repeats it.
    pub fn root(&self) -> &Refusal {
        match self {
            Refusal::Failing { last, .. } => last.root(),
            other => other,
        }
    }

    /// How the request is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Refusal::Misconfigured { .. } => Outcome::FunctionMisconfigured,
            Refusal::Saturated { .. } => Outcome::FunctionSaturated,
            Refusal::HostSaturated { .. } => Outcome::HostSaturated,
            Refusal::Draining => Outcome::Draining,
            Refusal::StartFailed { .. } => Outcome::StartFailed,
            Refusal::BootFailed { .. } => Outcome::BootFailed,
            Refusal::BootTimedOut { .. } => Outcome::BootTimedOut,
            Refusal::Failing { last, .. } => last.outcome(),
            Refusal::QueueTimedOut { .. } => Outcome::QueueTimedOut,
            Refusal::Lost => Outcome::Internal,
        }
    }
}
