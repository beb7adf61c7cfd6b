//! A ready instance, as those see it who send requests to it, on whatever thread.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use crate::{id::InstanceId, sandbox::SandboxExit, spec::FunctionSpec};

/// Where an instance is, and what may be hoped of it.
#[derive(Debug)]
pub struct Endpoint {
    /// The instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// The spec it was started from.
    pub spec: Arc<FunctionSpec>,
    /// Which version of the function's spec that was.
    pub revision: u64,
    /// When it became ready, and how long after the order to start it.
    pub(crate) ready: OnceLock<(Instant, Duration)>,
    /// A [`Presence`], which only grows.
    presence: AtomicU8,
    /// Told when it is more than [`Presence::Serving`].
    left: Notify,
    /// Told when it is [`Presence::Ended`].
    ended: Arc<Notify>,
    /// How it ended, if that was seen. Set before the presence is [`Presence::Ended`].
    end: OnceLock<SandboxExit>,
}

/// What an instance still does, as far as its actor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Presence {
    /// It takes requests.
    Serving,
    /// It takes no more requests, and finishes those that it has.
    Leaving,
    /// Nobody is there any more who could answer.
    Ended,
}

impl Endpoint {
    pub(crate) fn new(instance: InstanceId, address: SocketAddr, spec: Arc<FunctionSpec>, revision: u64) -> Self {
        Self {
            instance,
            address,
            spec,
            revision,
            ready: OnceLock::new(),
            presence: AtomicU8::new(Presence::Serving as u8),
            left: Notify::new(),
            ended: Arc::default(),
            end: OnceLock::new(),
        }
    }

    /// Lets everybody know that the instance is to get no more requests.
    pub(crate) fn leave(&self) {
        self.presence.fetch_max(Presence::Leaving as u8, Ordering::Release);
        self.left.notify_waiters();
    }

    /// Lets everybody know that the instance is no more, and how it ended if that was seen.
    pub(crate) fn conclude(&self, end: Option<SandboxExit>) {
        if let Some(end) = end {
            // Set once: a guest ends once.
            let _ = self.end.set(end);
        }
        self.presence.store(Presence::Ended as u8, Ordering::Release);
        self.left.notify_waiters();
        self.ended.notify_waiters();
    }

    fn is_past(&self, presence: Presence) -> bool {
        self.presence.load(Ordering::Acquire) > presence as u8
    }

    /// Whether the instance takes requests, as far as its actor knows.
    pub fn is_live(&self) -> bool {
        !self.is_past(Presence::Serving)
    }

    /// Resolves once the instance takes no more requests: it has ended, or is about to.
    pub async fn gone(&self) {
        // Hears of what happens from here on, before it is awaited.
        let leaves = self.left.notified();
        if self.is_live() {
            leaves.await;
        }
    }

    /// Whether the instance is no more, so that nothing further will come of it.
    pub fn has_ended(&self) -> bool {
        self.is_past(Presence::Leaving)
    }

    /// Resolves once the instance is no more.
    pub async fn ended(&self) {
        let ends = self.ends();
        if !self.has_ended() {
            ends.await;
        }
    }

    /// Resolves if the instance ends from here on: one that [has ended](Self::has_ended) does not do so again.
    pub fn ends(&self) -> OwnedNotified {
        self.ended.clone().notified_owned()
    }

    /// How the instance ended, if that was seen.
    pub fn end(&self) -> Option<&SandboxExit> {
        self.end.get()
    }

    /// When it became ready. Nobody outside the actors sees an endpoint that is not.
    pub fn ready_at(&self) -> Option<Instant> {
        self.ready.get().map(|(at, _)| *at)
    }

    /// From the order to start it until it was ready.
    pub fn boot(&self) -> Duration {
        self.ready.get().map_or(Duration::ZERO, |(_, boot)| *boot)
    }
}
