//! The queue for the host's memory and starts. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::Instant;

use super::request::{StartKind, Urgency};
use crate::id::{FunctionKey, InstanceId};

/// Requests in the order in which they are admitted: paused instances before starts, then by urgency, then by arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: BTreeMap<Rank, QueueEntry>,
    ranks: HashMap<Claimant, Rank>,
    arrivals: u64,
}

/// Whether it is a start, how urgent it is, and the order of arrival.
type Rank = (bool, Urgency, u64);

/// What has at most one request in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Claimant {
    /// For a start.
    Function(FunctionKey),
    /// For the memory with which it can run again.
    Instance(InstanceId),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct QueueEntry {
    pub function: FunctionKey,
    /// What it lacks, in MiB.
    pub memory: u64,
    pub urgency: Urgency,
    pub wants: Wanted,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    Start(StartKind),
    /// The paused instance is to run again.
    Wake(InstanceId),
}

/// What the first request in the queue lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shortage {
    pub function: FunctionKey,
    /// In MiB, beyond what is free or about to be released.
    pub missing: u64,
    /// It is missing for a paused instance.
    pub is_wake: bool,
}

impl Shortage {
    /// Returns whether idle instances of a function may be evicted for the request. A function that starts an instance needs
    /// those it has; a function that wakes an instance may have other paused ones.
    pub fn may_evict_of(&self, function: FunctionKey) -> bool {
        self.is_wake || self.function != function
    }
}

impl QueueEntry {
    fn claimant(&self) -> Claimant {
        match self.wants {
            Wanted::Start(_) => Claimant::Function(self.function),
            Wanted::Wake(instance) => Claimant::Instance(instance),
        }
    }

    /// Returns whether a snapshot is taken of it.
    pub fn is_template(&self) -> bool {
        matches!(self.urgency, Urgency::Template(_))
    }

    pub fn is_start(&self, wanted: StartKind) -> bool {
        matches!(self.wants, Wanted::Start(kind) if kind == wanted)
    }
}

impl Queue {
    /// Returns how many functions wait.
    pub fn functions(&self) -> usize {
        self.entries.values().map(|entry| entry.function).collect::<HashSet<_>>().len()
    }

    pub fn contains(&self, claimant: Claimant) -> bool {
        self.ranks.contains_key(&claimant)
    }

    /// Adds a request. It replaces an earlier one of the same claimant, and keeps its place among equals.
    pub fn insert(&mut self, entry: QueueEntry) {
        let arrival = self.remove(entry.claimant()).map_or_else(
            || {
                self.arrivals += 1;
                self.arrivals
            },
            |(.., arrival)| arrival,
        );
        let rank = (matches!(entry.wants, Wanted::Start(_)), entry.urgency, arrival);
        self.ranks.insert(entry.claimant(), rank);
        self.entries.insert(rank, entry);
    }

    pub fn remove(&mut self, claimant: Claimant) -> Option<Rank> {
        let rank = self.ranks.remove(&claimant)?;
        self.entries.remove(&rank);
        Some(rank)
    }

    /// Removes the next request for which there is memory, in MiB, and a start of its kind, if it needs one. A template may
    /// start if it has been due since `template_due`.
    pub fn pop_admissible(
        &mut self,
        mut free: u64,
        starts: [usize; 2],
        template_due: Option<Instant>,
    ) -> Option<QueueEntry> {
        let mut entries = self.entries.values();
        let entry = loop {
            let entry = *entries.next()?;
            free = free.checked_sub(entry.memory)?;
            match (entry.urgency, entry.wants) {
                // No caller and no minimum waits for memory. This template waits longest.
                (Urgency::Template(since), _) if template_due.is_some_and(|due| since <= due) => break entry,
                (Urgency::Template(_), _) => return None,
                (_, Wanted::Start(kind)) if starts[kind as usize] == 0 => {}
                (_, Wanted::Start(_) | Wanted::Wake(_)) => break entry,
            }
        };
        self.remove(entry.claimant());
        Some(entry)
    }

    /// Returns the first request that lacks memory which no stopping instance will release. `None` if it also lacks a
    /// start: memory alone would not help.
    pub fn shortage(&self, mut free: u64, stopping: u64, mut starts: [usize; 2]) -> Option<Shortage> {
        for entry in self.entries.values().filter(|entry| entry.urgency.makes_room()) {
            let (has_start, is_wake) = match entry.wants {
                Wanted::Start(kind) => (starts[kind as usize] > 0, false),
                Wanted::Wake(_) => (true, true),
            };
            if entry.memory > free {
                let missing = entry.memory.saturating_sub(free + stopping);
                return (has_start && missing > 0).then_some(Shortage { function: entry.function, missing, is_wake });
            }
            free -= entry.memory;
            if let Wanted::Start(kind) = entry.wants {
                starts[kind as usize] = starts[kind as usize].saturating_sub(1);
            }
        }
        None
    }

    /// Returns since when the longest waiting template has been due.
    pub fn first_template(&self) -> Option<Instant> {
        // Templates are the last ones of the queue.
        let due = |entry: &QueueEntry| match entry.urgency {
            Urgency::Template(since) => Some(since),
            Urgency::Caller(_) | Urgency::Minimum | Urgency::Prewarm => None,
        };
        self.entries.values().rev().map_while(due).last()
    }

    /// Returns the first request of a function, and those before it.
    pub fn up_to(&self, function: FunctionKey) -> Option<(QueueEntry, impl Iterator<Item = &QueueEntry> + Clone)> {
        let (rank, entry) = self.entries.iter().find(|(_, entry)| entry.function == function)?;
        Some((*entry, self.entries.range(..=rank).map(|(_, entry)| entry)))
    }
}
