//! The lifecycle of one instance, from the order to start it to the last returned resource.
//!
//! This file decides and remembers; it never touches a process, a socket or a clock. The actor in `instance/mod.rs`
//! feeds it events together with the current time and carries out the effects it returns. How many instances a function
//! should have is `function/fleet.rs`'s business; whether one is idle or busy is known to `function/slots.rs` alone.
//!
//! ```text
//!   Launching ──► Booting ──► Serving ──► Stopping ──► Reaping ──► Gone
//!       │            │           │  an exit, in any state ▲            ▲
//!       │            └───────────┴────────────────────────┘            │
//!       └── the launch failed: nothing was made ───────────────────────┘
//! ```
//!
//! Every state has at most one alarm. Each alarm carries a serial number, so that one which fires after it was replaced
//! is known as late. `Lost` is told exactly once, before `Stopping`, `Reaping` or `Gone` is entered: from then on
//! nobody counts on the instance. `Gone` is final.

#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    function::Idleness,
    sandbox::{LaunchError, SandboxExit},
};

/// How long a killed instance may take to be seen dead before its resources are taken back all the same.
const DEATH_TIMEOUT: Duration = Duration::from_secs(5);
/// Rest before an instance that is kept because it is needed asks again; bounds a keepalive of zero.
const MIN_RECHECK: Duration = Duration::from_secs(1);

/// Why an instance does not serve any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It could not be started.
    LaunchFailed(LaunchError),
    /// It ended before it was ready.
    BootFailed(SandboxExit),
    /// It was not ready in time.
    BootTimedOut,
    /// It ended while it was ready.
    Exited(SandboxExit),
    /// Nobody needed it for its keepalive.
    Idle,
    /// It had nothing to do, and others needed its memory.
    Evicted,
    /// It has served its one request.
    SingleUse,
    /// It failed a request.
    RequestFailed,
    /// Its function's spec has changed, or nobody waits for it any more.
    Outdated,
    /// Its function is being removed or the daemon ends.
    Drained,
    /// An actor panicked.
    Bug,
}

impl StopReason {
    /// The word for logs.
    pub fn word(&self) -> &'static str {
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

/// Where in its lifecycle an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The sandbox is making it.
    Launching(LaunchIntent),
    /// It runs and has until the alarm to get ready.
    Booting {
        callback_source: IpAddr,
    },
    /// It takes requests. The alarm asks whether it is idle.
    Serving,
    /// It was asked to end; the alarm kills it, a second one gives up on seeing it dead.
    Stopping {
        killed: bool,
    },
    /// Its resources are being given back.
    Reaping,
    Gone,
}

/// What is to become of an instance that does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaunchIntent {
    /// It is to serve.
    Serve,
    /// Nobody wants it any more: it is asked to end as soon as it exists.
    Cancel,
    /// The same, without grace.
    Kill,
}

/// What happens to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Launched {
        callback_source: IpAddr,
    },
    LaunchFailed(LaunchError),
    /// The probe of its readiness succeeded.
    Probed,
    Exited(SandboxExit),
    /// Somebody wants it to end; with `now` it gets no grace.
    Stop {
        reason: StopReason,
        now: bool,
    },
    /// The alarm of that serial number.
    Alarm(u64),
    /// The answer to [`Effect::CheckIdle`].
    Checked(Idleness),
    /// It has become idle after [`Idleness::Busy`].
    BecameIdle,
    Reclaimed,
}

/// What the actor has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    SetAlarm {
        serial: u64,
        at: Instant,
    },
    ClearAlarm,
    /// Watch for its readiness, if it does not call back.
    Probe,
    /// Offer its slots and tell the function.
    Ready,
    /// Take its slots away and tell the function.
    Lost(StopReason),
    CheckIdle,
    Terminate,
    Kill,
    Reclaim,
    Finish,
}

/// What becomes of a ready callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// Believed: the instance is ready.
    Accepted,
    /// It came from an address that is not the instance's.
    WrongSource,
    /// The instance had called before, or is on its way out.
    NotExpected,
}

/// The times of an instance, from its function's spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub boot_timeout: Duration,
    pub keepalive: Duration,
    pub stop_grace: Duration,
}

#[derive(Debug)]
pub(super) struct Lifecycle {
    state: State,
    since: Instant,
    /// Counts changes of state.
    epoch: u64,
    /// Of the alarm that is set, or of the last one that was.
    alarm: u64,
    times: Times,
}

impl Lifecycle {
    /// A lifecycle begins with the order to launch, which the caller gives to the sandbox.
    pub fn begin(now: Instant, times: Times) -> (Self, Vec<Effect>) {
        let mut lifecycle =
            Self { state: State::Launching(LaunchIntent::Serve), since: now, epoch: 0, alarm: 0, times };
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

    /// A callback with the right token has come from `from`. `None`: its address is not known yet, ask again once it is.
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

    /// What `event` means in this state. An event that means nothing in it (a late alarm, a stop of what is ending
    /// already) has no effects.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if matches!(event, Event::Alarm(serial) if serial != self.alarm) {
            return Vec::new();
        }
        match (self.state.clone(), event) {
            (State::Launching(LaunchIntent::Serve), Event::Launched { callback_source }) => {
                // The boot alarm goes on: it counts from the order.
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

            (State::Serving, Event::Alarm(_)) => vec![Effect::CheckIdle],
            (State::Serving, Event::BecameIdle) => vec![self.set_alarm(now + self.times.keepalive)],
            (State::Serving, Event::Checked(idleness)) => match idleness {
                Idleness::Retired => self.lose(StopReason::Idle, false, now),
                Idleness::Until(at) => vec![self.set_alarm(at)],
                Idleness::Busy => vec![self.clear_alarm()],
                Idleness::Needed => vec![self.set_alarm(now + self.times.keepalive.max(MIN_RECHECK))],
            },
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
        vec![Effect::Ready, self.set_alarm(now + self.times.keepalive)]
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
        vec![Effect::Kill, self.set_alarm(now + DEATH_TIMEOUT)]
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
