//! The lifecycle of one instance, from the launch order to the last reclaimed resource.
//!
//! Pure: it touches no process, socket or clock. The InstanceActor feeds it events with the current time and carries out
//! the effects that it returns. `function/scaling.rs` decides how many instances exist; only `function/slots.rs` knows
//! whether one is idle, and the FunctionActor stops it when its keepalive has elapsed.
//!
//! ```text
//!   Launching ──► Booting ──► Serving ──► Stopping ──► Reaping ──► Gone
//!       │            │           │  an exit, in any state ▲            ▲
//!       │            └───────────┴────────────────────────┘            │
//!       └── the launch failed: nothing was created ────────────────────┘
//! ```
//!
//! Every state has at most one alarm. Each alarm carries a serial number, so an alarm that fires after it was replaced is
//! ignored. `Lost` is emitted exactly once, before `Stopping`, `Reaping` or `Gone` is entered: from then on the function
//! does not use the instance. `Gone` is final.

#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    callback::CallbackOutcome,
    sandbox::{LaunchError, SandboxExit},
    stop_reason::StopReason,
};

/// How long the exit of a killed instance is awaited before its resources are reclaimed without it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The sandbox is creating it.
    Launching(LaunchIntent),
    /// It runs and has until the alarm to become ready.
    Booting {
        callback_source: IpAddr,
    },
    /// It accepts requests.
    Serving,
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
pub(super) enum LaunchIntent {
    /// It boots and serves.
    Serve,
    /// It is not needed any more and is asked to exit.
    Cancel,
    /// It is not needed any more and is killed without grace.
    Kill,
}

/// What happens to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Launched {
        callback_source: IpAddr,
    },
    LaunchFailed(LaunchError),
    /// The readiness probe succeeded.
    Probed,
    Exited(SandboxExit),
    /// The function stops it. `now`: without grace.
    Stop {
        reason: StopReason,
        now: bool,
    },
    /// The alarm of that serial number fired.
    Alarm(u64),
    Reclaimed,
}

/// What the InstanceActor has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    SetAlarm {
        serial: u64,
        at: Instant,
    },
    ClearAlarm,
    /// Probe its readiness, unless it calls back.
    Probe,
    /// Report that it is ready.
    Ready,
    /// Report that it accepts no more requests.
    Lost(StopReason),
    /// Ask it to exit.
    Terminate,
    Kill,
    Reclaim,
    Finish,
}

/// The time limits of an instance, from its function's spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub boot_timeout: Duration,
    pub stop_grace: Duration,
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
            State::Booting { callback_source } if callback_source != from => {
                (Some(CallbackOutcome::WrongSource), Vec::new())
            }
            State::Booting { .. } => (Some(CallbackOutcome::Accepted), self.ready(now)),
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
            (State::Launching(LaunchIntent::Serve), Event::Launched { callback_source }) => {
                // The boot alarm stays set: it counts from the launch order.
                self.enter(State::Booting { callback_source }, now);
                vec![Effect::Probe]
            }
            (State::Launching(intent), Event::Launched { .. }) => self.stop(intent == LaunchIntent::Kill, now),
            (State::Launching(intent), Event::LaunchFailed(error)) => {
                self.enter(State::Gone, now);
                let lost = (intent == LaunchIntent::Serve).then_some(Effect::Lost(StopReason::LaunchFailed(error)));
                lost.into_iter().chain([self.clear_alarm(), Effect::Finish]).collect()
            }
            (State::Launching(LaunchIntent::Serve), Event::Stop { reason, now: at_once }) => {
                self.cancel_launch(reason, if at_once { LaunchIntent::Kill } else { LaunchIntent::Cancel })
            }
            (State::Launching(LaunchIntent::Serve), Event::Alarm(_)) => {
                self.cancel_launch(StopReason::BootTimedOut, LaunchIntent::Cancel)
            }
            (State::Launching(LaunchIntent::Cancel), Event::Stop { now: true, .. }) => {
                self.state = State::Launching(LaunchIntent::Kill);
                Vec::new()
            }

            (State::Booting { .. }, Event::Probed) => self.ready(now),
            (State::Booting { .. }, Event::Alarm(_)) => self.lose(StopReason::BootTimedOut, false, now),
            (State::Booting { .. }, Event::Exited(exit)) => self.reap(Some(StopReason::BootFailed(exit)), now),
            (State::Serving, Event::Exited(exit)) => self.reap(Some(StopReason::Exited(exit)), now),
            (State::Booting { .. } | State::Serving, Event::Stop { reason, now: at_once }) => {
                self.lose(reason, at_once, now)
            }

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
