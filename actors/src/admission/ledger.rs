//! Accounts for the host's memory and starts, and orders the functions that wait for some.
//!
//! Pure: no clock, no message. A function requests one instance at a time: memory, and one of the bounded starts of its
//! kind. Requests wait in one queue with these rules:
//!
//! - A function with a waiting caller precedes functions that only keep their minimum. Among the former, the longest
//!   waiting caller is first. A function that was admitted goes to the back, so one busy function cannot starve others.
//! - A request that lacks memory is not overtaken: released memory is saved for it, however large it is. A request that
//!   has its memory and lacks a start is overtaken by requests of the other kind.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    rate::Rate,
    request::{HostLimits, IdleInstance, StartKind, StartRequest, Urgency},
};
use crate::id::{FunctionKey, InstanceId};

/// Upper bound of every `retry_after`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a request cannot be admitted now, or ever, and when a caller may retry.
pub(crate) type WaitReason = (String, Duration);

/// A request that has been admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    pub function: FunctionKey,
    pub instance: InstanceId,
    pub kind: StartKind,
}

/// What the first request in the queue lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shortage {
    pub function: FunctionKey,
    /// In MiB, beyond what is free or about to be released.
    pub missing: u64,
}

#[derive(Debug)]
pub(super) struct Ledger {
    limits: HostLimits,
    holdings: HashMap<InstanceId, Holding>,
    /// Memory of all holdings, in MiB.
    taken: u64,
    /// The part of `taken` that is about to be released.
    stopping: u64,
    /// Starts under way, by kind.
    starting: [usize; 2],
    queue: BTreeMap<Rank, QueueEntry>,
    ranks: HashMap<FunctionKey, Rank>,
    /// When each function was last admitted.
    admitted: HashMap<FunctionKey, Instant>,
    serial: u64,
    /// Memory released, in MiB.
    released: Rate,
    /// Starts completed, by kind.
    started: [Rate; 2],
}

/// The second number is the order of arrival.
type Rank = (Urgency, u64);

#[derive(Debug)]
struct QueueEntry {
    function: FunctionKey,
    memory: u64,
    kind: StartKind,
}

/// What an instance holds of the host.
#[derive(Debug)]
struct Holding {
    function: FunctionKey,
    memory: u64,
    state: HoldingState,
    /// The order of admission.
    serial: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoldingState {
    Starting(StartKind),
    Started,
    Stopping,
    /// The instance could not be ended, so its memory may never be released.
    Stuck,
}

impl Ledger {
    pub fn new(limits: HostLimits) -> Self {
        Self {
            limits,
            holdings: HashMap::new(),
            taken: 0,
            stopping: 0,
            starting: [0; 2],
            queue: BTreeMap::new(),
            ranks: HashMap::new(),
            admitted: HashMap::new(),
            serial: 0,
            released: Rate::default(),
            started: [Rate::default(); 2],
        }
    }

    /// Returns whether no instance holds anything, stuck instances aside.
    pub fn is_empty(&self) -> bool {
        self.holdings.values().all(|holding| holding.state == HoldingState::Stuck)
    }

    /// Returns the memory that instances hold, in MiB.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the memory that no instance holds, in MiB.
    pub fn free(&self) -> u64 {
        self.limits.memory - self.taken
    }

    /// Returns how many instances are starting.
    pub fn starting(&self) -> usize {
        self.starting.iter().sum()
    }

    /// Returns how many functions are in the queue.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn starts_left(&self) -> [usize; 2] {
        [StartKind::Process, StartKind::Isolated]
            .map(|kind| self.start_limit(kind).saturating_sub(self.starting[kind as usize]))
    }

    /// Returns how many instances of a kind may be starting at once.
    pub fn start_limit(&self, kind: StartKind) -> usize {
        match kind {
            StartKind::Process => self.limits.process_starts,
            StartKind::Isolated => self.limits.starts,
        }
    }

    /// Puts the function's request into the queue, where it replaces an earlier one and keeps its place among equals.
    ///
    /// # Errors
    /// The host is too small for the request. The function is not in the queue then.
    pub fn request(&mut self, function: FunctionKey, request: StartRequest) -> Result<(), WaitReason> {
        let StartRequest { memory, kind, mut urgency } = request;
        let total = self.limits.memory;
        if memory > total {
            self.withdraw(function);
            let why = format!("an instance needs {memory} MiB, and all instances together may use {total} MiB");
            return Err((why, MAX_RETRY_AFTER));
        }
        if let (Urgency::Caller(since), Some(admitted)) = (&mut urgency, self.admitted.get(&function)) {
            *since = (*since).max(*admitted);
        }
        let serial = match self.ranks.remove(&function) {
            Some(rank) => {
                self.queue.remove(&rank);
                rank.1
            }
            None => self.next_serial(),
        };
        self.ranks.insert(function, (urgency, serial));
        self.queue.insert((urgency, serial), QueueEntry { function, memory, kind });
        Ok(())
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Admits the next request for which there is memory and a start, and removes it from the queue.
    pub fn admit_next(&mut self, now: Instant) -> Option<Admitted> {
        let rank = self.next_admissible()?;
        let QueueEntry { function, memory, kind } = self.queue.remove(&rank)?;
        self.ranks.remove(&function);
        self.admitted.insert(function, now);
        self.taken += memory;
        self.starting[kind as usize] += 1;
        let (instance, serial) = (InstanceId::random(), self.next_serial());
        self.holdings.insert(instance, Holding { function, memory, state: HoldingState::Starting(kind), serial });
        Some(Admitted { function, instance, kind })
    }

    fn next_admissible(&self) -> Option<Rank> {
        let (mut free, starts) = (self.free(), self.starts_left());
        for (rank, entry) in &self.queue {
            free = free.checked_sub(entry.memory)?;
            if starts[entry.kind as usize] > 0 {
                return Some(*rank);
            }
        }
        None
    }

    /// Removes the function's request from the queue.
    pub fn withdraw(&mut self, function: FunctionKey) {
        if let Some(rank) = self.ranks.remove(&function) {
            self.queue.remove(&rank);
        }
    }

    /// Forgets a function that has ended. Holdings of its instances remain until they are released.
    pub fn forget(&mut self, function: FunctionKey) {
        self.withdraw(function);
        self.admitted.remove(&function);
    }

    /// Returns the first request that lacks memory which no stopping instance will release. `None` if it also lacks a
    /// start: memory alone would not help.
    pub fn shortage(&self) -> Option<Shortage> {
        let (mut free, mut starts) = (self.free(), self.starts_left());
        for entry in self.queue.values() {
            let left = &mut starts[entry.kind as usize];
            if entry.memory > free {
                let missing = entry.memory.saturating_sub(free + self.stopping);
                return (*left > 0 && missing > 0).then_some(Shortage { function: entry.function, missing });
            }
            free -= entry.memory;
            *left = left.saturating_sub(1);
        }
        None
    }

    /// Returns the functions that have instances.
    pub fn holders(&self) -> BTreeSet<FunctionKey> {
        self.holdings.values().map(|holding| holding.function).collect()
    }

    /// Returns the function of an instance.
    pub fn function_of(&self, instance: InstanceId) -> Option<FunctionKey> {
        self.holdings.get(&instance).map(|holding| holding.function)
    }

    /// Selects which idle instances to stop so that `missing` MiB are released: the longest idle ones, and no more than
    /// necessary. Returns none if all of them together would not suffice.
    pub fn select_victims(&self, missing: u64, idle: Vec<IdleInstance>) -> Vec<InstanceId> {
        let releasable = |idle: &IdleInstance| {
            let holding = self.holdings.get(&idle.instance)?;
            matches!(holding.state, HoldingState::Starting(_) | HoldingState::Started).then_some(holding)
        };
        let mut candidates: Vec<_> = idle
            .iter()
            .filter_map(|idle| Some((idle.idle_since, releasable(idle)?, idle.instance)))
            .map(|(idle_since, holding, instance)| (idle_since, holding.serial, holding.memory, instance))
            .collect();
        candidates.sort_unstable();
        let mut sum = 0;
        let enough = candidates.iter().position(|(.., memory, _)| {
            sum += memory;
            sum >= missing
        });
        let Some(last) = enough else { return Vec::new() };
        candidates.truncate(last + 1);
        // A large instance may make smaller ones before it unnecessary; the most recently used ones are kept first.
        for index in (0..last).rev() {
            let memory = candidates[index].2;
            if sum - memory >= missing {
                sum -= memory;
                candidates.remove(index);
            }
        }
        candidates.into_iter().map(|(.., instance)| instance).collect()
    }

    /// Records that the instance is ready, or has been starting for too long to count as starting.
    pub fn set_started(&mut self, instance: InstanceId, now: Instant) {
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if let HoldingState::Starting(kind) = holding.state {
            holding.state = HoldingState::Started;
            self.starting[kind as usize] -= 1;
            self.started[kind as usize].observe(1, now);
        }
    }

    /// Records that the instance is being stopped, so that its memory is released soon.
    pub fn set_stopping(&mut self, instance: InstanceId, now: Instant) {
        self.set_started(instance, now);
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if holding.state == HoldingState::Started {
            holding.state = HoldingState::Stopping;
            self.stopping += holding.memory;
        }
    }

    /// Records that the instance could not be ended: its memory stays taken and is not counted as about to be released.
    pub fn set_stuck(&mut self, instance: InstanceId, now: Instant) {
        self.set_stopping(instance, now);
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if std::mem::replace(&mut holding.state, HoldingState::Stuck) == HoldingState::Stopping {
            self.stopping -= holding.memory;
        }
    }

    /// Releases everything that the instance holds.
    pub fn release(&mut self, instance: InstanceId, now: Instant) {
        self.set_stopping(instance, now);
        if let Some(holding) = self.holdings.remove(&instance) {
            self.taken -= holding.memory;
            if holding.state == HoldingState::Stopping {
                self.stopping -= holding.memory;
            }
            self.released.observe(holding.memory, now);
        }
    }

    /// Returns what a function in the queue waits for, and the expected wait of a caller that arrives now.
    pub fn wait_reason(&self, function: FunctionKey, now: Instant) -> Option<WaitReason> {
        let rank = self.ranks.get(&function)?;
        let up_to_it = || self.queue.range(..=rank).map(|(_, entry)| entry);
        let QueueEntry { memory, kind, .. } = *self.queue.get(rank)?;
        let wanted: u64 = up_to_it().map(|entry| entry.memory).sum();
        let (free, total) = (self.free(), self.limits.memory);
        let (why, wait) = if wanted > free {
            let missing = wanted.saturating_sub(free + self.stopping);
            let why = format!("an instance needs {memory} MiB, and {free} of {total} MiB are free");
            (why, self.released.time_for(missing, now))
        } else {
            let ahead = up_to_it().filter(|entry| entry.kind == kind).count();
            let why = format!("as many instances are starting as may at once ({})", self.start_limit(kind));
            (why, self.started[kind as usize].time_for(ahead as u64, now))
        };
        Some((why, wait.unwrap_or(MAX_RETRY_AFTER).min(MAX_RETRY_AFTER)))
    }
}
