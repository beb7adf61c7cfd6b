//! FunctionActor: one function. It knows which callers wait, which instances exist, and how many there should be.
//!
//! | file | content |
//! | --- | --- |
//! | `actor.rs` | the actor: start, serving the queue, retiring instances, end |
//! | `starts.rs` | starting instances, and failed starts |
//! | `handlers.rs` | messages of callers, leases and the registry |
//! | `events.rs` | messages of admission and of instances |
//! | `messages.rs` | the messages themselves |
//! | `handle.rs`, `lease.rs` | what callers on other threads use |
//! | `slots.rs` | the slot table, pure |
//! | `waiters.rs`, `instances.rs`, `scaling.rs`, `backoff.rs` | the queue, the instances, how many, failures; pure |
//! | `snapshot.rs` | what `/debug` shows |
//!
//! Warm requests do not involve the actor: they take their slot from the [`FunctionHandle`]. The actor is asked when no slot
//! is free, and notified when a slot is released for which callers wait.
//!
//! A new spec replaces the old one in three steps. New requests get instances of the new spec. Idle instances of the old
//! one are stopped at once, busy ones when their requests are done. Callers that were waiting accept either.

mod actor;
mod backoff;
mod events;
mod handle;
mod handlers;
mod instances;
mod lease;
mod messages;
mod scaling;
mod slots;
mod snapshot;
mod starts;
mod waiters;

use std::{rc::Rc, sync::Arc};

use actix::SpawnHandle;
use slog::Logger;
use tokio::time::Instant;

use crate::{admission::IdleInstance, id::FunctionKey, notice::ExitNotice, services::Services, spec::LoadedSpec};
use backoff::Backoff;
pub use backoff::FailingReport;
pub use handle::FunctionHandle;
use instances::Instances;
pub use lease::Lease;
use messages::ReplySender;
pub(crate) use messages::{Configure, Drain, FunctionGone, FunctionQuestion};
pub use snapshot::FunctionSnapshot;
pub(crate) use snapshot::InstanceRef;
use starts::PendingStart;
use waiters::{Waiter, Waiters};

/// One function.
pub struct FunctionActor {
    key: FunctionKey,
    handle: Arc<FunctionHandle>,
    services: Rc<Services>,
    log: Logger,
    loaded: LoadedSpec,
    /// Counts versions of the spec; the first is 1.
    revision: u64,
    phase: Phase,
    waiters: Waiters<ReplySender>,
    /// Callers past their deadline, which are refused when admission has explained what they waited for.
    expired: Vec<Waiter<ReplySender>>,
    instances: Instances,
    pending_start: PendingStart,
    backoff: Backoff,
    /// What was last reported to admission as idle. `None`: admission has not asked since.
    reported_idle: Option<Vec<IdleInstance>>,
    /// The one timer: for the next deadline of a caller, the next keepalive, or the end of a pause in starts.
    alarm: Option<(Instant, SpawnHandle)>,
    notice: ExitNotice<FunctionGone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
}
