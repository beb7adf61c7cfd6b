//! What the InboxActor decides: which invocations start, and what is recorded of their attempts. Pure.
//!
//! It changes its view only by facts: what the store has committed, and how attempts have ended.

use std::{sync::Arc, time::Duration};

use foldhash::{HashMap, HashSet};

use super::{
    fact::StoreFact,
    pending::{Limits, Pending},
    record::{Entry, Seq},
    settle::{DeadReason, Outcome, Settlement, Tried, settle},
    time::UnixMillis,
};
use crate::spec::AsyncSpec;

/// How long an invocation waits whose beginning could not be recorded.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Invocations that end without an attempt at the same time: a store that cannot write keeps them all.
const MAX_ENDING: usize = 64;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An attempt is to begin.
    Start(Entry),
    /// This is to be recorded of a queued invocation.
    End(Entry, Settlement),
}

/// The invocations that wait and run.
#[derive(Debug, Default)]
pub struct Scheduler {
    pending: Pending,
    running: HashMap<Seq, Entry>,
    /// Invocations that end without an attempt, until that is recorded.
    ending: HashSet<Seq>,
    /// Attempts under way of what other nodes may have accepted.
    guests: usize,
    /// Nothing is started any more.
    is_stopped: bool,
}

impl Scheduler {
    /// Takes over what the store has committed.
    pub fn learn(&mut self, fact: StoreFact) {
        match fact {
            StoreFact::Opened { queued, .. } => queued.into_iter().for_each(|entry| self.pending.insert(entry)),
            StoreFact::Queued(entry) | StoreFact::Kept(entry) => self.pending.insert(entry),
            StoreFact::Cancelled(entry) => drop(self.pending.remove(&entry)),
            StoreFact::Settled(record) => {
                self.forget_attempt(record.seq);
                if let Some(entry) = record.entry() {
                    self.pending.insert(entry);
                }
            }
            StoreFact::Stale(seq) => self.forget_attempt(seq),
        }
    }

    /// Starts nothing from now on.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Whether nothing is started any more.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Returns the next action that is due. `attempts`: how many attempts a function's invocation has.
    pub fn next_action(
        &mut self,
        now: UnixMillis,
        limits: &impl Limits,
        attempts: impl Fn(&str) -> usize,
    ) -> Option<Action> {
        if self.is_stopped {
            return None;
        }
        if self.ending.len() >= MAX_ENDING {
            return None;
        }
        if let Some(entry) = self.pending.take_expired(now) {
            return Some(self.end(entry, DeadReason::Expired));
        }
        let entry = self.pending.take_next(now, limits)?;
        if entry.attempts as usize >= attempts(&entry.function) {
            // The daemon has ended during the last one.
            self.pending.ended(&entry.function);
            return Some(self.end(entry, DeadReason::AttemptsExhausted));
        }
        self.running.insert(entry.seq, entry.clone());
        Some(Action::Start(entry))
    }

    fn end(&mut self, entry: Entry, reason: DeadReason) -> Action {
        self.ending.insert(entry.seq);
        Action::End(entry, Settlement::Dead { reason, status: None })
    }

    /// Takes room for an attempt that is not one of this node's invocations, if the limits allow one more.
    pub fn take_room(&mut self, function: &Arc<str>, limits: &impl Limits) -> bool {
        let is_taken = !self.is_stopped && self.pending.take_room(function, limits);
        self.guests += usize::from(is_taken);
        is_taken
    }

    /// Gives that room back.
    pub fn return_room(&mut self, function: &str) {
        self.guests = self.guests.saturating_sub(1);
        self.pending.ended(function);
    }

    /// Notes that an attempt did not begin. `is_stale`: the store has another record, or none. Otherwise it could not write.
    pub fn not_begun(&mut self, seq: Seq, is_stale: bool, now: UnixMillis) {
        let Some(entry) = self.running.remove(&seq) else { return };
        self.pending.ended(&entry.function);
        if !is_stale {
            self.pending.pause(&entry.function, now.after(STORE_RETRY));
            self.pending.insert(entry);
        }
    }

    /// Decides what is to be recorded of an attempt that has ended. `None`: nothing, the attempt is not the current one.
    pub fn attempted(
        &mut self,
        (seq, epoch): (Seq, u32),
        outcome: Outcome,
        spec: &AsyncSpec,
        now: UnixMillis,
        random: f64,
    ) -> Option<Settlement> {
        // The attempt has one epoch more than the record had when it was taken.
        let entry = self.running.get(&seq).filter(|entry| entry.epoch + 1 == epoch)?;
        let untouched = match outcome {
            Outcome::Untouched { .. } => self.pending.count_untouched(&entry.function),
            _ => {
                self.pending.touched(&entry.function);
                0
            }
        };
        let tried = Tried { attempts: entry.attempts + 1, untouched, deadline: entry.deadline };
        let settlement = settle(tried, outcome, spec, now, random);
        if let (Outcome::Untouched { .. }, Settlement::Retry { due, .. }) = (outcome, settlement) {
            self.pending.pause(&entry.function, due);
        }
        Some(settlement)
    }

    fn forget_attempt(&mut self, seq: Seq) {
        self.ending.remove(&seq);
        if let Some(entry) = self.running.remove(&seq) {
            self.pending.ended(&entry.function);
        }
    }

    /// Returns when something is to be done, as far as time decides that.
    pub fn wake_at(&self, limits: &impl Limits) -> Option<UnixMillis> {
        if self.is_stopped || self.ending.len() >= MAX_ENDING { None } else { self.pending.wake_at(limits) }
    }

    /// Returns the function of an attempt that is under way.
    pub fn function_of(&self, seq: Seq) -> Option<Arc<str>> {
        self.running.get(&seq).map(|entry| entry.function.clone())
    }

    /// Whether no attempt is under way, nor waits to be recorded.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.ending.is_empty() && self.guests == 0
    }

    /// Returns the invocations that wait and run.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }
}
