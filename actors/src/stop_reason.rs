//! Why an instance stopped serving.

use crate::sandbox::{LaunchError, RestoreError, SandboxExit, SnapshotInfo};

/// Why an instance does not serve any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It could not be started.
    LaunchFailed(LaunchError),
    /// It exited before it was ready.
    BootFailed(SandboxExit),
    /// It was not ready within `boot-timeout`, and what was seen of it until then.
    BootTimedOut(String),
    /// It called back and accepted no connection, and what was seen instead.
    Unreachable(String),
    /// It exited while it was ready.
    Exited(SandboxExit),
    /// It could not be resumed after a pause, and why.
    ResumeFailed(String),
    /// It was to be a clone, could not be restored or accepted no connection, and why.
    RestoreFailed(RestoreError),
    /// It was a template, and its snapshot was taken.
    Captured(SnapshotInfo),
    /// It was a template, and no snapshot could be taken, and why.
    CaptureFailed(String),
    /// It was idle for its keepalive, and paused as long as the function wants.
    Idle,
    /// It was idle, and another function needed its memory.
    Evicted,
    /// It has served its one request.
    SingleUse,
    /// It failed a request.
    RequestFailed,
    /// The function's spec has changed, the function is being restarted, or no caller waits for the instance any more.
    Outdated,
    /// The function is being removed, or the daemon ends.
    Drained,
    /// An operator has stopped it.
    Stopped,
    /// An actor panicked.
    Bug,
}

impl StopReason {
    /// Returns the stable name in logs and at `/debug`.
    pub const fn code(&self) -> &'static str {
        match self {
            StopReason::LaunchFailed(_) => "launch_failed",
            StopReason::BootFailed(_) => "boot_failed",
            StopReason::BootTimedOut(_) => "boot_timed_out",
            StopReason::Unreachable(_) => "unreachable",
            StopReason::Exited(_) => "exited",
            StopReason::ResumeFailed(_) => "resume_failed",
            StopReason::RestoreFailed(_) => "restore_failed",
            StopReason::Captured(_) => "captured",
            StopReason::CaptureFailed(_) => "capture_failed",
            StopReason::Idle => "idle",
            StopReason::Evicted => "evicted",
            StopReason::SingleUse => "single_use",
            StopReason::RequestFailed => "request_failed",
            StopReason::Outdated => "outdated",
            StopReason::Drained => "drained",
            StopReason::Stopped => "stopped",
            StopReason::Bug => "bug",
        }
    }

    /// Returns whether it could not be started, or was not ready in time.
    pub const fn is_failed_start(&self) -> bool {
        matches!(
            self,
            StopReason::LaunchFailed(_)
                | StopReason::BootFailed(_)
                | StopReason::BootTimedOut(_)
                | StopReason::Unreachable(_)
        )
    }

    /// Returns whether nothing failed: the instance is not needed any more.
    pub const fn is_orderly(&self) -> bool {
        match self {
            StopReason::Captured(_)
            | StopReason::Idle
            | StopReason::Evicted
            | StopReason::SingleUse
            | StopReason::Outdated
            | StopReason::Drained
            | StopReason::Stopped => true,
            StopReason::LaunchFailed(_)
            | StopReason::BootFailed(_)
            | StopReason::BootTimedOut(_)
            | StopReason::Unreachable(_)
            | StopReason::Exited(_)
            | StopReason::ResumeFailed(_)
            | StopReason::RestoreFailed(_)
            | StopReason::CaptureFailed(_)
            | StopReason::RequestFailed
            | StopReason::Bug => false,
        }
    }
}
