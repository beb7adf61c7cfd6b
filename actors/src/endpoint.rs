//! A ready instance as the threads that send requests to it see it.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use crate::{
    boot::{BootClock, Origin, Phase},
    id::InstanceId,
    sandbox::{Reached, Route, SandboxExit},
    spec::FunctionSpec,
};

/// Where an instance listens, and whether it still serves. Written by its InstanceActor, read by any thread.
#[derive(Debug)]
pub struct Endpoint {
    /// The instance.
    pub instance: InstanceId,
    /// How it is connected to.
    pub route: Route,
    /// The spec it was started from.
    pub spec: Arc<FunctionSpec>,
    /// The version of the function's spec that it was started from.
    pub revision: u64,
    /// The times of its start.
    pub clock: BootClock,
    /// The last time that it was resumed.
    resumption: Mutex<Option<Resumption>>,
    /// The connection on which it was found ready.
    connection: Mutex<Option<OwnedFd>>,
    /// An [`EndpointState`]; only ever increases.
    state: AtomicU8,
    /// Notified when the state leaves [`EndpointState::Serving`].
    unavailable: Notify,
    /// Notified when the state becomes [`EndpointState::Ended`].
    ended: Arc<Notify>,
    /// How it ended, if that was observed. Set before the state is [`EndpointState::Ended`].
    exit: OnceLock<SandboxExit>,
}

/// A resumption of a paused instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resumption {
    /// Since when the instance was wanted.
    pub wanted_at: Instant,
    /// When it was ordered.
    pub ordered_at: Instant,
    /// When the instance ran again.
    pub resumed_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum EndpointState {
    /// Accepts requests.
    Serving,
    /// Accepts no more requests and finishes those in flight.
    Draining,
    /// Sends nothing any more.
    Ended,
}

impl Endpoint {
    /// Makes the endpoint of an instance that accepts requests.
    pub fn new(
        instance: InstanceId,
        reached: Reached,
        spec: Arc<FunctionSpec>,
        revision: u64,
        clock: BootClock,
    ) -> Self {
        Self {
            instance,
            route: reached.route,
            spec,
            revision,
            clock,
            resumption: Mutex::default(),
            connection: Mutex::new(reached.connection),
            state: AtomicU8::new(EndpointState::Serving as u8),
            unavailable: Notify::new(),
            ended: Arc::default(),
            exit: OnceLock::new(),
        }
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.route.address
    }

    /// Takes the connection on which the instance was found ready, unless it was taken or closed before.
    pub fn take_connection(&self) -> Option<OwnedFd> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes that the instance was resumed.
    pub(crate) fn set_resumed(&self, resumption: Resumption) {
        *self.resumption.lock().unwrap_or_else(PoisonError::into_inner) = Some(resumption);
    }

    /// Returns the last time that the instance was resumed.
    pub(crate) fn resumption(&self) -> Option<Resumption> {
        *self.resumption.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how the instance last came to serve.
    pub fn origin(&self) -> Origin {
        self.resumption().map_or_else(|| self.clock.started_from(), |_| Origin::Resumed)
    }

    /// Announces that the instance accepts no more requests.
    pub(crate) fn set_draining(&self) {
        self.state.fetch_max(EndpointState::Draining as u8, Ordering::Release);
        self.unavailable.notify_waiters();
    }

    /// Announces that the instance has ended, and how, if that was observed.
    pub fn set_ended(&self, exit: Option<SandboxExit>) {
        if let Some(exit) = exit {
            // An instance exits once.
            let _ = self.exit.set(exit);
        }
        self.state.store(EndpointState::Ended as u8, Ordering::Release);
        self.unavailable.notify_waiters();
        self.ended.notify_waiters();
    }

    fn is_past(&self, state: EndpointState) -> bool {
        self.state.load(Ordering::Acquire) > state as u8
    }

    /// Returns whether the instance accepts requests, as far as its actor knows.
    pub fn is_live(&self) -> bool {
        !self.is_past(EndpointState::Serving)
    }

    /// Resolves once the instance accepts no more requests: it has ended or is being stopped.
    pub async fn gone(&self) {
        // Created before the check, so that a change in between is not missed.
        let unavailable = self.unavailable.notified();
        if self.is_live() {
            unavailable.await;
        }
    }

    /// Returns whether the instance has ended, so that it sends nothing more.
    pub fn has_ended(&self) -> bool {
        self.is_past(EndpointState::Draining)
    }

    /// Resolves once the instance has ended.
    pub async fn ended(&self) {
        let ends = self.ends();
        if !self.has_ended() {
            ends.await;
        }
    }

    /// Resolves when the instance ends after this call; never for an instance that [has ended](Self::has_ended) before.
    pub fn ends(&self) -> OwnedNotified {
        self.ended.clone().notified_owned()
    }

    /// Returns how the instance ended, if that was observed.
    pub fn end(&self) -> Option<&SandboxExit> {
        self.exit.get()
    }

    /// Returns when the instance became ready. `Some` for every endpoint of a [`Lease`](crate::Lease).
    pub fn ready_at(&self) -> Option<Instant> {
        self.clock.at(Phase::Ready)
    }

    /// Returns how long the instance took from the launch order until it was ready.
    pub fn boot(&self) -> Duration {
        self.clock.boot()
    }
}
