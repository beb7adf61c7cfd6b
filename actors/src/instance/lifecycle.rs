//! The lifecycle of one instance, from the launch order to the last reclaimed resource.
//!
//! Pure: it touches no process, socket or clock. The InstanceActor feeds it events with the current time and carries out
//! the effects that it returns. `function/scaling.rs` decides how many instances exist; only `function/slots.rs` knows
//! whether one is idle, and the FunctionActor stops it when its keepalive has elapsed.
//!
//! ```text
//!                               Paused ◄── Pausing
//!                                 │          ▲
//!                                 ▼          │
//!                              Resuming ──► Serving
//!
//!   Launching ──► Booting ──► Serving ──► Stopping ──► Reaping ──► Gone
//!       │            │           │  an exit, in any state ▲            ▲
//!       │            └───────────┴────────────────────────┘            │
//!       └── the launch failed: nothing was created ────────────────────┘
//!
//!   Launching ──► Verifying ──► Serving             a clone that was restored
//!   Launching ──► Booting ──► Capturing ──► Stopping            a template
//! ```
//!
//! A callback is a claim: an instance serves once a connection to it was opened. An instance whose boot times out is
//! asked for the reason before it is stopped, as long as it can still be seen.
//!
//! The function pauses an instance that serves nothing, and resumes it before it gives it a request. A resumption that is
//! ordered while the instance is being paused follows the pause. An instance that cannot be paused serves on. It
//! is killed if it cannot be resumed. Stops and exits are the same in these states as in `Serving`: the sandbox resumes what it ends.
//! Other programs can pause it too: then it is resumed when it is needed, which it is at once while it boots.
//!
//! A clone runs as soon as it is launched. It has the time that a caller can spare to accept a connection; callbacks mean
//! nothing. A template boots like any instance. In place of serving, its snapshot is taken, and it is killed.
//!
//! Every state has at most one alarm. Each alarm carries a serial number, so an alarm that fires after it was replaced is
//! ignored. `Lost` is emitted exactly once, before `Stopping`, `Reaping` or `Gone` is entered: from then on the function
//! does not use the instance. `Gone` is final.

mod states;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    callback::CallbackOutcome,
    sandbox::{LaunchError, RestoreError},
    stop_reason::StopReason,
};
pub(super) use states::{Effect, Event, LaunchIntent, State};

/// How long the reason of a boot timeout may take to be found out.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the exit of a killed instance is awaited before its resources are reclaimed without it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a pause may take. The sandbox gives up earlier, and lets the instance run.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a resumption may take: callers wait for it.
const RESUME_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a restored clone may take to accept a connection: callers wait for it.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// The time limits of an instance, from its function's spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub boot_timeout: Duration,
    pub stop_grace: Duration,
    /// How long its snapshot may take. `None`: it is no template.
    pub capture_timeout: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Lifecycle {
    state: State,
    since: Instant,
    /// Counts changes of state.
    epoch: u64,
    /// The serial of the alarm that is set, or of the last one.
    alarm: u64,
    times: Times,
}

impl Lifecycle {
    /// Begins a lifecycle. The caller orders the launch.
    pub fn begin(now: Instant, times: Times) -> (Self, Vec<Effect>) {
        let state = State::Launching(LaunchIntent::Serve);
        let mut lifecycle = Self { state, since: now, epoch: 0, alarm: 0, times };
        let alarm = lifecycle.set_alarm(now + times.boot_timeout);
        (lifecycle, vec![alarm])
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Judges a callback with the right token from the address `from`. `None`: the instance's address is not known yet, so
    /// the caller asks again after the launch.
    pub fn callback(&mut self, from: IpAddr, now: Instant) -> (Option<CallbackOutcome>, Vec<Effect>) {
        match self.state {
            State::Launching(LaunchIntent::Serve) => (None, Vec::new()),
            State::Booting { callback_source: Some(source) } if source == from => {
                // The boot alarm stays set.
                self.enter(State::Connecting, now);
                (Some(CallbackOutcome::Accepted), vec![Effect::Connect])
            }
            State::Booting { callback_source: Some(_) } => (Some(CallbackOutcome::WrongSource), Vec::new()),
            _ => (Some(CallbackOutcome::NotExpected), Vec::new()),
        }
    }

    /// Applies an event and returns its effects. An event without meaning in the present state has none, such as a late
    /// alarm or a second stop.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if matches!(event, Event::Alarm(serial) if serial != self.alarm) {
            return Vec::new();
        }
        match (self.state.clone(), event) {
            (State::Launching(LaunchIntent::Serve), Event::Launched { restored: true, .. }) => {
                self.enter(State::Verifying, now);
                vec![self.set_alarm(now + VERIFY_TIMEOUT), Effect::Probe]
            }
            (State::Launching(LaunchIntent::Serve), Event::Launched { callback_source, .. }) => {
                // The boot alarm stays set: it counts from the launch order.
                self.enter(State::Booting { callback_source }, now);
                vec![Effect::Probe]
            }
            (State::Launching(intent), Event::Launched { .. }) => self.stop(intent == LaunchIntent::Kill, now),
            (State::Launching(intent), Event::LaunchFailed(error)) => {
                self.enter(State::Gone, now);
                let reason = match error {
                    LaunchError::NotRestored(why) => StopReason::RestoreFailed(why),
                    error => StopReason::LaunchFailed(error),
                };
                let lost = (intent == LaunchIntent::Serve).then_some(Effect::Lost(reason));
                lost.into_iter().chain([self.clear_alarm(), Effect::Finish]).collect()
            }
            (State::Launching(LaunchIntent::Serve), Event::Stop { reason, now: at_once }) => {
                self.cancel_launch(reason, if at_once { LaunchIntent::Kill } else { LaunchIntent::Cancel })
            }
            (State::Launching(LaunchIntent::Serve), Event::Alarm(_)) => {
                let why = "its launch had not finished".to_owned();
                self.cancel_launch(StopReason::BootTimedOut(why), LaunchIntent::Cancel)
            }
            (State::Launching(LaunchIntent::Cancel), Event::Stop { now: true, .. }) => {
                self.state = State::Launching(LaunchIntent::Kill);
                Vec::new()
            }

            (State::Booting { .. } | State::Connecting | State::Verifying, Event::Reached) => self.ready(now),
            (State::Connecting, Event::Unreachable(why)) => self.lose(StopReason::Unreachable(why), false, now),
            (State::Booting { .. } | State::Connecting, Event::Alarm(_)) => {
                self.enter(State::Explaining, now);
                vec![self.set_alarm(now + EXPLAIN_TIMEOUT), Effect::Explain]
            }
            (State::Explaining, Event::Explained(why)) => self.lose(StopReason::BootTimedOut(why), false, now),
            (State::Explaining, Event::Alarm(_)) => {
                let why = "the reason could not be found out".to_owned();
                self.lose(StopReason::BootTimedOut(why), false, now)
            }
            (State::Booting { .. } | State::Connecting | State::Explaining, Event::Exited(exit)) => {
                self.reap(Some(StopReason::BootFailed(exit)), now)
            }

            (State::Verifying, Event::Alarm(_)) => {
                let why = format!("the clone accepted no connection within {VERIFY_TIMEOUT:?}");
                self.lose(StopReason::RestoreFailed(RestoreError::TimedOut(why)), true, now)
            }
            (State::Verifying, Event::Exited(exit)) => {
                let error = RestoreError::Failed(format!("the clone ended: {exit}"));
                self.reap(Some(StopReason::RestoreFailed(error)), now)
            }
            (State::Capturing, Event::CaptureEnded(result)) => {
                let reason = match result {
                    Ok(snapshot) => StopReason::Captured(snapshot),
                    Err(error) => StopReason::CaptureFailed(error.to_string()),
                };
                self.lose(reason, true, now)
            }
            (State::Capturing, Event::Alarm(_)) => {
                self.lose(StopReason::CaptureFailed("it took too long".to_owned()), true, now)
            }
            (State::Capturing, Event::Exited(exit)) => {
                self.reap(Some(StopReason::CaptureFailed(format!("the template ended: {exit}"))), now)
            }

            (State::Serving, Event::Pause) => {
                self.enter(State::Pausing { resume: false }, now);
                vec![self.set_alarm(now + PAUSE_TIMEOUT), Effect::Pause]
            }
            (State::Serving, Event::PausedExternally) => {
                self.enter(State::Paused, now);
                vec![Effect::PausedExternally]
            }
            // Callers wait for it. The sandbox knows in which state it is, so a second order does no harm.
            (
                State::Booting { .. } | State::Connecting | State::Explaining | State::Resuming,
                Event::PausedExternally,
            ) => vec![Effect::Resume],
            (State::Pausing { .. }, Event::Resume) => {
                self.state = State::Pausing { resume: true };
                Vec::new()
            }
            (State::Pausing { resume: false }, Event::PauseEnded(Ok(()))) => {
                self.enter(State::Paused, now);
                vec![self.clear_alarm(), Effect::Paused]
            }
            (State::Pausing { resume: true }, Event::PauseEnded(Ok(()))) | (State::Paused, Event::Resume) => {
                self.enter(State::Resuming, now);
                vec![self.set_alarm(now + RESUME_TIMEOUT), Effect::Resume]
            }
            (State::Pausing { .. }, Event::PauseEnded(Err(error))) => {
                self.enter(State::Serving, now);
                vec![self.clear_alarm(), Effect::NotPaused(error)]
            }
            (State::Resuming, Event::ResumeEnded(Ok(()))) => {
                self.enter(State::Serving, now);
                vec![self.clear_alarm(), Effect::Resumed]
            }
            (State::Resuming, Event::ResumeEnded(Err(error))) => {
                self.lose(StopReason::ResumeFailed(error.to_string()), true, now)
            }
            (State::Pausing { .. }, Event::Alarm(_)) => {
                let why = format!("its pause took more than {PAUSE_TIMEOUT:?}");
                self.lose(StopReason::ResumeFailed(why), true, now)
            }
            (State::Resuming, Event::Alarm(_)) => {
                self.lose(StopReason::ResumeFailed(format!("it took more than {RESUME_TIMEOUT:?}")), true, now)
            }

            (State::Serving | State::Pausing { .. } | State::Paused | State::Resuming, Event::Exited(exit)) => {
                self.reap(Some(StopReason::Exited(exit)), now)
            }
            (
                State::Booting { .. }
                | State::Connecting
                | State::Explaining
                | State::Verifying
                | State::Capturing
                | State::Serving
                | State::Pausing { .. }
                | State::Paused
                | State::Resuming,
                Event::Stop { reason, now: at_once },
            ) => self.lose(reason, at_once, now),

            (State::Stopping { .. }, Event::Exited(_)) => self.reap(None, now),
            (State::Stopping { killed: false }, Event::Alarm(_) | Event::Stop { now: true, .. }) => self.kill(now),
            (State::Stopping { killed: true }, Event::Alarm(_)) => self.reap(None, now),

            (State::Reaping, Event::Reclaimed) => {
                self.enter(State::Gone, now);
                vec![Effect::Finish]
            }
            _ => Vec::new(),
        }
    }

    fn ready(&mut self, now: Instant) -> Vec<Effect> {
        if let Some(timeout) = self.times.capture_timeout {
            self.enter(State::Capturing, now);
            return vec![self.set_alarm(now + timeout), Effect::Capture];
        }
        self.enter(State::Serving, now);
        vec![self.clear_alarm(), Effect::Ready]
    }

    fn cancel_launch(&mut self, reason: StopReason, intent: LaunchIntent) -> Vec<Effect> {
        self.state = State::Launching(intent);
        vec![self.clear_alarm(), Effect::Lost(reason)]
    }

    fn lose(&mut self, reason: StopReason, at_once: bool, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::Lost(reason)];
        effects.extend(self.stop(at_once, now));
        effects
    }

    fn stop(&mut self, at_once: bool, now: Instant) -> Vec<Effect> {
        if at_once || self.times.stop_grace.is_zero() {
            return self.kill(now);
        }
        self.enter(State::Stopping { killed: false }, now);
        vec![Effect::Terminate, self.set_alarm(now + self.times.stop_grace)]
    }

    fn kill(&mut self, now: Instant) -> Vec<Effect> {
        self.enter(State::Stopping { killed: true }, now);
        vec![Effect::Kill, self.set_alarm(now + KILL_TIMEOUT)]
    }

    fn reap(&mut self, lost: Option<StopReason>, now: Instant) -> Vec<Effect> {
        self.enter(State::Reaping, now);
        lost.map(Effect::Lost).into_iter().chain([self.clear_alarm(), Effect::Reclaim]).collect()
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.epoch += 1;
    }

    fn set_alarm(&mut self, at: Instant) -> Effect {
        self.alarm += 1;
        Effect::SetAlarm { serial: self.alarm, at }
    }

    fn clear_alarm(&mut self) -> Effect {
        self.alarm += 1;
        Effect::ClearAlarm
    }
}
