//! One eviction round at a time: asks which instances are idle, selects victims, and waits until they are being
//! paused or stopped.
//!
//! Pure: the AdmissionActor sends the messages. Every function answers a question and an eviction, or unregisters, so each
//! round ends. After a round without enough victims, the next one starts only when the shortage or the idle instances have
//! changed.

use std::collections::BTreeSet;

use super::{queue::Shortage, request::IdleInstance};
use crate::id::{FunctionKey, InstanceId};

#[derive(Debug, Default)]
pub(super) struct Eviction {
    round: Round,
    /// More idle instances became available during the round.
    stale: bool,
    /// The shortage for which the last round found too little.
    unsolved: Option<Shortage>,
}

#[derive(Debug, Default)]
enum Round {
    #[default]
    None,
    Collecting {
        shortage: Shortage,
        awaited: BTreeSet<FunctionKey>,
        idle: Vec<IdleInstance>,
    },
    Evicting {
        /// The function that needs the memory.
        function: FunctionKey,
        awaited: BTreeSet<InstanceId>,
    },
}

impl Eviction {
    /// Starts a round that asks `holders`. Returns whether one has started.
    pub fn start(&mut self, shortage: Option<Shortage>, holders: impl FnOnce() -> BTreeSet<FunctionKey>) -> bool {
        if !matches!(self.round, Round::None) {
            return false;
        }
        let Some(shortage) = shortage.filter(|_| shortage != self.unsolved) else {
            self.unsolved = shortage;
            return false;
        };
        let awaited = holders();
        if awaited.is_empty() {
            self.unsolved = Some(shortage);
            return false;
        }
        self.stale = false;
        self.round = Round::Collecting { shortage, awaited, idle: Vec::new() };
        true
    }

    /// Returns the functions that the round has still to hear from.
    pub fn asked(&self) -> impl Iterator<Item = FunctionKey> {
        let awaited = match &self.round {
            Round::Collecting { awaited, .. } => Some(awaited),
            Round::None | Round::Evicting { .. } => None,
        };
        awaited.into_iter().flatten().copied()
    }

    /// Notes that a function may have more idle instances than it reported.
    pub fn note_idle_available(&mut self) {
        self.stale = true;
        self.unsolved = None;
    }

    /// Adds a function's answer. Returns all idle instances once every function has answered.
    pub fn collect(&mut self, function: FunctionKey, found: Vec<IdleInstance>) -> Option<Vec<IdleInstance>> {
        let Round::Collecting { awaited, idle, .. } = &mut self.round else { return None };
        if !awaited.remove(&function) {
            return None;
        }
        idle.extend(found);
        awaited.is_empty().then(|| std::mem::take(idle))
    }

    /// Continues the round with the victims that were selected for a function. Without any, the round ends without result.
    pub fn evict(&mut self, function: Option<FunctionKey>, victims: impl IntoIterator<Item = InstanceId>) {
        let awaited: BTreeSet<_> = victims.into_iter().collect();
        let next = match function.filter(|_| !awaited.is_empty()) {
            Some(function) => Round::Evicting { function, awaited },
            None => Round::None,
        };
        if let (Round::Collecting { shortage, .. }, Round::None) =
            (std::mem::replace(&mut self.round, next), &self.round)
        {
            self.unsolved = Some(shortage).filter(|_| !self.stale);
        }
    }

    /// Notes that an instance was evicted or continues to serve. Returns the function that it was selected for.
    pub fn finish(&mut self, instance: InstanceId) -> Option<FunctionKey> {
        let Round::Evicting { function, awaited } = &mut self.round else { return None };
        let function = awaited.remove(&instance).then_some(*function);
        if awaited.is_empty() {
            self.round = Round::None;
            self.unsolved = None;
        }
        function
    }

    /// Stops waiting for instances whose function has ended.
    pub fn forget(&mut self, is_forgotten: impl Fn(InstanceId) -> bool) {
        let Round::Evicting { awaited, .. } = &self.round else { return };
        let forgotten: Vec<_> = awaited.iter().copied().filter(|instance| is_forgotten(*instance)).collect();
        for instance in forgotten {
            self.finish(instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    const SHORTAGE: Option<Shortage> = Some(Shortage { function: 1, missing: 100, is_wake: false });

    fn holders() -> BTreeSet<FunctionKey> {
        BTreeSet::from([2, 3])
    }

    fn started() -> Eviction {
        let mut eviction = Eviction::default();
        assert!(eviction.start(SHORTAGE, holders));
        eviction
    }

    fn idle() -> IdleInstance {
        let (instance, idle_since) = (InstanceId::random(), Instant::now());
        IdleInstance { instance, idle_since, rate: 0.0, pause: None, delay: Duration::ZERO }
    }

    #[test]
    fn collects_answers_until_every_function_has_answered() {
        let mut eviction = started();
        let [first, second] = [idle(), idle()];
        assert!(!eviction.start(SHORTAGE, holders), "one round at a time");
        assert_eq!(eviction.asked().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(eviction.collect(3, vec![first]), None);
        assert_eq!(eviction.collect(3, vec![first]), None);
        assert_eq!(eviction.collect(2, vec![second]), Some(vec![first, second]));
    }

    #[test]
    fn a_round_ends_when_every_victim_was_handled_or_forgotten() {
        let mut eviction = started();
        let [first, second] = [idle().instance, idle().instance];
        eviction.collect(2, Vec::new());
        eviction.collect(3, Vec::new());
        eviction.evict(Some(1), [first, second]);
        assert_eq!([eviction.finish(first), eviction.finish(first)], [Some(1), None]);
        assert!(!eviction.start(SHORTAGE, holders));
        eviction.forget(|instance| instance == second);
        assert!(eviction.start(SHORTAGE, holders));
    }

    #[test]
    fn a_round_without_victims_is_repeated_only_after_a_change() {
        let unsolved = || {
            let mut eviction = started();
            eviction.collect(2, Vec::new());
            eviction.collect(3, Vec::new());
            eviction.evict(Some(1), []);
            assert!(!eviction.start(SHORTAGE, holders));
            eviction
        };
        assert!(unsolved().start(Some(Shortage { function: 1, missing: 50, is_wake: false }), holders));
        let mut eviction = unsolved();
        eviction.note_idle_available();
        assert!(eviction.start(SHORTAGE, holders));
        let mut eviction = unsolved();
        assert!(!eviction.start(None, holders));
        assert!(eviction.start(SHORTAGE, holders), "the shortage is a new one");
    }

    #[test]
    fn a_round_is_repeated_if_instances_became_available_during_it() {
        let mut eviction = started();
        eviction.note_idle_available();
        eviction.collect(2, Vec::new());
        eviction.collect(3, Vec::new());
        eviction.evict(Some(1), []);
        assert!(eviction.start(SHORTAGE, holders));
    }

    #[test]
    fn without_holders_there_is_no_round() {
        let mut eviction = Eviction::default();
        assert!(!eviction.start(SHORTAGE, BTreeSet::new));
        assert!(!eviction.start(SHORTAGE, holders), "nothing has changed");
    }
}
