//! What failures about asynchronous invocations and published functions say to the client. The others are in `status.rs`.

use actix_web::http::StatusCode;
use unifaas_actors::{Outcome, cluster::RolloutError};

use super::{inbox_failure::InboxFailure, status::Saying};
use crate::cluster::PublishError;

impl InboxFailure {
    pub(super) fn saying(&self) -> Saying {
        use Outcome as O;
        use StatusCode as S;
        match self {
            Self::NoSuchInvocation => (S::NOT_FOUND, O::BadRequest, "no_such_invocation", "No such invocation"),
            Self::NotFinished => (S::CONFLICT, O::BadRequest, "not_finished", "Not finished"),
            Self::ResponseGone => (S::GONE, O::BadRequest, "response_gone", "Response not kept"),
            Self::CallbackNotAllowed => (S::FORBIDDEN, O::BadRequest, "callback_not_allowed", "Callback not allowed"),
            Self::NotAllowed => (S::FORBIDDEN, O::BadRequest, "async_not_allowed", "No asynchronous invocations"),
            Self::KeyReused => {
                (S::UNPROCESSABLE_ENTITY, O::BadRequest, "idempotency_key_reused", "Idempotency key reused")
            }
            Self::NotDamaged => (S::CONFLICT, O::BadRequest, "inbox_not_damaged", "Inbox not damaged"),
            Self::Full { .. } => (S::TOO_MANY_REQUESTS, O::FunctionSaturated, "inbox_full", "Inbox full"),
            Self::Unavailable { .. } => {
                (S::SERVICE_UNAVAILABLE, O::HostSaturated, "inbox_unavailable", "Inbox unavailable")
            }
        }
    }
}

impl PublishError {
    pub(super) fn saying(&self) -> Saying {
        use Outcome as O;
        use StatusCode as S;
        match self {
            PublishError::NoCluster => (S::CONFLICT, O::BadRequest, "no_cluster", "No cluster"),
            PublishError::NotAllowed => (S::FORBIDDEN, O::BadRequest, "forbidden", "Not allowed"),
            PublishError::Conflict(_) => (S::CONFLICT, O::BadRequest, "publish_conflict", "Changed meanwhile"),
            PublishError::NotPublished(_) => (S::NOT_FOUND, O::BadRequest, "not_published", "Not published"),
            PublishError::Rollout(RolloutError::NoSuchVersion(_) | RolloutError::Ambiguous(_)) => {
                (S::NOT_FOUND, O::BadRequest, "no_such_version", "No such version")
            }
            PublishError::Rollout(RolloutError::NoVersionBefore) => {
                (S::CONFLICT, O::BadRequest, "no_version_before", "No version before")
            }
            PublishError::Refused(_) => (S::UNPROCESSABLE_ENTITY, O::BadRequest, "not_publishable", "Not publishable"),
            PublishError::Unavailable(_) => {
                (S::SERVICE_UNAVAILABLE, O::HostSaturated, "catalogue_unavailable", "Catalogue unavailable")
            }
            PublishError::Store(_) => {
                (S::INSUFFICIENT_STORAGE, O::HostSaturated, "store_failed", "Files cannot be kept")
            }
        }
    }
}
