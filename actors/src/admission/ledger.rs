//! What of the host is taken, and in which order those are served who wait for some.
//!
//! Pure. A function asks for one instance at a time: for memory, and for leave to start where the starts of its kind are
//! bounded. Those who request stand in one queue:
//!
//! - Whoever has a caller waiting comes before those who only keep their minimum; among the former, the one whose
//!   caller has waited longest. Who was served goes to the back, so that a flood of one function holds no other up.
//! - Nobody overtakes one for whom there is not enough memory: what comes back is saved for it, however large it is.
//!   One that has its memory and waits for leave to start is overtaken by those who need no such leave.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::rate::Rate;
use crate::{id::InstanceId, spec::SandboxSpec};

/// The longest that anybody is told to stay away.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Tells functions apart, also those that bear a name one after the other.
pub(crate) type FunctionKey = u64;

/// What the host has for instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Memory, in MiB.
    pub memory: u64,
    /// Processes that may be starting at once.
    pub process_starts: usize,
    /// Containers and virtual machines that may be starting at once.
    pub starts: usize,
}

/// How much of the host a start takes: starts of a kind have a bound together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartKind {
    Process,
    /// Containers and virtual machines.
    Isolated,
}

impl From<&SandboxSpec> for StartKind {
    fn from(sandbox: &SandboxSpec) -> Self {
        match sandbox {
            SandboxSpec::Process(_) => StartKind::Process,
            SandboxSpec::Container(_) | SandboxSpec::Vm(_) => StartKind::Isolated,
        }
    }
}

/// One instance that a function wants to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartRequest {
    /// In MiB.
    pub memory: u64,
    pub kind: StartKind,
    pub urgency: Urgency,
}

/// The most urgent is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// For somebody who has waited since then.
    Caller(Instant),
    /// To be ready for whoever may come.
    Minimum,
}

/// The answer to an [`StartRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Granted,
    /// Not yet: it is in the queue.
    Queued,
    /// The host is too small.
    Never,
}

/// What the first in the queue lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shortage {
    pub function: FunctionKey,
    /// In MiB, beyond what is free or about to be.
    pub missing: u64,
}

/// An instance that its function could do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdleInstance {
    pub instance: InstanceId,
    pub idle_since: Instant,
}

#[derive(Debug)]
pub(super) struct Ledger {
    limits: HostLimits,
    holdings: HashMap<InstanceId, Holding>,
    /// Memory of all holdings, in MiB.
    taken: u64,
    /// Of that: what is about to come back.
    returning: u64,
    /// By kind.
    starting: [usize; 2],
    queue: BTreeMap<Rank, QueueEntry>,
    ranks: HashMap<FunctionKey, Rank>,
    /// When each function was last admitted an instance.
    served: HashMap<FunctionKey, Instant>,
    serial: u64,
    /// Memory that came back, in MiB.
    returns: Rate,
    /// Starts that were done, by kind.
    starts: [Rate; 2],
}

/// The second number is of the order in which functions came to wait.
type Rank = (Urgency, u64);

#[derive(Debug)]
struct QueueEntry {
    function: FunctionKey,
    memory: u64,
    kind: StartKind,
    /// It knows that its turn has come.
    notified: bool,
}

/// What an instance holds.
#[derive(Debug)]
struct Holding {
    function: FunctionKey,
    memory: u64,
    state: HoldingState,
    /// Of the order of admission.
    serial: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoldingState {
    Starting(StartKind),
    Started,
    /// It is being ended.
    Returning,
    /// It could not be ended. Nobody knows when what it holds will come back.
    Stuck,
}

impl Ledger {
    pub fn new(limits: HostLimits) -> Self {
        Self {
            limits,
            holdings: HashMap::new(),
            taken: 0,
            returning: 0,
            starting: [0; 2],
            queue: BTreeMap::new(),
            ranks: HashMap::new(),
            served: HashMap::new(),
            serial: 0,
            returns: Rate::default(),
            starts: [Rate::default(); 2],
        }
    }

    /// Whether no instance holds anything that is worth waiting for.
    pub fn is_empty(&self) -> bool {
        self.holdings.values().all(|holding| holding.state == HoldingState::Stuck)
    }

    /// Memory that instances hold, in MiB.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Memory that nobody holds, in MiB.
    pub fn free(&self) -> u64 {
        self.limits.memory - self.taken
    }

    /// Instances that are starting.
    pub fn starting(&self) -> usize {
        self.starting.iter().sum()
    }

    /// Functions in the queue.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn starts_left(&self) -> [usize; 2] {
        [StartKind::Process, StartKind::Isolated]
            .map(|kind| self.bound(kind).saturating_sub(self.starting[kind as usize]))
    }

    /// How many of a kind may be starting at once.
    pub fn bound(&self, kind: StartKind) -> usize {
        match kind {
            StartKind::Process => self.limits.process_starts,
            StartKind::Isolated => self.limits.starts,
        }
    }

    /// Admits `instance`, or puts the function into the queue, where it has one place, whatever it asked for before.
    pub fn ask(
        &mut self,
        function: FunctionKey,
        instance: InstanceId,
        request: StartRequest,
        now: Instant,
    ) -> Decision {
        let StartRequest { memory, kind, mut urgency } = request;
        if memory > self.limits.memory {
            self.withdraw(function);
            return Decision::Never;
        }
        if let (Urgency::Caller(since), Some(served)) = (&mut urgency, self.served.get(&function)) {
            *since = (*since).max(*served);
        }
        let serial = match self.ranks.remove(&function) {
            Some(rank) => {
                self.queue.remove(&rank);
                rank.1
            }
            None => self.next_serial(),
        };
        self.ranks.insert(function, (urgency, serial));
        self.queue.insert((urgency, serial), QueueEntry { function, memory, kind, notified: false });
        if !self.admissible().contains(&function) {
            return Decision::Queued;
        }
        self.withdraw(function);
        self.served.insert(function, now);
        self.taken += memory;
        self.starting[kind as usize] += 1;
        let serial = self.next_serial();
        self.holdings.insert(instance, Holding { function, memory, state: HoldingState::Starting(kind), serial });
        Decision::Granted
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The function wants nothing any more.
    pub fn withdraw(&mut self, function: FunctionKey) {
        if let Some(rank) = self.ranks.remove(&function) {
            self.queue.remove(&rank);
        }
    }

    /// The function is gone. What its instances hold is still to come back.
    pub fn forget(&mut self, function: FunctionKey) {
        self.withdraw(function);
        self.served.remove(&function);
    }

    /// Whose turn it is: all of them can be admitted, one after the other.
    fn admissible(&self) -> Vec<FunctionKey> {
        let (mut free, mut starts) = (self.free(), self.starts_left());
        let mut admissible = Vec::new();
        for entry in self.queue.values() {
            let Some(rest) = free.checked_sub(entry.memory) else { break };
            free = rest;
            let left = &mut starts[entry.kind as usize];
            if *left > 0 {
                *left -= 1;
                admissible.push(entry.function);
            }
        }
        admissible
    }

    /// Those whose turn has come and who have not been told since they asked: they are told now.
    pub fn take_notifications(&mut self) -> Vec<FunctionKey> {
        let mut admissible = self.admissible();
        admissible.retain(|function| {
            let entry = self.ranks.get(function).and_then(|rank| self.queue.get_mut(rank));
            entry.is_some_and(|entry| !std::mem::replace(&mut entry.notified, true))
        });
        admissible
    }

    /// The first for whom there is not enough memory and will not be by itself, if memory is all it lacks.
    pub fn shortage(&self) -> Option<Shortage> {
        let (mut free, mut starts) = (self.free(), self.starts_left());
        for entry in self.queue.values() {
            let left = &mut starts[entry.kind as usize];
            if entry.memory > free {
                let missing = entry.memory.saturating_sub(free + self.returning);
                return (*left > 0 && missing > 0).then_some(Shortage { function: entry.function, missing });
            }
            free -= entry.memory;
            *left = left.saturating_sub(1);
        }
        None
    }

    /// Functions that have instances.
    pub fn holders(&self) -> BTreeSet<FunctionKey> {
        self.holdings.values().map(|holding| holding.function).collect()
    }

    /// The function that an instance is of.
    pub fn function_of(&self, instance: InstanceId) -> Option<FunctionKey> {
        self.holdings.get(&instance).map(|holding| holding.function)
    }

    /// Which of `idle` to end so that `missing` MiB come back: those that have been idle longest, and no more than it
    /// takes. None, if all of them together would not do.
    pub fn victims(&self, missing: u64, idle: Vec<IdleInstance>) -> Vec<InstanceId> {
        let holding = |spare: &IdleInstance| {
            self.holdings
                .get(&spare.instance)
                .filter(|held| matches!(held.state, HoldingState::Starting(_) | HoldingState::Started))
        };
        let mut idle: Vec<_> = idle
            .iter()
            .filter_map(|spare| Some((spare.idle_since, holding(spare)?, spare.instance)))
            .map(|(idle_since, held, instance)| (idle_since, held.serial, held.memory, instance))
            .collect();
        idle.sort_unstable();
        let mut sum = 0;
        let enough = idle.iter().position(|(.., memory, _)| {
            sum += memory;
            sum >= missing
        });
        let Some(last) = enough else { return Vec::new() };
        idle.truncate(last + 1);
        // A large one may have made smaller ones before it superfluous; the most recently used of them is spared first.
        for index in (0..last).rev() {
            let memory = idle[index].2;
            if sum - memory >= missing {
                sum -= memory;
                idle.remove(index);
            }
        }
        idle.into_iter().map(|(.., instance)| instance).collect()
    }

    /// The instance is ready, or has been starting for so long that it is not counted any more.
    pub fn started(&mut self, instance: InstanceId, now: Instant) {
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if let HoldingState::Starting(kind) = holding.state {
            holding.state = HoldingState::Started;
            self.starting[kind as usize] -= 1;
            self.starts[kind as usize].observe(1, now);
        }
    }

    /// The instance is being ended: what it holds comes back soon.
    pub fn returning(&mut self, instance: InstanceId, now: Instant) {
        self.started(instance, now);
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if holding.state == HoldingState::Started {
            holding.state = HoldingState::Returning;
            self.returning += holding.memory;
        }
    }

    /// The instance could not be ended: what it holds stays taken, and nobody counts on its return.
    pub fn stuck(&mut self, instance: InstanceId, now: Instant) {
        self.returning(instance, now);
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if std::mem::replace(&mut holding.state, HoldingState::Stuck) == HoldingState::Returning {
            self.returning -= holding.memory;
        }
    }

    /// The instance holds nothing any more.
    pub fn released(&mut self, instance: InstanceId, now: Instant) {
        self.returning(instance, now);
        if let Some(holding) = self.holdings.remove(&instance) {
            self.taken -= holding.memory;
            if holding.state == HoldingState::Returning {
                self.returning -= holding.memory;
            }
            self.returns.observe(holding.memory, now);
        }
    }

    /// What a function in the queue waits for, in words, and for how long one should expect to wait who comes now.
    pub fn wait_reason(&self, function: FunctionKey, now: Instant) -> Option<(String, Duration)> {
        let rank = self.ranks.get(&function)?;
        let up_to_it = || self.queue.range(..=rank).map(|(_, entry)| entry);
        let QueueEntry { memory, kind, .. } = *self.queue.get(rank)?;
        let wanted: u64 = up_to_it().map(|entry| entry.memory).sum();
        let (free, total) = (self.free(), self.limits.memory);
        if wanted > free {
            let missing = wanted.saturating_sub(free + self.returning);
            let why = format!("an instance needs {memory} MiB, and {free} of {total} MiB are free");
            return Some((why, self.returns.time_for(missing, now).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)));
        }
        let ahead = up_to_it().filter(|entry| entry.kind == kind).count();
        let why = format!("as many instances are starting as may at once ({})", self.bound(kind));
        let wait = self.starts[kind as usize].time_for(ahead as u64, now).unwrap_or(LONGEST_WAIT);
        Some((why, wait.min(LONGEST_WAIT)))
    }

    /// Why an instance can never be had.
    pub fn too_large(&self, memory: u64) -> (String, Duration) {
        let total = self.limits.memory;
        (format!("an instance needs {memory} MiB, and all instances together may use {total} MiB"), LONGEST_WAIT)
    }
}
