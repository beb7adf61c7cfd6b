//! InstanceActor: one VM, container or process, and every host resource of it.
//!
//! A thin shell around `lifecycle.rs`, which is pure. `actor.rs` turns messages, exits and alarms into events and carries out
//! the effects; `probing.rs` finds out whether the instance accepts requests; `pausing.rs` pauses and resumes it; `capturing.rs` has its snapshot taken;
//! `reports.rs` says when it is ready, and when and why it is lost; `running.rs` is what exists outside the daemon;
//! `snapshot.rs` is what `/debug` shows; `messages.rs` has the messages. The actor is never restarted: its FunctionActor decides whether another instance follows. It is the only owner
//! of the [`SandboxHandle`](crate::sandbox::SandboxHandle), so nothing of an instance outlives it.

mod actor;
mod capturing;
mod lifecycle;
mod messages;
mod pausing;
mod probing;
mod reports;
mod running;
mod snapshot;

use std::{net::IpAddr, rc::Rc, sync::Arc};

use actix::{Recipient, SpawnHandle};
use slog::Logger;
use tokio::time::Instant;

use crate::{
    admission::Permit,
    boot::StartCause,
    callback::CalledBack,
    history::LiveInstance,
    id::{InstanceId, ReadyToken},
    notice::ExitNotice,
    output::OutputLog,
    redact::Redactor,
    sandbox::{Purpose, Reached},
    services::Services,
    spec::FunctionSpec,
    stats::FunctionStats,
};
use lifecycle::{Effect, Lifecycle};
pub(crate) use messages::{InstanceEvent, InstanceGone, InstanceQuestion, Occupancy, Pause, Resume, Stop};
use running::Sandbox;
pub use snapshot::InstanceSnapshot;

/// What an instance is started from.
pub(crate) struct InstanceArgs {
    pub function: Arc<str>,
    pub spec: Arc<FunctionSpec>,
    pub purpose: Purpose,
    /// The version of the function's spec.
    pub revision: u64,
    pub cause: StartCause,
    /// When the instance was first wanted.
    pub wanted_at: Instant,
    /// Receives what happens to the instance.
    pub events: Recipient<InstanceEvent>,
    pub services: Rc<Services>,
    /// Counts its end.
    pub stats: Arc<FunctionStats>,
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
    /// Carried out when the actor starts.
    first_effects: Vec<Effect>,
    alarm: Option<SpawnHandle>,
    probe: Option<SpawnHandle>,
    /// Where the probe has found it to accept requests, until that is published.
    reached: Option<Reached>,
    /// Since when it is wanted again, and when its resumption was ordered.
    resume_order: Option<(Instant, Instant)>,
    output: OutputLog,
    sandbox: Sandbox,
    /// Callbacks that came before the instance's address was known.
    early_callbacks: Vec<CalledBack>,
    /// Declared after the sandbox: the host's memory is released after the instance has ended.
    permit: Rc<Permit>,
    /// The source of a callback with its token that came from another address.
    refused_source: Option<IpAddr>,
    /// Whether a refused callback has been logged. There may be any number.
    logged_refusal: bool,
    /// Its entry in the history. Declared after what it holds, since it notes the end.
    entry: LiveInstance,
    /// Declared last, so that the function is notified after everything else has been dropped.
    notice: ExitNotice<InstanceGone>,
}
