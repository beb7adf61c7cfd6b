//! FunctionActor: one function. It knows which callers wait, which instances exist, and how many there should be.
//!
//! | file | content |
//! | --- | --- |
//! | `actor.rs` | the actor: start, serving the queue, retiring instances, end |
//! | `starts.rs` | starting instances, and failed starts |
//! | `waking.rs` | paused instances, and their memory |
//! | `prewarming.rs` | instances that are started ahead of requests |
//! | `worth.rs` | what idle instances are worth, for admission |
//! | `handlers.rs` | messages of callers, leases and the registry |
//! | `events.rs` | messages of admission and of instances |
//! | `actions.rs` | actions on the function: restarts and stops |
//! | `messages.rs` | the messages themselves |
//! | `handle.rs`, `lease.rs` | what callers on other threads use |
//! | `slots.rs` | the slot table, pure |
//! | `offer.rs` | what the function can do for requests of other nodes |
//! | `waiters.rs`, `instances.rs`, `scaling.rs`, `backoff.rs` | the queue, the instances, how many, failures; pure |
//! | `cloning.rs` | when a snapshot is taken and used; pure |
//! | `templates.rs` | templates, failed restores, and what operators request of snapshots |
//! | `replacement.rs` | which instances a restart still has to replace; pure |
//! | `snapshot.rs`, `summary.rs` | what `/debug` shows: all of a function, or a line about it |
//!
//! Warm requests do not involve the actor: they take their slot from the [`FunctionHandle`]. The actor is asked when no slot
//! is free, and notified when a slot is released for which callers wait.
//!
//! An invalid file changes nothing but the state that is shown: the last valid version stays in force.
//!
//! A new spec replaces the old one in three steps. New requests get instances of the new spec. Idle instances of the old
//! one are stopped at once, busy ones when their requests are done. Callers that were waiting accept either.

mod actions;
mod actor;
mod backoff;
mod cloning;
mod events;
mod handle;
mod handlers;
mod instances;
mod lease;
mod messages;
mod offer;
mod prewarming;
mod replacement;
mod scaling;
mod slots;
mod snapshot;
mod starts;
mod summary;
mod templates;
mod waiters;
mod waking;
mod worth;

use std::{rc::Rc, sync::Arc, time::Duration};

use actix::SpawnHandle;
use slog::Logger;
use tokio::time::Instant;

use crate::{
    id::{FunctionKey, InstanceId},
    notice::ExitNotice,
    services::Services,
    spec::LoadedSpec,
    warmth::{EventRate, Prewarming},
};
use backoff::Backoff;
pub use backoff::FailingReport;
use cloning::Cloning;
pub use cloning::SnapshotReport;
pub use handle::FunctionHandle;
use instances::Instances;
pub use lease::{Lease, Wait, WaitedFor};
use messages::ReplySender;
pub(crate) use messages::{Configure, Drain, FunctionGone, FunctionQuestion};
pub use offer::AnnouncedSlots;
pub use prewarming::PrewarmReport;
use replacement::Replacement;
pub use snapshot::FunctionSnapshot;
pub(crate) use snapshot::InstanceRef;
use starts::PendingStart;
pub use summary::{FunctionGauges, FunctionSummary};
use waiters::{Waiter, Waiters};

/// How long a start takes, until one was measured.
const USUAL_START: Duration = Duration::from_millis(100);

/// One function.
pub struct FunctionActor {
    key: FunctionKey,
    name: Arc<str>,
    handle: Arc<FunctionHandle>,
    services: Rc<Services>,
    log: Logger,
    /// The spec in force: the last valid one, or an error if there never was any.
    loaded: LoadedSpec,
    /// The version of the spec in force. New instances are started from it.
    revision: u64,
    /// Counts versions of the file, valid or not; the first is 1.
    versions: u64,
    /// The problems of the file, while an earlier version of it is in force.
    invalid: Option<Arc<str>>,
    phase: Phase,
    waiters: Waiters<ReplySender>,
    /// Callers past their deadline, which are refused when admission has explained what they waited for.
    expired: Vec<Waiter<ReplySender>>,
    instances: Instances,
    pending_start: PendingStart,
    /// The restart under way.
    replacement: Option<Replacement>,
    backoff: Backoff,
    cloning: Cloning,
    /// Whether the log says that instances cannot be paused.
    logged_not_paused: bool,
    /// Starts and resumptions.
    comebacks: EventRate,
    /// When requests are expected, if the spec wants an instance ahead of them.
    prewarming: Option<Box<Prewarming>>,
    /// What the last paused instance held, in MiB.
    footprint: Option<u64>,
    /// The instances last reported to admission as idle, and which of them ran. `None`: admission has not asked since.
    reported_idle: Option<Vec<(InstanceId, bool)>>,
    /// The one timer: for the next deadline of a caller, the next keepalive, or the end of a pause in starts.
    alarm: Option<(Instant, SpawnHandle)>,
    notice: ExitNotice<FunctionGone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
}
