//! The schedules of all functions: which one fires, what follows from a commit, and when to look again. Pure.
//!
//! A schedule begins with the question how far it has come, which the store of the inbox answers: a new one is recorded as
//! seen now, so that its first run counts as missed if no daemon runs then. From then on each instant is committed, one at
//! a time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    cron::{Step, step},
    messages::{CronReport, CronState, TriggerOverview},
};
use crate::{
    inbox::{TriggerRecord, UnixMillis},
    spec::CronSpec,
};

/// How long a schedule waits whose firing was refused for now.
const RETRY: Duration = Duration::from_secs(1);

/// A schedule: the function, and the position among those of its file.
pub type ScheduleId = (Arc<str>, usize);

/// One `[[cron]]` of a function.
#[derive(Debug)]
struct Entry {
    spec: CronSpec,
    state: State,
    /// The last instant that has fired, as far as that is known.
    last: Option<Timestamp>,
    fired: u64,
    /// Why the last firing was refused.
    refusal: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// It is not known how far it has come. `ask_at`: when the store is asked. `None`: it has been asked.
    Unknown { since: Timestamp, ask_at: Option<Timestamp> },
    /// All instants up to `settled` have fired, or are given up. Nothing is to be done before `wake_at`.
    Waiting { settled: Timestamp, next: Option<Timestamp>, wake_at: Timestamp },
    /// A firing is being committed.
    Firing { settled: Timestamp, instant: Timestamp },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The store is to be asked how far this trigger has come, which was first seen then.
    Ask(ScheduleId, String, Timestamp),
    /// The instant and its invocation are to be committed.
    Fire(ScheduleId, Box<CronSpec>, Timestamp),
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The invocation is stored.
    Stored,
    /// This instant or a later one had fired before.
    Before,
    /// Nothing is stored. It is tried again.
    NotNow(String),
    /// Nothing is stored, and never will be.
    Never(String),
}

/// The schedules of all functions.
#[derive(Debug, Default)]
pub struct Schedules {
    entries: BTreeMap<ScheduleId, Entry>,
    /// Firings so far, also those of schedules that are gone.
    fired: u64,
}

/// Returns what a schedule is called in the store. A changed schedule is another one: it has not missed anything.
pub fn trigger_name((function, index): &ScheduleId, spec: &CronSpec) -> String {
    format!("cron/{function}/{index} {} {}", spec.at, spec.zone)
}

impl Schedules {
    /// Takes over the schedules of a function. Those that have not changed go on.
    pub fn set(&mut self, function: &Arc<str>, specs: &[CronSpec], now: Timestamp) {
        self.entries.retain(|(owner, index), _| owner != function || *index < specs.len());
        for (index, spec) in specs.iter().enumerate() {
            let id = (function.clone(), index);
            match self.entries.get_mut(&id) {
                Some(entry) if trigger_name(&id, &entry.spec) == trigger_name(&id, spec) => entry.spec = spec.clone(),
                _ => {
                    let state = State::Unknown { since: now, ask_at: Some(now) };
                    self.entries.insert(id, Entry { spec: spec.clone(), state, last: None, fired: 0, refusal: None });
                }
            }
        }
    }

    /// Returns all that is to be done at `now`, and counts it as being done.
    pub fn due(&mut self, now: Timestamp) -> Vec<Action> {
        self.entries.iter_mut().filter_map(|(id, entry)| entry.due(id, now)).collect()
    }

    /// Takes over how far a trigger has come. An error: the store does not answer, and is asked again.
    pub fn answered(&mut self, id: &ScheduleId, trigger: &str, record: Result<TriggerRecord, String>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| trigger_name(id, &entry.spec) == trigger) else {
            return;
        };
        let State::Unknown { since, ask_at: None } = entry.state else { return };
        match record {
            Ok(TriggerRecord { settled, has_fired }) => {
                let settled = timestamp(settled);
                (entry.last, entry.refusal) = (has_fired.then_some(settled), None);
                entry.state = State::waiting(settled);
            }
            Err(why) => {
                entry.refusal = Some(why);
                entry.state = State::Unknown { since, ask_at: Some(later(now, RETRY)) };
            }
        }
    }

    /// Takes over how a commit ended.
    pub fn committed(&mut self, id: &ScheduleId, instant: Timestamp, how: Committed, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let State::Firing { settled, instant: firing } = entry.state else { return };
        if firing != instant {
            return;
        }
        entry.state = match how {
            Committed::NotNow(_) => State::Waiting { settled, next: Some(instant), wake_at: later(now, RETRY) },
            Committed::Stored | Committed::Before | Committed::Never(_) => State::waiting(instant),
        };
        let fired = u64::from(how == Committed::Stored);
        entry.fired += fired;
        self.fired += fired;
        (entry.refusal, entry.last) = match how {
            Committed::Stored | Committed::Before => (None, entry.last.max(Some(instant))),
            Committed::NotNow(why) | Committed::Never(why) => (Some(why), entry.last),
        };
    }

    /// Returns how long nothing is to be done. `None`: for ever, unless something changes.
    pub fn sleep(&self, now: Timestamp) -> Option<Duration> {
        let at = self.entries.values().filter_map(|entry| match entry.state {
            State::Unknown { ask_at, .. } => ask_at,
            State::Waiting { wake_at, .. } => Some(wake_at),
            State::Firing { .. } => None,
        });
        at.min().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default())
    }

    /// Returns how many firings there were.
    pub fn fired(&self) -> u64 {
        self.fired
    }

    /// Returns what the schedules do.
    pub fn reports(&self, now: Timestamp) -> Vec<CronReport> {
        self.entries.iter().map(|(id, entry)| entry.report(id, now)).collect()
    }

    /// Returns what the schedules of a function do.
    pub fn reports_of(&self, function: &Arc<str>, now: Timestamp) -> Vec<CronReport> {
        let own = self.entries.range((function.clone(), 0)..).take_while(|((owner, _), _)| owner == function);
        own.map(|(id, entry)| entry.report(id, now)).collect()
    }

    /// Summarises what the schedules do. The connections are left out.
    pub fn overview(&self, now: Timestamp) -> TriggerOverview {
        let mut overview = TriggerOverview { schedules: self.entries.len(), ..TriggerOverview::default() };
        for entry in self.entries.values() {
            overview.last = overview.last.max(entry.last.map(millis));
            overview.next = overview.next.into_iter().chain(entry.state_at(now).1.map(millis)).min();
            overview.refused += usize::from(entry.refusal.is_some());
        }
        overview
    }
}

impl Entry {
    /// Returns what it waits for, and its next instant.
    fn state_at(&self, now: Timestamp) -> (CronState, Option<Timestamp>) {
        match self.state {
            State::Unknown { .. } => (CronState::Unknown, None),
            State::Firing { instant, .. } => (CronState::Firing, Some(instant)),
            State::Waiting { settled, next, .. } if settled > now => (CronState::WaitingForClock, next),
            State::Waiting { next, .. } if self.refusal.is_some() => (CronState::Refused, next),
            State::Waiting { next, .. } => (CronState::Waiting, next),
        }
    }

    fn report(&self, (function, index): &ScheduleId, now: Timestamp) -> CronReport {
        let (state, next) = self.state_at(now);
        CronReport {
            function: function.clone(),
            index: *index,
            at: self.spec.at.clone(),
            zone: self.spec.zone.clone(),
            state,
            last: self.last.map(millis),
            next: next.map(millis),
            fired: self.fired,
            refusal: self.refusal.clone(),
        }
    }

    fn due(&mut self, id: &ScheduleId, now: Timestamp) -> Option<Action> {
        match self.state {
            State::Unknown { since, ask_at: Some(at) } if is_due(at, now) => {
                self.state = State::Unknown { since, ask_at: None };
                Some(Action::Ask(id.clone(), trigger_name(id, &self.spec), since))
            }
            // The clock was set back, and nothing has fired that could fire twice.
            State::Waiting { settled, .. } if self.last.is_none() && settled > now => {
                self.state = State::Unknown { since: now, ask_at: None };
                Some(Action::Ask(id.clone(), trigger_name(id, &self.spec), now))
            }
            // A clock that was set back does not delay what was refused.
            State::Waiting { settled, wake_at, .. }
                if wake_at <= now || self.refusal.is_some() && is_due(wake_at, now) =>
            {
                match step(&self.spec, settled, now) {
                    Step::Fire(instant) => {
                        self.state = State::Firing { settled, instant };
                        Some(Action::Fire(id.clone(), Box::new(self.spec.clone()), instant))
                    }
                    Step::Wait(next) => {
                        self.state = State::Waiting { settled, next, wake_at: next.unwrap_or(Timestamp::MAX) };
                        None
                    }
                }
            }
            State::Unknown { .. } | State::Waiting { .. } | State::Firing { .. } => None,
        }
    }
}

impl State {
    /// A schedule whose next step is to be determined.
    fn waiting(settled: Timestamp) -> Self {
        Self::Waiting { settled, next: None, wake_at: Timestamp::MIN }
    }
}

/// Returns whether something that waits for [`RETRY`] at most is due.
fn is_due(at: Timestamp, now: Timestamp) -> bool {
    at <= now || at > later(now, RETRY)
}

/// Returns a time as the inbox stores it.
pub fn millis(time: Timestamp) -> UnixMillis {
    UnixMillis(u64::try_from(time.as_millisecond()).unwrap_or_default())
}

/// Returns the time of a record of the inbox.
pub fn timestamp(millis: UnixMillis) -> Timestamp {
    i64::try_from(millis.0).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

fn later(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
