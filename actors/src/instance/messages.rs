//! Messages of the InstanceActor: what it receives, and the facts that it sends to its function.

use std::{sync::Arc, time::Duration};

use actix::Message;
use tokio::time::Instant;

use super::InstanceSnapshot;
use crate::{endpoint::Endpoint, id::InstanceId, sandbox::PauseError, stop_reason::StopReason};

/// Stops the instance.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Stop {
    pub reason: StopReason,
    /// Without grace.
    pub now: bool,
}

/// Pauses the instance, which serves nothing and gets no request before it has been resumed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Pause;

/// Resumes the instance. Answered by [`InstanceEvent::Resumed`], [`InstanceEvent::NotPaused`] or [`InstanceEvent::Lost`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Resume {
    /// Since when it is wanted.
    pub wanted_at: Instant,
}

/// How busy an instance is, as the function's slot table knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupancy {
    pub in_flight: usize,
    /// Requests so far.
    pub served: u64,
    /// When the instance last became busy or idle.
    pub since: Instant,
}

/// Asks for what `/debug` shows of the instance.
#[derive(Debug)]
pub(crate) struct InstanceQuestion {
    /// What the function's slot table knows of it.
    pub occupancy: Option<Occupancy>,
    /// How many lines of its output.
    pub lines: usize,
}

impl Message for InstanceQuestion {
    type Result = InstanceSnapshot;
}

/// What an InstanceActor sends to its function.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum InstanceEvent {
    /// It accepts requests from now on.
    Ready(Arc<Endpoint>),
    /// It is paused, and holds so many bytes of memory, if that is known.
    Paused { instance: InstanceId, footprint: Option<u64> },
    /// Another program has paused it. It is resumed by [`Resume`].
    PausedExternally(InstanceId),
    /// It accepts requests again, so long after its resumption was ordered.
    Resumed { instance: InstanceId, took: Duration },
    /// It accepts requests again, because it could not be paused.
    NotPaused { instance: InstanceId, error: PauseError },
    /// It accepts no more requests, but still holds resources. Sent exactly once.
    Lost {
        instance: InstanceId,
        reason: StopReason,
        /// The last lines that it printed, if it failed.
        output: Vec<String>,
    },
    /// A ready callback with its token was refused.
    CallbackRefused,
}

/// The instance has ended and holds nothing any more. Its last message.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct InstanceGone {
    pub instance: InstanceId,
    /// Its actor panicked.
    pub bug: bool,
}
