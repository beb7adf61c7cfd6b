//! Why a caller got no slot. The HTTP front maps each refusal to a status.

use std::{sync::Arc, time::Duration};

use crate::{id::InstanceId, sandbox::SandboxExit, stats::Outcome};

/// Why a caller got no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The function's file has errors. The function serves again once they are corrected.
    #[error("{reason}")]
    Misconfigured {
        /// Every problem of the file, one per line.
        reason: Arc<str>,
    },
    /// The function's queue is full.
    #[error("{waiting} requests are waiting already")]
    Saturated {
        /// Callers in the queue.
        waiting: usize,
        /// When the queue is likely to have space.
        retry_after: Duration,
    },
    /// The host lacks memory, a port, an address or the right to start another instance.
    #[error("{why}")]
    HostSaturated {
        /// The missing resource.
        why: String,
        /// When the resource is likely to be available. `None`: never, the host is too small.
        retry_after: Option<Duration>,
    },
    /// The function or the daemon is shutting down.
    #[error("the function is being shut down")]
    Draining,
    /// The instance for the caller could not be started.
    #[error("{why}")]
    StartFailed {
        /// The instance.
        instance: InstanceId,
        /// The sandbox's error.
        why: String,
    },
    /// The instance for the caller exited before it was ready, or just afterwards and unused.
    #[error("the instance ended before it served a request: {exit}")]
    BootFailed {
        /// The instance.
        instance: InstanceId,
        /// How it exited.
        exit: SandboxExit,
        /// The last lines that it printed.
        output: Vec<String>,
    },
    /// The instance for the caller called back, and accepted no connection.
    #[error("{why}")]
    Unreachable {
        /// The instance.
        instance: InstanceId,
        /// What was seen of it.
        why: Box<str>,
        /// The last lines that it printed.
        output: Vec<String>,
    },
    /// The instance for the caller was not ready in time.
    #[error("the instance was not ready within {:.3} s: {why}", after.as_secs_f64())]
    BootTimedOut {
        /// The instance.
        instance: InstanceId,
        /// The function's `boot-timeout`.
        after: Duration,
        /// What was seen of it.
        why: Box<str>,
        /// The last lines that it printed.
        output: Vec<String>,
    },
    /// Starts failed several times in a row, and the next one is delayed.
    #[error("{last}; this happens again and again, and the next start is tried in {:.1} s", retry_after.as_secs_f64())]
    Failing {
        /// The last failure.
        last: Box<Refusal>,
        /// When the next start is tried.
        retry_after: Duration,
    },
    /// No slot became free within `queue-timeout`.
    #[error("no instance had room within {:.3} s", after.as_secs_f64())]
    QueueTimedOut {
        /// How long the caller waited.
        after: Duration,
    },
    /// An actor panicked before it answered.
    #[error("the request was lost inside the daemon")]
    Lost,
}

impl Refusal {
    /// Returns the original refusal that a [`Refusal::Failing`] repeats, or this one.
    pub fn root(&self) -> &Refusal {
        match self {
            Refusal::Failing { last, .. } => last.root(),
            other => other,
        }
    }

    /// Returns the outcome under which the request is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Refusal::Misconfigured { .. } => Outcome::FunctionMisconfigured,
            Refusal::Saturated { .. } => Outcome::FunctionSaturated,
            Refusal::HostSaturated { .. } => Outcome::HostSaturated,
            Refusal::Draining => Outcome::Draining,
            Refusal::StartFailed { .. } => Outcome::StartFailed,
            Refusal::BootFailed { .. } | Refusal::Unreachable { .. } => Outcome::BootFailed,
            Refusal::BootTimedOut { .. } => Outcome::BootTimedOut,
            Refusal::Failing { last, .. } => last.outcome(),
            Refusal::QueueTimedOut { .. } => Outcome::QueueTimedOut,
            Refusal::Lost => Outcome::Internal,
        }
    }
}
