//! Accounts for the host's memory and starts, and orders the functions that wait for some.
//!
//! Pure: no clock, no message. A function requests one instance at a time: memory, and one of the bounded starts of its
//! kind. A paused instance is charged what it holds, and requests the rest of its memory when it is wanted again. Requests
//! wait in one queue with these rules:
//!
//! - Paused instances precede starts: they are ready sooner.
//! - A function with a waiting caller precedes functions that only keep their minimum. Among the former, the longest
//!   waiting caller is first. A function that was admitted goes to the back, so one busy function cannot starve others.
//! - A request that lacks memory is not overtaken: released memory is saved for it, however large it is. A request that
//!   has its memory and lacks a start is overtaken by requests of the other kind.
//! - A template is admitted if no other request waits for memory, there is no other template and nothing starts. After
//!   `TEMPLATE_PATIENCE` it starts beside others. It takes none of the bounded starts, no memory is saved for it, and it ends when
//!   a request lacks its memory: so no request waits for it.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    queue::{Claimant, Queue, QueueEntry, Shortage, Wanted},
    rate::Rate,
    request::{HostLimits, IdleInstance, Pausable, StartKind, StartRequest, TEMPLATE_PATIENCE, Urgency, WakeRequest},
};
use crate::{
    id::{FunctionKey, InstanceId},
    warmth::{Rung, Step},
};

/// Upper bound of every `retry_after`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a request cannot be admitted now, and when a caller may retry.
pub(crate) type WaitReason = (String, Duration);

/// A request that has been admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    Start(AdmittedStart),
    /// The paused instance is charged all its memory again.
    Wake {
        function: FunctionKey,
        instance: InstanceId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AdmittedStart {
    pub function: FunctionKey,
    pub instance: InstanceId,
    pub kind: StartKind,
}

#[derive(Debug)]
pub(super) struct Ledger {
    limits: HostLimits,
    holdings: HashMap<InstanceId, Holding>,
    /// Memory of all holdings, in MiB.
    taken: u64,
    /// Memory of instances of another daemon that shares the budget, in MiB.
    foreign: u64,
    /// The part of `taken` that is about to be released.
    stopping: u64,
    /// Starts under way, by kind.
    starting: [usize; 2],
    queue: Queue,
    /// When each function was last admitted.
    admitted: HashMap<FunctionKey, Instant>,
    /// Memory released, in MiB.
    released: Rate,
    /// Starts completed, by kind.
    started: [Rate; 2],
}

/// What an instance holds of the host.
#[derive(Debug)]
struct Holding {
    function: FunctionKey,
    /// What it is charged, in MiB.
    memory: u64,
    is_template: bool,
    /// What it needs to run, in MiB.
    declared: u64,
    /// The part of its charge that is about to be released, in MiB.
    releasing: u64,
    state: HoldingState,
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
            foreign: 0,
            stopping: 0,
            starting: [0; 2],
            queue: Queue::default(),
            admitted: HashMap::new(),
            released: Rate::default(),
            started: [Rate::default(); 2],
        }
    }

    /// Returns whether no instance holds anything, stuck instances aside.
    pub fn is_empty(&self) -> bool {
        self.holdings.values().all(|holding| holding.state == HoldingState::Stuck)
    }

    /// Returns the memory that instances are charged, in MiB.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the memory that no instance is charged, in MiB.
    pub fn free(&self) -> u64 {
        self.limits.memory.saturating_sub(self.taken + self.foreign)
    }

    /// Sets how much of the budget the instances of another daemon take, in MiB.
    pub fn set_foreign(&mut self, memory: u64) {
        self.foreign = memory;
    }

    /// Returns how many instances are starting.
    pub fn starting(&self) -> usize {
        self.starting.iter().sum()
    }

    /// Returns how many processes are starting.
    pub fn starting_processes(&self) -> usize {
        self.starting[StartKind::Process as usize]
    }

    /// Returns how many functions are in the queue.
    pub fn waiting(&self) -> usize {
        self.queue.functions()
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
    /// Why the host is too small for the request. The function is not in the queue then.
    pub fn request(&mut self, function: FunctionKey, request: StartRequest) -> Result<(), String> {
        let StartRequest { memory, kind, mut urgency } = request;
        let total = self.limits.memory;
        if memory > total {
            self.withdraw(function);
            return Err(format!(
                "an instance needs {memory} MiB, and all instances together may use {total} MiB (--memory-budget)"
            ));
        }
        if let (Urgency::Caller(since), Some(admitted)) = (&mut urgency, self.admitted.get(&function)) {
            *since = (*since).max(*admitted);
        }
        self.queue.insert(QueueEntry { function, memory, urgency, wants: Wanted::Start(kind) });
        Ok(())
    }

    /// Records that a paused instance holds no more than `memory` MiB. It has to be woken before it runs, or is charged more.
    pub fn set_footprint(&mut self, instance: InstanceId, memory: u64) {
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if holding.state == HoldingState::Started && !self.queue.contains(Claimant::Instance(instance)) {
            let charged = memory.min(holding.memory);
            self.taken = self.taken - holding.memory + charged;
            self.stopping -= std::mem::take(&mut holding.releasing);
            holding.memory = charged;
        }
    }

    /// Records that an instance is being paused and is expected to hold `footprint` MiB then. Its charge is set when it is
    /// paused, or runs on.
    pub fn set_pausing(&mut self, instance: InstanceId, footprint: u64) {
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if holding.state == HoldingState::Started && holding.releasing == 0 {
            holding.releasing = holding.memory.saturating_sub(footprint);
            self.stopping += holding.releasing;
        }
    }

    /// Puts the request for the memory of a paused instance into the queue, unless it is ending.
    pub fn request_wake(&mut self, WakeRequest { instance, urgency }: WakeRequest) {
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        if holding.state == HoldingState::Started {
            self.stopping -= std::mem::take(&mut holding.releasing);
            let (function, memory) = (holding.function, holding.declared - holding.memory);
            self.queue.insert(QueueEntry { function, memory, urgency, wants: Wanted::Wake(instance) });
        }
    }

    /// Removes the request for the memory of a paused instance from the queue.
    pub fn withdraw_wake(&mut self, instance: InstanceId) {
        self.queue.remove(Claimant::Instance(instance));
    }

    /// Admits the next request for which there is memory, and a start if it needs one, and removes it from the queue.
    pub fn admit_next(&mut self, now: Instant) -> Option<Admitted> {
        let admissible = self.queue.pop_admissible(self.free(), self.starts_left(), self.template_due(now));
        let entry = admissible?;
        let QueueEntry { function, memory, wants, .. } = entry;
        self.taken += memory;
        match wants {
            Wanted::Start(kind) => {
                let (instance, is_template) = (InstanceId::random(), entry.is_template());
                let state = if is_template {
                    HoldingState::Started
                } else {
                    self.admitted.insert(function, now);
                    self.starting[kind as usize] += 1;
                    HoldingState::Starting(kind)
                };
                let holding = Holding { function, memory, declared: memory, releasing: 0, is_template, state };
                self.holdings.insert(instance, holding);
                Some(Admitted::Start(AdmittedStart { function, instance, kind }))
            }
            Wanted::Wake(instance) => {
                if let Some(holding) = self.holdings.get_mut(&instance) {
                    holding.memory += memory;
                }
                Some(Admitted::Wake { function, instance })
            }
        }
    }

    /// Returns since when a template must have been due to start now. `None`: there is another one.
    fn template_due(&self, now: Instant) -> Option<Instant> {
        let is_first = !self.holdings.values().any(|holding| holding.is_template);
        let waited = if self.starting() == 0 { Duration::ZERO } else { TEMPLATE_PATIENCE };
        now.checked_sub(waited).filter(|_| is_first)
    }

    /// Returns when a template will not wait for a moment at which nothing starts any longer.
    pub fn next_template(&self, now: Instant) -> Option<Instant> {
        self.queue.first_template().map(|since| since + TEMPLATE_PATIENCE).filter(|at| *at > now)
    }

    /// Ends the template, if there is one and a request lacks memory. Returns it with its function.
    pub fn end_template(&mut self, now: Instant) -> Option<(FunctionKey, InstanceId)> {
        self.shortage()?;
        let is_running = |holding: &Holding| holding.is_template && holding.state == HoldingState::Started;
        let (instance, holding) = self.holdings.iter().find(|(_, holding)| is_running(holding))?;
        let (instance, function) = (*instance, holding.function);
        self.set_stopping(instance, now);
        Some((function, instance))
    }

    /// Removes the function's request for a start from the queue.
    pub fn withdraw(&mut self, function: FunctionKey) {
        self.queue.remove(Claimant::Function(function));
    }

    /// Forgets a function that has ended. Holdings of its instances remain until they are released.
    pub fn forget(&mut self, function: FunctionKey) {
        self.withdraw(function);
        self.admitted.remove(&function);
    }

    /// Returns the first request that lacks memory which no stopping instance will release. `None` if it also lacks a
    /// start: memory alone would not help.
    pub fn shortage(&self) -> Option<Shortage> {
        self.queue.shortage(self.free(), self.stopping, self.starts_left())
    }

    /// Returns the functions that have instances.
    pub fn holders(&self) -> BTreeSet<FunctionKey> {
        self.holdings.values().map(|holding| holding.function).collect()
    }

    /// Returns the function of an instance.
    pub fn function_of(&self, instance: InstanceId) -> Option<FunctionKey> {
        self.holdings.get(&instance).map(|holding| holding.function)
    }

    /// Returns the steps that idle instances can take to release memory. What is being paused or ended takes none.
    pub fn steps(&self, idle: Vec<IdleInstance>) -> Vec<Step> {
        let mut steps = Vec::new();
        for IdleInstance { instance, idle_since, rate, pause, delay } in idle {
            let Some(holding) = self.holdings.get(&instance) else { continue };
            let is_whole = matches!(holding.state, HoldingState::Starting(_) | HoldingState::Started);
            if !is_whole || holding.releasing > 0 {
                continue;
            }
            let step = |to, releases, delay| Step { instance, to, idle_since, releases, rate, delay };
            let pause = pause.filter(|pause| pause.footprint < holding.memory);
            if let Some(Pausable { footprint, delay }) = pause {
                steps.push(step(Rung::Paused, holding.memory - footprint, delay));
            }
            steps.push(step(Rung::Ended, pause.map_or(holding.memory, |pause| pause.footprint), delay));
        }
        steps
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
            self.stopping += holding.memory - holding.releasing;
            holding.releasing = holding.memory;
            self.withdraw_wake(instance);
        }
    }

    /// Records that the instance could not be ended: its memory stays taken and is not counted as about to be released.
    pub fn set_stuck(&mut self, instance: InstanceId, now: Instant) {
        self.set_stopping(instance, now);
        let Some(holding) = self.holdings.get_mut(&instance) else { return };
        holding.state = HoldingState::Stuck;
        self.stopping -= std::mem::take(&mut holding.releasing);
    }

    /// Releases everything that the instance holds.
    pub fn release(&mut self, instance: InstanceId, now: Instant) {
        self.set_stopping(instance, now);
        if let Some(holding) = self.holdings.remove(&instance) {
            self.taken -= holding.memory;
            self.stopping -= holding.releasing;
            self.released.observe(holding.memory, now);
        }
    }

    /// Returns what a function in the queue waits for, and the expected wait of a caller that arrives now.
    pub fn wait_reason(&self, function: FunctionKey, now: Instant) -> Option<WaitReason> {
        let (QueueEntry { memory, wants, .. }, up_to_it) = self.queue.up_to(function)?;
        let wanted: u64 = up_to_it.clone().map(|entry| entry.memory).sum();
        let (free, total) = (self.free(), self.limits.memory);
        let (why, wait) = match wants {
            Wanted::Start(kind) if wanted <= free => {
                let ahead = up_to_it.filter(|entry| entry.is_start(kind)).count();
                let why = format!("as many instances are starting as may at once ({})", self.start_limit(kind));
                (why, self.started[kind as usize].time_for(ahead as u64, now))
            }
            Wanted::Start(_) | Wanted::Wake(_) => {
                let missing = wanted.saturating_sub(free + self.stopping);
                let what = match wants {
                    Wanted::Start(_) => format!("an instance needs {memory} MiB"),
                    Wanted::Wake(_) => format!("a paused instance needs {memory} MiB more"),
                };
                let why = format!("{what}, and {free} of {total} MiB are free");
                (why, self.released.time_for(missing, now))
            }
        };
        Some((why, wait.unwrap_or(MAX_RETRY_AFTER).min(MAX_RETRY_AFTER)))
    }
}
