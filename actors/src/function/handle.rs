//! The part of a function that any thread may use: its slots, its queue and its counters.
//!
//! [`FunctionHandle::acquire`] takes a free slot from the shared table (`slots.rs`). If there is none, it asks the
//! function's actor and waits. The result is a [`Lease`].

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use tokio::{sync::oneshot, time::Instant};

use super::{
    FunctionActor,
    lease::Lease,
    messages::{Abandon, Acquire},
    offer::AnnouncedSlots,
    slots::{Acquired, Intake, Slots},
};
use crate::{boot::Origin, history::History, refusal::Refusal, spec::FunctionSpec, stats::FunctionStats};

/// One function, as callers see it.
#[derive(Debug)]
pub struct FunctionHandle {
    name: String,
    slots: Mutex<Slots>,
    actor: Addr<FunctionActor>,
    tickets: AtomicU64,
    /// From the first use on.
    stats: OnceLock<Arc<FunctionStats>>,
    history: Arc<History>,
    /// What the last heartbeat has said of its slots.
    pub announced: AnnouncedSlots,
}

impl FunctionHandle {
    pub(super) fn new(name: String, intake: Intake, actor: Addr<FunctionActor>, history: Arc<History>) -> Self {
        let (slots, announced) = (Mutex::new(Slots::new(intake)), AnnouncedSlots::default());
        Self { name, slots, actor, tickets: AtomicU64::new(0), stats: OnceLock::new(), history, announced }
    }

    /// Returns the function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the counters of the function's requests and boots. The function counts as used from then on.
    pub fn stats(&self) -> &Arc<FunctionStats> {
        self.stats.get_or_init(|| self.history.usage.enter(&self.name))
    }

    /// Returns the counters of a function that was used.
    pub fn used_stats(&self) -> Option<&FunctionStats> {
        self.stats.get().map(|stats| &**stats)
    }

    /// Returns the largest request body that the function accepts now, in bytes.
    pub fn max_body(&self) -> Option<u64> {
        self.slots().max_body()
    }

    /// Returns the spec in force, or the reason why there is none.
    ///
    /// # Errors
    /// Why the function serves nothing.
    pub fn serving_spec(&self) -> Result<Arc<FunctionSpec>, Refusal> {
        match self.slots().intake() {
            Intake::Open(spec) => Ok(spec.clone()),
            Intake::Misconfigured(reason) => Err(Refusal::Misconfigured { reason: reason.clone() }),
            Intake::Draining => Err(Refusal::Draining),
        }
    }

    pub(crate) fn actor(&self) -> &Addr<FunctionActor> {
        &self.actor
    }

    /// Locks the slot table. Held for a few instructions only, never across an await or a message.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        // Every operation leaves the table consistent, so a panic of another holder does not matter.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot of a ready instance. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// Why the caller gets no slot.
    pub async fn acquire(self: &Arc<Self>) -> Result<Lease, Refusal> {
        self.acquire_at(Instant::now()).await
    }

    /// Does the same for a caller that has just read the clock.
    ///
    /// # Errors
    /// Why the caller gets no slot.
    pub async fn acquire_at(self: &Arc<Self>, now: Instant) -> Result<Lease, Refusal> {
        let acquired = self.slots().acquire(now, |slots| self.saturated(slots));
        match acquired {
            Acquired::Slot { endpoint, fresh } => Ok(Lease::new(self.clone(), endpoint, fresh, now)),
            Acquired::Refused(refusal) => Err(refusal),
            // Boxed, so that the future of the warm path stays small.
            Acquired::Queued => Box::pin(self.wait(now)).await,
        }
    }

    /// Takes a free slot, without waiting for one. `None`: no slot is free, or the function takes no requests.
    pub fn acquire_free(self: &Arc<Self>, now: Instant) -> Option<Lease> {
        let (endpoint, fresh) = self.slots().acquire_free(now)?;
        Some(Lease::new(self.clone(), endpoint, fresh, now))
    }

    /// Returns the refusal of a caller that does not wait, when no slot is free.
    pub fn refuse_busy(&self) -> Refusal {
        let slots = self.slots();
        match slots.intake() {
            Intake::Open(_) => self.saturated(&slots),
            Intake::Misconfigured(reason) => Refusal::Misconfigured { reason: reason.clone() },
            Intake::Draining => Refusal::Draining,
        }
    }

    async fn wait(self: &Arc<Self>, since: Instant) -> Result<Lease, Refusal> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.actor.do_send(Acquire { ticket, since, reply });
        let mut guard = QueueGuard { handle: self, ticket, answered: false };
        let answer = answer.await;
        guard.answered = true;
        // An error means that the actor panicked. Its successor has another handle.
        answer.unwrap_or(Err(Refusal::Lost))
    }

    fn saturated(&self, slots: &Slots) -> Refusal {
        let waiting = slots.waiting();
        Refusal::Saturated { waiting, retry_after: self.time_to_serve(waiting, slots.capacity()) }
    }

    /// Returns when a caller that is refused now is likely to get a slot.
    pub(super) fn retry_after(&self, waiting: usize) -> Duration {
        let capacity = self.slots().capacity();
        self.time_to_serve(waiting, capacity)
    }

    /// Estimates how long it takes to serve `waiting` callers, from the averages so far.
    fn time_to_serve(&self, waiting: usize, capacity: usize) -> Duration {
        let stats = self.used_stats();
        let service = stats.map_or(Duration::ZERO, FunctionStats::usual_service);
        if capacity == 0 {
            return stats.and_then(|stats| stats.usual_start(Origin::Cold)).unwrap_or_default() + service;
        }
        let batches = waiting.div_ceil(capacity);
        service.saturating_mul(u32::try_from(batches).unwrap_or(u32::MAX))
    }
}

/// Gives up a place in the queue when it is dropped without an answer.
struct QueueGuard<'a> {
    handle: &'a FunctionHandle,
    ticket: u64,
    answered: bool,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.handle.actor.do_send(Abandon { ticket: self.ticket });
        }
    }
}
