//! What was counted of one function or several, at one moment.

use super::{
    Outcome, PrewarmResult,
    function::FunctionStats,
    histogram::{BOOT_BUCKETS, HistogramTotals, REQUEST_BUCKETS, WAIT_BUCKETS},
};
use crate::{boot::Origin, sandbox::SandboxExit, stop_reason::StopReason};

/// What a request waited for before its dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCause {
    /// The function's instances were busy.
    Slot,
    /// An instance was booted, restored or resumed.
    Boot,
    /// The host had no memory, or no permission to start, for another instance.
    Host,
}

impl WaitCause {
    /// Every cause, in the order of the discriminants.
    pub const ALL: [WaitCause; 3] = [WaitCause::Slot, WaitCause::Boot, WaitCause::Host];

    /// Returns the stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            WaitCause::Slot => "slot",
            WaitCause::Boot => "boot",
            WaitCause::Host => "host",
        }
    }
}

/// Why instances ended: the codes of [`StopReason`], and an end for lack of memory, however it came about.
pub(super) const END_CAUSES: [&str; 18] = [
    "launch_failed",
    "boot_failed",
    "boot_timed_out",
    "unreachable",
    "exited",
    "resume_failed",
    "restore_failed",
    "captured",
    "capture_failed",
    "out_of_memory",
    "idle",
    "evicted",
    "single_use",
    "request_failed",
    "outdated",
    "drained",
    "stopped",
    "bug",
];

/// Returns the position of a cause among [`END_CAUSES`].
pub(super) fn end_cause(reason: &StopReason, exit: Option<&SandboxExit>) -> usize {
    let seen = match reason {
        StopReason::Exited(exit) | StopReason::BootFailed(exit) => Some(exit),
        // It failed a request because it ran out of memory.
        StopReason::RequestFailed => exit,
        _ => None,
    };
    let code = match seen {
        Some(SandboxExit::OutOfMemory { .. }) => "out_of_memory",
        _ => reason.code(),
    };
    END_CAUSES.iter().position(|cause| *cause == code).unwrap_or(END_CAUSES.len() - 1)
}

/// Sums of counters.
#[derive(Debug, Clone)]
pub struct FunctionTotals {
    pub(super) outcomes: [u64; Outcome::ALL.len()],
    pub(super) classes: [u64; 5],
    pub(super) ended: [u64; END_CAUSES.len()],
    pub(super) waits: [HistogramTotals<8>; WaitCause::ALL.len()],
    /// Of all requests that have ended.
    pub durations: HistogramTotals<14>,
    /// Of all successful boots.
    pub boots: HistogramTotals<14>,
    /// Bytes of request bodies.
    pub request_bytes: u64,
    /// Bytes of response bodies.
    pub response_bytes: u64,
    /// Requests that waited for an instance to be booted or restored.
    pub cold: u64,
    /// Instances that were started, successfully or not.
    pub started: u64,
    /// Instances that were paused to make room for other functions.
    pub early_pauses: u64,
    pub(super) prewarms: [u64; PrewarmResult::ALL.len()],
    pub(super) starts: [u64; Origin::ALL.len()],
    /// Instances that could not be restored from a snapshot.
    pub restores_failed: u64,
}

impl Default for FunctionTotals {
    fn default() -> Self {
        Self {
            outcomes: [0; Outcome::ALL.len()],
            classes: [0; 5],
            ended: [0; END_CAUSES.len()],
            waits: std::array::from_fn(|_| HistogramTotals::new(&WAIT_BUCKETS)),
            durations: HistogramTotals::new(&REQUEST_BUCKETS),
            boots: HistogramTotals::new(&BOOT_BUCKETS),
            request_bytes: 0,
            response_bytes: 0,
            cold: 0,
            started: 0,
            early_pauses: 0,
            prewarms: [0; PrewarmResult::ALL.len()],
            starts: [0; Origin::ALL.len()],
            restores_failed: 0,
        }
    }
}

impl FunctionTotals {
    /// Adds the counters of a function.
    pub(super) fn add(&mut self, stats: &FunctionStats) {
        stats.add_to(self);
    }

    /// Returns the requests that have ended, by outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().zip(self.outcomes)
    }

    /// Returns the responses of the function by the class of their status.
    pub fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(self.classes)
    }

    /// Returns the starts that have succeeded, by their origin.
    pub fn starts(&self) -> impl Iterator<Item = (Origin, u64)> {
        Origin::ALL.into_iter().zip(self.starts)
    }

    /// Returns the instances that were started ahead of requests, by result.
    pub fn prewarms(&self) -> impl Iterator<Item = (PrewarmResult, u64)> {
        PrewarmResult::ALL.into_iter().zip(self.prewarms)
    }

    /// Returns the instances that have ended, by cause.
    pub fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        END_CAUSES.into_iter().zip(self.ended)
    }

    /// Returns how long requests waited, by cause. Each request that waited is counted.
    pub fn waits(&self) -> impl Iterator<Item = (WaitCause, &HistogramTotals<8>)> {
        WaitCause::ALL.into_iter().zip(&self.waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sandbox::{LaunchError, RestoreError, SnapshotInfo},
        wall_time::WallTime,
    };

    #[test]
    fn each_end_has_a_cause_of_its_own() {
        let code = SandboxExit::Code(1);
        let memory = SandboxExit::OutOfMemory { limit: 1 };
        let reasons = [
            StopReason::LaunchFailed(LaunchError::Refused(String::new())),
            StopReason::BootFailed(code.clone()),
            StopReason::BootTimedOut(String::new()),
            StopReason::Unreachable(String::new()),
            StopReason::Exited(code),
            StopReason::ResumeFailed(String::new()),
            StopReason::RestoreFailed(RestoreError::Failed(String::new())),
            StopReason::Captured(SnapshotInfo { bytes: 1, taken: WallTime::now() }),
            StopReason::CaptureFailed(String::new()),
            StopReason::Exited(memory.clone()),
            StopReason::Idle,
            StopReason::Evicted,
            StopReason::SingleUse,
            StopReason::RequestFailed,
            StopReason::Outdated,
            StopReason::Drained,
            StopReason::Stopped,
            StopReason::Bug,
        ];
        for (position, reason) in reasons.iter().enumerate() {
            assert_eq!(end_cause(reason, None), position, "{reason:?}");
        }
        assert_eq!(END_CAUSES[end_cause(&StopReason::BootFailed(memory.clone()), None)], "out_of_memory");
        assert_eq!(END_CAUSES[end_cause(&StopReason::RequestFailed, Some(&memory))], "out_of_memory");
        assert_eq!(END_CAUSES[end_cause(&StopReason::Idle, Some(&memory))], "idle");
        for (position, cause) in WaitCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, position);
        }
    }
}
