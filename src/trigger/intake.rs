//! A message becomes an invocation: tried until it is durable, or until it is certain that its function does not take it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use slog::{Logger, warn};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use unifaas_actors::inbox::{Enqueue, EnqueueError, EnqueueRefusal, InboxHandle, InvocationId};

use super::status::SourceStatus;
use crate::log::LogThrottle;

/// Between two attempts to store a message. Nothing more is taken from its source meanwhile.
const RETRY: Duration = Duration::from_millis(500);

/// Stores the messages of one source.
#[derive(Clone)]
pub struct Intake {
    inbox: InboxHandle,
    status: Arc<SourceStatus>,
    throttle: Arc<LogThrottle>,
    log: Logger,
}

/// Why a message is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// The function does not take it, now or later.
    #[error("{0}")]
    Refused(String),
    /// Its subscription was cancelled while the inbox took nothing.
    #[error("the daemon takes no messages any more")]
    Cancelled,
}

impl Intake {
    /// Makes the intake of a source.
    pub fn new(inbox: InboxHandle, status: Arc<SourceStatus>, log: Logger) -> Self {
        Self { inbox, status, throttle: Arc::default(), log }
    }

    /// Returns the inbox.
    pub fn inbox(&self) -> &InboxHandle {
        &self.inbox
    }

    /// Stores a message. Waits while the inbox takes nothing.
    ///
    /// # Errors
    /// Nothing is stored.
    pub async fn store(&self, mut enqueue: Enqueue, cancelled: &CancellationToken) -> Result<InvocationId, NotStored> {
        loop {
            let why = match self.inbox.enqueue(enqueue.clone()).await {
                Ok(stored) => {
                    self.status.stored.fetch_add(u64::from(!stored.is_duplicate), Relaxed);
                    return Ok(stored.id);
                }
                // A stream that was made anew counts from 1 again.
                Err(EnqueueError::NotStored(EnqueueRefusal::KeyReused)) if enqueue.key.is_some() => {
                    enqueue.key = None;
                    continue;
                }
                Err(error @ (EnqueueError::NotAllowed | EnqueueError::BodyTooLarge { .. })) => {
                    self.status.refused.fetch_add(1, Relaxed);
                    let why = error.to_string();
                    self.log_refusal("message is given up", &enqueue.function, &why);
                    return Err(NotStored::Refused(why));
                }
                Err(error) => error.to_string(),
            };
            self.log_refusal("message waits for the inbox", &enqueue.function, &why);
            tokio::select! {
                () = sleep(RETRY) => {}
                () = cancelled.cancelled() => return Err(NotStored::Cancelled),
            }
        }
    }

    fn log_refusal(&self, what: &str, function: &str, why: &str) {
        if let Some(events) = self.throttle.due() {
            warn!(self.log, "{what}"; "function" => function, "reason" => why, "events" => events);
        }
    }
}
