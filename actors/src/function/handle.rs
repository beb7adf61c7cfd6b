//! Where callers get their slots: the part of a function that any thread may use.
//!
//! [`FunctionHandle::acquire`] takes a free slot from the shared table (`slots.rs`) when there is one, else it asks the function's
//! actor and waits. The [`Lease`] it returns is the slot: it goes back when the lease is dropped, whatever happened,
//! so whoever moves the bytes keeps it until the last one has been handed on.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use tokio::{sync::oneshot, time::Instant};

use super::{
    FunctionActor,
    endpoint::Endpoint,
    refusal::Refusal,
    slots::{Acquired, Intake, Released, Slots},
};
use crate::{
    messages::{Abandon, Acquire, Replenish, SlotReleased},
    stats::FunctionStats,
};

/// One function, as those see it who have requests for it.
#[derive(Debug)]
pub struct FunctionHandle {
    name: String,
    slots: Mutex<Slots>,
    actor: Addr<FunctionActor>,
    tickets: AtomicU64,
    stats: FunctionStats,
}

impl FunctionHandle {
    pub(crate) fn new(name: String, intake: Intake, queue: usize, actor: Addr<FunctionActor>) -> Self {
        let slots = Mutex::new(Slots::new(intake, queue));
        Self { name, slots, actor, tickets: AtomicU64::new(0), stats: FunctionStats::default() }
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What became of the function's requests and boots.
    pub fn stats(&self) -> &FunctionStats {
        &self.stats
    }

    /// The largest request body the function takes now, in bytes.
    pub fn max_body(&self) -> Option<u64> {
        self.slots().max_body()
    }

    /// The actor that decides for this function.
    pub fn actor(&self) -> &Addr<FunctionActor> {
        &self.actor
    }

    /// The table of slots. Held for a few instructions only, never across an await or a message's handler.
    pub(crate) fn slots(&self) -> MutexGuard<'_, Slots> {
        // Every operation leaves the table whole, so a panic elsewhere in a holder does not taint it.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot of a ready instance, waited for if need be.
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn acquire(self: &Arc<Self>) -> Result<Lease, Refusal> {
        self.acquire_at(Instant::now()).await
    }

    /// The same for a caller who has just looked at the clock.
    pub async fn acquire_at(self: &Arc<Self>, now: Instant) -> Result<Lease, Refusal> {
        let taken = self.slots().take(now, |slots| self.saturated(slots));
        match taken {
            Acquired::Slot { endpoint, fresh } => Ok(Lease::new(self.clone(), endpoint, fresh, now)),
            Acquired::Refused(refusal) => Err(refusal),
            // Boxed: the warm path need not carry it along.
            Acquired::Queued => Box::pin(self.wait(now)).await,
        }
    }

    async fn wait(self: &Arc<Self>, since: Instant) -> Result<Lease, Refusal> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.actor.do_send(Acquire { ticket, since, reply });
        let mut place = QueueGuard { handle: self, ticket, answered: false };
        let answer = answer.await;
        place.answered = true;
        // An actor that died in between has dropped its end: its successor has a new handle.
        answer.unwrap_or(Err(Refusal::Lost))
    }

    fn saturated(&self, slots: &Slots) -> Refusal {
        let waiting = slots.waiting();
        Refusal::Saturated { waiting, retry_after: self.time_to_serve(waiting, slots.capacity()) }
    }

    /// When a caller that is refused now may expect to find room.
    pub(crate) fn retry_after(&self, waiting: usize) -> Duration {
        let capacity = self.slots().capacity();
        self.time_to_serve(waiting, capacity)
    }

    /// How long it takes to serve as many as wait, as far as the past tells.
    fn time_to_serve(&self, waiting: usize, capacity: usize) -> Duration {
        let service = self.stats.usual_service();
        if capacity == 0 {
            return self.stats.usual_boot() + service;
        }
        let rounds = waiting.div_ceil(capacity);
        service.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }
}

/// A place in the queue; leaving it without an answer gives it up.
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

/// A slot of an instance. Dropping it gives the slot back.
#[derive(Debug)]
pub struct Lease {
    handle: Arc<FunctionHandle>,
    endpoint: Arc<Endpoint>,
    fresh: bool,
    since: Instant,
    reusable: bool,
}

impl Lease {
    pub(crate) fn new(handle: Arc<FunctionHandle>, endpoint: Arc<Endpoint>, fresh: bool, now: Instant) -> Self {
        if endpoint.spec.single_use && endpoint.spec.min_instances > 0 {
            // The successor is started now, not when this request is done.
            handle.actor.do_send(Replenish);
        }
        Self { handle, endpoint, fresh, since: now, reusable: true }
    }

    /// The instance that serves.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When the slot was taken.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether this is the first request of its instance.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The instance failed this request: it gets no other, and ends when those it has are done.
    pub fn mark_failed(&mut self) {
        self.reusable = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = Instant::now();
        let instance = self.endpoint.instance;
        let released = self.handle.slots().release(instance, self.reusable, now);
        if self.reusable {
            self.handle.stats.observe_service(now - self.since);
        }
        if released != Released::Free {
            self.handle.actor.do_send(SlotReleased { instance, released, failed: !self.reusable });
        }
    }
}
