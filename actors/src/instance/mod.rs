//! InstanceActor: one VM, container or process, and every host resource of it.
//!
//! A thin shell around `lifecycle.rs`, which is pure. `actor.rs` turns messages, exits and alarms into events and carries out
//! the effects; `running.rs` is what exists outside the daemon; `snapshot.rs` is what `/debug` shows; `messages.rs` has the
//! messages. The actor is never restarted: its FunctionActor decides whether another instance follows. It is the only owner
//! of the [`SandboxHandle`](crate::sandbox::SandboxHandle), so nothing of an instance outlives it.

mod actor;
mod lifecycle;
mod messages;
mod running;
mod snapshot;

use std::{rc::Rc, sync::Arc};

use actix::{Recipient, SpawnHandle};
use slog::Logger;
use tokio::time::Instant;

use crate::{
    admission::Permit,
    callback::CalledBack,
    id::{InstanceId, ReadyToken},
    notice::ExitNotice,
    output::OutputLog,
    redact::Redactor,
    services::Services,
    spec::FunctionSpec,
};
use lifecycle::{Effect, Lifecycle};
pub(crate) use messages::{InstanceEvent, InstanceGone, InstanceQuestion, Occupancy, Stop};
use running::Sandbox;
pub use snapshot::InstanceSnapshot;

/// What an instance is started from.
pub(crate) struct InstanceArgs {
    pub spec: Arc<FunctionSpec>,
    /// The version of the function's spec.
    pub revision: u64,
    /// Receives what happens to the instance.
    pub events: Recipient<InstanceEvent>,
    pub services: Rc<Services>,
    pub log: Logger,
}

/// One VM, container or process.
pub struct InstanceActor {
    id: InstanceId,
    token: ReadyToken,
    redactor: Redactor,
    args: InstanceArgs,
    log: Logger,
    lifecycle: Lifecycle,
    ordered_at: Instant,
    /// Carried out when the actor starts.
    first_effects: Vec<Effect>,
    alarm: Option<SpawnHandle>,
    probe: Option<SpawnHandle>,
    output: OutputLog,
    sandbox: Sandbox,
    /// Callbacks that came before the instance's address was known.
    early_callbacks: Vec<CalledBack>,
    /// Declared after the sandbox: the host's memory is released after the instance has ended.
    permit: Rc<Permit>,
    /// Whether a refused callback has been logged. There may be any number.
    logged_refusal: bool,
    /// Declared last, so that the function is notified after everything else has been dropped.
    notice: ExitNotice<InstanceGone>,
}
