//! A slot of an instance, owned by the request that it serves.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    handle::FunctionHandle,
    messages::{Replenish, SlotReleased},
    slots::Released,
};
use crate::{
    boot::{Origin, Phase},
    endpoint::Endpoint,
};

/// A wait that is shorter has no reason worth a name: it is that of messages between actors.
const NAMED_WAIT: Duration = Duration::from_millis(1);

/// What a request waited for, besides its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitedFor {
    /// All slots were taken, and the function could have no more instances.
    Slot,
    /// The host had no memory, or no permission to start, for another instance.
    Host,
}

impl WaitedFor {
    /// Returns the stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Host => "host",
        }
    }
}

/// How long a request waited for its slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wait {
    /// For a slot, or for leave to start an instance.
    pub queue: Duration,
    /// What that was, unless it was short.
    pub queue_for: Option<WaitedFor>,
    /// For the boot, the restore or the resumption of the instance, or for what was left of it.
    pub boot: Duration,
    /// Which of these it was. `None`: it was none.
    pub boot_from: Option<Origin>,
}

impl Wait {
    /// Returns whether the request waited for an instance to be started, rather than resumed.
    pub fn is_cold(&self) -> bool {
        matches!(self.boot_from, Some(Origin::Cold | Origin::Restored))
    }
}

/// A slot of an instance. Dropping it releases the slot, so it is kept until the last byte has been forwarded.
#[derive(Debug)]
pub struct Lease {
    handle: Arc<FunctionHandle>,
    endpoint: Arc<Endpoint>,
    fresh: bool,
    since: Instant,
    reusable: bool,
    /// When it was released, if its owner has just read the clock.
    released_at: Option<Instant>,
    /// While the request waited, another instance could not be started for lack of the host's resources.
    waited_for_host: bool,
}

impl Lease {
    pub(super) fn new(handle: Arc<FunctionHandle>, endpoint: Arc<Endpoint>, fresh: bool, now: Instant) -> Self {
        if endpoint.spec.single_use && endpoint.spec.min_instances > 0 {
            // The replacement starts now rather than after this request.
            handle.actor().do_send(Replenish);
        }
        Self { handle, endpoint, fresh, since: now, reusable: true, released_at: None, waited_for_host: false }
    }

    /// Notes that the host had no resources for another instance while the request waited.
    pub(super) fn set_waited_for_host(&mut self, waited: bool) {
        self.waited_for_host = waited;
    }

    /// Returns the instance that serves the request.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Returns when the slot was acquired.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Returns whether this is the first request of its instance.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Returns how long a request that arrived at that time waited for this slot.
    pub fn wait(&self, arrived: Instant) -> Wait {
        let waited = self.since.saturating_duration_since(arrived);
        if waited.is_zero() {
            return Wait::default();
        }
        let clock = &self.endpoint.clock;
        let overlap = |from: Instant, to: Option<Instant>| {
            to.map_or(Duration::ZERO, |to| to.min(self.since).saturating_duration_since(from.max(arrived)))
        };
        let admitted = clock.at(Phase::Admitted);
        let start = admitted.map_or(Duration::ZERO, |admitted| overlap(admitted, clock.at(Phase::Ready)));
        let resumption = self.endpoint.resumption();
        let resumed = resumption.map_or(Duration::ZERO, |it| overlap(it.ordered_at, Some(it.resumed_at)));
        let (boot, boot_from) = match (start.is_zero(), resumed.is_zero()) {
            (false, _) => (start, Some(clock.started_from())),
            (true, false) => (resumed, Some(Origin::Resumed)),
            (true, true) => (Duration::ZERO, None),
        };
        let queue = waited.saturating_sub(boot);
        // Until a start is admitted, or a paused instance has memory in which to run.
        let for_host = overlap(clock.origin(), admitted)
            + resumption.map_or(Duration::ZERO, |it| overlap(it.wanted_at, Some(it.ordered_at)));
        let is_for_host = self.waited_for_host || for_host > queue / 2;
        let reason = if is_for_host { WaitedFor::Host } else { WaitedFor::Slot };
        Wait { queue, queue_for: (queue >= NAMED_WAIT).then_some(reason), boot, boot_from }
    }

    /// Releases the slot, for an owner that has just read the clock.
    pub fn release_at(mut self, now: Instant) {
        self.released_at = Some(now);
    }

    /// Marks the instance as failed: it gets no further request, and stops when those in flight are done.
    pub fn mark_failed(&mut self) {
        self.reusable = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.released_at.unwrap_or_else(Instant::now);
        let instance = self.endpoint.instance;
        let released = self.handle.slots().release(instance, self.reusable, now);
        if self.reusable {
            self.handle.stats().observe_service(now - self.since);
        }
        if released != Released::Free {
            self.handle.actor().do_send(SlotReleased { instance, released, failed: !self.reusable });
        }
    }
}
