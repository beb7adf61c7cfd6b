//! Why a request fails, and what follows from that for its instance and its connection. What a client gets to read of it
//! is `status.rs`'s matter.

use std::{io, iter, net::SocketAddr, sync::Arc, time::Duration};

use unifaas_actors::{InstanceId, Refusal, sandbox::SandboxExit};

use super::inbox_failure::InboxFailure;
use crate::{
    cluster::PublishError,
    upstream::{AttemptError, BodyError},
};

/// Why the platform answers instead of the function.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no function of this name is registered")]
    NoSuchFunction,
    #[error("there is no instance of this id, or it has ended")]
    NoSuchInstance,
    /// The client may not do this.
    #[error("not allowed: {why}")]
    Forbidden { why: String },
    #[error("the key of the node is not known here any more")]
    UnknownNode,
    /// The page has another method.
    #[error("this address serves {allowed} only")]
    MethodNotAllowed { allowed: String },
    #[error("the registry cannot be read: {why}")]
    RegistryUnreadable { why: String },
    /// `is_busy`: another upgrade is under way.
    #[error("not upgraded: {why}")]
    NotUpgraded { is_busy: bool, why: String },
    #[error("there is nothing at this address")]
    NoSuchPage,
    #[error("the daemon is shutting down")]
    Draining,
    #[error("there are too many connections, from everywhere or from this address: see --max-connections")]
    TooManyConnections,
    /// Over HTTP/2.
    #[error("there are too many requests at once on this connection")]
    TooManyStreams,
    #[error("there are too many live pages, from all readers or from this one")]
    TooManyReaders,
    #[error("the query is wrong: {why}")]
    BadQuery { why: String },
    #[error("a header is wrong: {why}")]
    BadHeader { why: String },
    /// About asynchronous invocations.
    #[error(transparent)]
    Inbox(#[from] InboxFailure),
    /// About published functions.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The function gave no slot.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The response is not read.
    #[error("the client left")]
    ClientGone,
    #[error("the request body is larger than {limit} bytes")]
    BodyTooLarge { limit: u64 },
    #[error("the request is malformed")]
    BadRequest,
    #[error("the request body is malformed")]
    MalformedBody,
    /// In bytes or in headers.
    #[error("the request head is too large")]
    HeadTooLarge,
    #[error("the request head did not arrive in time")]
    HeadTimedOut,
    /// It has accepted a connection before.
    #[error("could not connect to the instance at {address}: {source}")]
    Unreachable { instance: InstanceId, address: SocketAddr, source: io::Error },
    /// There is no response.
    #[error("{}", chain(.error))]
    Attempt { instance: InstanceId, error: AttemptError },
    /// The response broke off. `reused`: the connection had been kept from an earlier request.
    #[error("{}", chain(.error))]
    ResponseBody { instance: InstanceId, error: BodyError, reused: bool },
    #[error("the instance ended before it answered: {end}")]
    Ended { instance: InstanceId, end: SandboxExit },
    /// `after`: the time it had.
    #[error("the function did not answer within {:.3} s", .after.as_secs_f64())]
    FunctionTimedOut { instance: InstanceId, after: Duration },
    /// Another node was to serve the request.
    #[error("node {peer} did not answer: {why}")]
    PeerFailed { peer: Arc<str>, why: String },
    #[error("node {peer} did not answer within {:.3} s", .after.as_secs_f64())]
    PeerTimedOut { peer: Arc<str>, after: Duration },
    #[error("nothing of the request body came for {:.3} s", .after.as_secs_f64())]
    ClientSilent { after: Duration },
    #[error("the request body did not arrive within {:.3} s", .after.as_secs_f64())]
    RequestTimedOut { after: Duration },
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(error.source(), |cause| cause.source());
    iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

impl Failure {
    /// Returns what happened, without what is said to this client only.
    pub fn reason(&self) -> String {
        match self {
            Failure::Refused(refusal) => refusal.root().to_string(),
            failure => failure.to_string(),
        }
    }

    /// Returns what the reasons of equal failures have in common.
    pub fn group(&self) -> String {
        let reason = self.reason();
        match self {
            // They tell how much is free or waits at the moment.
            Failure::Refused(Refusal::Saturated { .. } | Refusal::HostSaturated { .. }) => {
                reason.chars().filter(|character| !character.is_ascii_digit()).collect()
            }
            _ => reason,
        }
    }

    /// Whether the response was malformed. Only an instance that answers every request like that has failed.
    pub fn is_malformed_response(&self) -> bool {
        matches!(
            self,
            Failure::Attempt { error: AttemptError::Malformed(_), .. }
                | Failure::ResponseBody { error: BodyError::Malformed(_), .. }
        )
    }

    /// Whether the instance should get no further request. The end of a connection that had been kept is not its failure.
    pub fn condemns_instance(&self) -> bool {
        match self {
            Failure::Attempt { error: AttemptError::Broken { reused, .. }, .. } => !reused,
            Failure::ResponseBody { error: BodyError::Broken(_), reused, .. } => !reused,
            Failure::Attempt { .. } | Failure::ResponseBody { .. } => false,
            Failure::Unreachable { .. } | Failure::Ended { .. } | Failure::FunctionTimedOut { .. } => true,
            _ => false,
        }
    }

    /// Returns the instance that failed.
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Failure::Unreachable { instance, .. }
            | Failure::Attempt { instance, .. }
            | Failure::ResponseBody { instance, .. }
            | Failure::Ended { instance, .. }
            | Failure::FunctionTimedOut { instance, .. } => Some(*instance),
            Failure::Refused(refusal) => match refusal.root() {
                Refusal::StartFailed { instance, .. }
                | Refusal::BootFailed { instance, .. }
                | Refusal::Unreachable { instance, .. }
                | Refusal::BootTimedOut { instance, .. } => Some(*instance),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the last lines of an instance that failed to boot.
    pub fn output(&self) -> &[String] {
        let Failure::Refused(refusal) = self else { return &[] };
        match refusal.root() {
            Refusal::BootFailed { output, .. }
            | Refusal::Unreachable { output, .. }
            | Refusal::BootTimedOut { output, .. } => output,
            _ => &[],
        }
    }

    /// Whether the reason may name files, programs or resources of the host, or quote the function.
    pub fn is_internal(&self) -> bool {
        match self {
            Failure::Refused(refusal) => matches!(
                refusal.root(),
                Refusal::Misconfigured { .. }
                    | Refusal::HostSaturated { .. }
                    | Refusal::StartFailed { .. }
                    | Refusal::BootFailed { .. }
            ),
            Failure::Unreachable { .. }
            | Failure::Attempt { .. }
            | Failure::ResponseBody { .. }
            | Failure::Ended { .. }
            | Failure::PeerFailed { .. }
            | Failure::Publish(PublishError::Store(_))
            | Failure::Inbox(InboxFailure::Unavailable { .. }) => true,
            _ => false,
        }
    }

    /// Whether nothing was done with the request, so that it can be sent elsewhere.
    pub fn is_untouched(&self) -> bool {
        match self {
            Failure::NoSuchFunction | Failure::Draining | Failure::TooManyConnections | Failure::UnknownNode => true,
            Failure::Refused(refusal) => {
                matches!(refusal, Refusal::Saturated { .. } | Refusal::HostSaturated { .. } | Refusal::Draining)
            }
            _ => false,
        }
    }

    /// Whether the connection cannot go on after this: what follows on it is no request, or will not be served.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Failure::Draining
                | Failure::TooManyConnections
                | Failure::UnknownNode
                | Failure::ClientGone
                | Failure::BadRequest
                | Failure::MalformedBody
                | Failure::HeadTooLarge
                | Failure::HeadTimedOut
                | Failure::BodyTooLarge { .. }
                | Failure::RequestTimedOut { .. }
                | Failure::ClientSilent { .. }
                | Failure::Refused(Refusal::Draining)
        )
    }
}
