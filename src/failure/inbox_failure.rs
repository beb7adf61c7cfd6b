//! Why a request about asynchronous invocations fails.

use unifaas_actors::inbox::{EnqueueError, EnqueueRefusal};

use super::reasons::Failure;

/// Why a request about asynchronous invocations fails, besides what any invocation can fail for.
#[derive(Debug, thiserror::Error)]
pub enum InboxFailure {
    #[error("there is no invocation of this id, or it has expired")]
    NoSuchInvocation,
    #[error("the invocation has not ended")]
    NotFinished,
    #[error("the response is not kept: the function gave none, it was larger than max-response, or there was no space")]
    ResponseGone,
    #[error("results are not delivered to this URL: it begins with no --deliver-to")]
    CallbackNotAllowed,
    #[error("the function accepts no asynchronous invocations: its file has allow = false in [async]")]
    NotAllowed,
    #[error("the idempotency key was used for a request with another method, target or body")]
    KeyReused,
    #[error("{queued} invocations of the function have not ended, as many as its [async] queue allows")]
    Full { queued: usize },
    #[error("{why}")]
    Unavailable { why: String },
    #[error("the inbox is not damaged: its database stays as it is")]
    NotDamaged,
}

impl From<EnqueueError> for Failure {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::NoSuchFunction => Failure::NoSuchFunction,
            EnqueueError::Refused(refusal) => Failure::Refused(refusal),
            EnqueueError::BodyTooLarge { limit } => Failure::BodyTooLarge { limit },
            EnqueueError::NotAllowed => InboxFailure::NotAllowed.into(),
            EnqueueError::NotStored(refusal) => Failure::Inbox(match refusal {
                EnqueueRefusal::KeyReused => InboxFailure::KeyReused,
                EnqueueRefusal::Full { queued } => InboxFailure::Full { queued },
                EnqueueRefusal::Unavailable { why } => InboxFailure::Unavailable { why },
                // Only triggers have firings.
                EnqueueRefusal::AlreadyFired => InboxFailure::Unavailable { why: refusal.to_string() },
            }),
        }
    }
}
