//! The states of an instance, the events that change them, and the effects that follow. `lifecycle.rs` has the rules.

use std::net::IpAddr;

use tokio::time::Instant;

use crate::{
    sandbox::{CaptureError, LaunchError, PauseError, SandboxExit, SnapshotInfo},
    stop_reason::StopReason,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::instance) enum State {
    /// The sandbox is creating it.
    Launching(LaunchIntent),
    /// It runs and has until the alarm to become ready. Without an address, no callback is recognized as its own.
    Booting {
        callback_source: Option<IpAddr>,
    },
    /// It has called back and has until the alarm to accept a connection.
    Connecting,
    /// Its boot has timed out, and the reason is being found out.
    Explaining,
    /// It was restored, and has until the alarm to accept a connection.
    Verifying,
    /// Its snapshot is being taken, until the alarm.
    Capturing,
    /// It accepts requests.
    Serving,
    /// It is being paused and has until the alarm. `resume`: it is to be resumed then.
    Pausing {
        resume: bool,
    },
    /// It does not run, and accepts no requests before it is resumed.
    Paused,
    /// It is being resumed and has until the alarm.
    Resuming,
    /// It was asked to exit. The first alarm kills it, the second one gives up waiting for its exit.
    Stopping {
        killed: bool,
    },
    /// Its resources are being reclaimed.
    Reaping,
    Gone,
}

/// What happens to an instance as soon as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::instance) enum LaunchIntent {
    /// It boots and serves.
    Serve,
    /// It is not needed any more and is asked to exit.
    Cancel,
    /// It is not needed any more and is killed without grace.
    Kill,
}

/// What happens to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::instance) enum Event {
    Launched {
        callback_source: Option<IpAddr>,
        /// It is a clone, and runs already.
        restored: bool,
    },
    LaunchFailed(LaunchError),
    /// A probe has found that it accepts requests.
    Reached,
    /// It has called back and accepts no connection, for this reason.
    Unreachable(String),
    /// The reason of its boot timeout was found out.
    Explained(String),
    Exited(SandboxExit),
    /// The function stops it. `now`: without grace.
    Stop {
        reason: StopReason,
        now: bool,
    },
    /// The function pauses it: it serves nothing, and gets no request before it has been resumed.
    Pause,
    /// The function needs it again.
    Resume,
    /// Another program has paused it.
    PausedExternally,
    /// The sandbox has paused it, or lets it run for this reason.
    PauseEnded(Result<(), PauseError>),
    /// The sandbox has resumed it, or could not.
    ResumeEnded(Result<(), PauseError>),
    /// Its snapshot was taken, or not for this reason.
    CaptureEnded(Result<SnapshotInfo, CaptureError>),
    /// The alarm of that serial number fired.
    Alarm(u64),
    Reclaimed,
}

/// What the InstanceActor has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::instance) enum Effect {
    SetAlarm {
        serial: u64,
        at: Instant,
    },
    ClearAlarm,
    /// Probe its readiness, unless it calls back.
    Probe,
    /// Connect to it, as it has called back.
    Connect,
    /// Find out why it is not ready.
    Explain,
    /// Report that it is ready.
    Ready,
    /// Take its snapshot.
    Capture,
    Pause,
    Resume,
    /// Report that it is paused.
    Paused,
    /// Report that another program has paused it.
    PausedExternally,
    /// Report that it accepts requests again.
    Resumed,
    /// Report that it accepts requests again, because it could not be paused.
    NotPaused(PauseError),
    /// Report that it accepts no more requests.
    Lost(StopReason),
    /// Ask it to exit.
    Terminate,
    Kill,
    Reclaim,
    Finish,
}
