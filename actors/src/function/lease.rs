//! A slot of an instance, owned by the request that it serves.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    handle::FunctionHandle,
    messages::{Replenish, SlotReleased},
    slots::Released,
};
use crate::endpoint::Endpoint;

/// A slot of an instance. Dropping it releases the slot, so it is kept until the last byte has been forwarded.
#[derive(Debug)]
pub struct Lease {
    handle: Arc<FunctionHandle>,
    endpoint: Arc<Endpoint>,
    fresh: bool,
    since: Instant,
    reusable: bool,
}

impl Lease {
    pub(super) fn new(handle: Arc<FunctionHandle>, endpoint: Arc<Endpoint>, fresh: bool, now: Instant) -> Self {
        if endpoint.spec.single_use && endpoint.spec.min_instances > 0 {
            // The replacement starts now rather than after this request.
            handle.actor().do_send(Replenish);
        }
        Self { handle, endpoint, fresh, since: now, reusable: true }
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

    /// Marks the instance as failed: it gets no further request, and stops when those in flight are done.
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
            self.handle.stats().observe_service(now - self.since);
        }
        if released != Released::Free {
            self.handle.actor().do_send(SlotReleased { instance, released, failed: !self.reusable });
        }
    }
}
