//! Random sequences of events, including late alarms and repeated events: nothing is reported or reclaimed twice, and the
//! instance always ends.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::seeds::for_each_seed;

/// A lifecycle, and what its actor has observed.
struct Walk {
    lifecycle: Lifecycle,
    is_template: bool,
    /// The serial of the alarm that has not fired yet.
    alarm: Option<u64>,
    exists: bool,
    ready: bool,
    /// It accepts requests, as its function knows.
    serves: bool,
    lost: bool,
    reclaimed: bool,
    finished: bool,
}

impl Walk {
    fn begin(times: Times) -> Self {
        let (lifecycle, effects) = Lifecycle::begin(*START, times);
        let mut walk = Self {
            lifecycle,
            is_template: times.capture_timeout.is_some(),
            alarm: None,
            exists: false,
            ready: false,
            serves: false,
            lost: false,
            reclaimed: false,
            finished: false,
        };
        walk.observe(effects);
        walk.check();
        walk
    }

    fn on(&mut self, event: Event, now: Instant) {
        let (before, epoch) = (self.lifecycle.state().clone(), self.lifecycle.epoch());
        if matches!(event, Event::Alarm(serial) if self.alarm == Some(serial)) {
            self.alarm = None;
        }
        self.exists |= matches!((&before, &event), (State::Launching(_), Event::Launched { .. }));
        let effects = self.lifecycle.on(event, now);
        // A change of what follows a launch or a pause does not count as a change of state.
        let moved = std::mem::discriminant(&before) != std::mem::discriminant(self.lifecycle.state());
        assert!(!moved || self.lifecycle.epoch() == epoch + 1, "a change of state was not counted");
        self.observe(effects);
        self.check();
    }

    fn callback(&mut self, from: IpAddr, now: Instant) {
        let (outcome, effects) = self.lifecycle.callback(from, now);
        assert_eq!(outcome == Some(CallbackOutcome::Accepted), effects.contains(&Connect));
        self.observe(effects);
        self.check();
    }

    fn observe(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            assert!(!self.finished, "{effect:?} after the end");
            match effect {
                SetAlarm { serial, .. } => self.alarm = Some(serial),
                ClearAlarm => self.alarm = None,
                Probe | Connect | Explain => assert!(self.exists && !self.lost),
                Ready => {
                    assert!(self.exists && !self.is_template && !self.ready && !self.lost);
                    (self.ready, self.serves) = (true, true);
                }
                Capture => assert!(self.exists && self.is_template && !self.lost),
                Pause | PausedExternally => {
                    assert!(self.serves && !self.lost);
                    self.serves = false;
                }
                Paused => assert!(self.ready && !self.serves && !self.lost),
                Resume => assert!(self.exists && !self.serves && !self.lost),
                Resumed | NotPaused(_) => {
                    assert!(!self.serves && !self.lost, "it serves already");
                    self.serves = true;
                }
                Lost(_) => {
                    assert!(!self.lost, "lost twice");
                    self.lost = true;
                }
                Terminate | Kill => assert!(self.exists && !self.reclaimed, "there is no instance to end"),
                Reclaim => {
                    assert!(self.exists && !self.reclaimed, "nothing to reclaim");
                    self.reclaimed = true;
                }
                Finish => self.finished = true,
            }
        }
    }

    fn check(&self) {
        let state = self.lifecycle.state();
        let (expects_alarm, is_lost) = match state {
            // A cancelled launch needs no alarm: the sandbox bounds its duration.
            State::Launching(intent) => (*intent == LaunchIntent::Serve, *intent != LaunchIntent::Serve),
            State::Booting { .. } | State::Connecting | State::Explaining | State::Verifying | State::Capturing => {
                (true, false)
            }
            State::Serving | State::Paused => (false, false),
            State::Pausing { .. } | State::Resuming => (true, false),
            State::Stopping { .. } => (true, true),
            State::Reaping | State::Gone => (false, true),
        };
        assert_eq!((self.alarm.is_some(), self.lost), (expects_alarm, is_lost), "{state:?}");
        assert!(self.lost || self.serves == (*state == State::Serving), "{state:?}");
        assert_eq!(self.finished, *state == State::Gone);
        assert!(!self.finished || self.reclaimed == self.exists, "gone, and not reclaimed");
    }

    /// Delivers the events that are due, so that the instance ends.
    fn finish(mut self, now: Instant) {
        for event in [launch_failed(), EXITED, Event::Reclaimed] {
            self.on(event, now);
        }
        assert_eq!(*self.lifecycle.state(), State::Gone);
    }
}

#[test]
fn every_instance_is_lost_once_reclaimed_once_and_gone_in_the_end() {
    for_each_seed(20_000, |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut walk = Walk::begin(if random.random_bool(0.2) { TEMPLATE } else { TIMES });
        let mut now = *START;
        for _ in 0..random.random_range(0..40) {
            now += Duration::from_millis(random.random_range(0..30_000));
            match random.random_range(0..10) {
                0 => walk.callback(if random.random() { INSTANCE } else { ELSEWHERE }, now),
                1..=3 => {
                    let late = random.random_range(0..=walk.lifecycle.alarm);
                    let serial = walk.alarm.filter(|_| random.random()).unwrap_or(late);
                    // An alarm fires once. Lower serials than the last one are late.
                    if walk.alarm == Some(serial) || serial < walk.lifecycle.alarm {
                        walk.on(Event::Alarm(serial), now);
                    }
                }
                _ => {
                    let event = every_event().choose(&mut random).cloned().expect("there are events");
                    if !matches!(event, Event::Alarm(_)) {
                        for _ in 0..random.random_range(1..=2) {
                            walk.on(event.clone(), now);
                        }
                    }
                }
            }
        }
        walk.finish(now);
    });
}

#[test]
fn alarms_alone_end_an_instance_that_never_responds() {
    let mut walk = Walk::begin(TIMES);
    walk.on(LAUNCHED, *START);
    for state in [State::Explaining, TERMINATING, KILLED, State::Reaping] {
        walk.on(Event::Alarm(walk.alarm.expect("an alarm is set")), *START);
        assert_eq!(*walk.lifecycle.state(), state);
    }
}
