//! One eviction round at a time: asks which instances are idle, selects victims, and waits until they are stopped.
//!
//! Pure: the AdmissionActor sends the messages. Every function that is asked answers or unregisters, and so does every
//! function that is told to evict, so each round ends. No round starts while nothing has changed since one that found too
//! little: neither the shortage, nor the instances that functions can do without.

use std::collections::BTreeSet;

use super::{ledger::Shortage, request::IdleInstance};
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

    /// Continues the round with the selected victims. Without any, the round ends without result.
    pub fn evict(&mut self, victims: &[InstanceId]) {
        let awaited: BTreeSet<_> = victims.iter().copied().collect();
        let next = if awaited.is_empty() { Round::None } else { Round::Evicting { awaited } };
        if let (Round::Collecting { shortage, .. }, Round::None) =
            (std::mem::replace(&mut self.round, next), &self.round)
        {
            self.unsolved = Some(shortage).filter(|_| !self.stale);
        }
    }

    /// Notes that an instance was evicted or continues to serve.
    pub fn finish(&mut self, instance: InstanceId) {
        let Round::Evicting { awaited } = &mut self.round else { return };
        awaited.remove(&instance);
        if awaited.is_empty() {
            self.round = Round::None;
            self.unsolved = None;
        }
    }

    /// Stops waiting for instances whose function has ended.
    pub fn forget(&mut self, is_forgotten: impl Fn(InstanceId) -> bool) {
        let Round::Evicting { awaited } = &self.round else { return };
        let forgotten: Vec<_> = awaited.iter().copied().filter(|instance| is_forgotten(*instance)).collect();
        for instance in forgotten {
            self.finish(instance);
        }
    }
}
