//! Why an instance stopped serving.

use crate::sandbox::{LaunchError, SandboxExit};

/// Why an instance does not serve any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It could not be started.
    LaunchFailed(LaunchError),
    /// It exited before it was ready.
    BootFailed(SandboxExit),
    /// It was not ready within `boot-timeout`.
    BootTimedOut,
    /// It exited while it was ready.
    Exited(SandboxExit),
    /// It was idle for its keepalive.
    Idle,
    /// It was idle, and another function needed its memory.
    Evicted,
    /// It has served its one request.
    SingleUse,
    /// It failed a request.
    RequestFailed,
    /// The function's spec has changed, or no caller waits for the instance any more.
    Outdated,
    /// The function is being removed, or the daemon ends.
    Drained,
    /// An actor panicked.
    Bug,
}

impl StopReason {
    /// Returns the text for logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            StopReason::LaunchFailed(_) => "launch failed",
            StopReason::BootFailed(_) => "boot failed",
            StopReason::BootTimedOut => "boot timed out",
            StopReason::Exited(_) => "exited",
            StopReason::Idle => "idle",
            StopReason::Evicted => "evicted",
            StopReason::SingleUse => "single use",
            StopReason::RequestFailed => "failed a request",
            StopReason::Outdated => "outdated",
            StopReason::Drained => "drained",
            StopReason::Bug => "bug",
        }
    }
}
