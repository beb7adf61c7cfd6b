//! What each failure says to the client: only this file and `sayings.rs` know status codes.
//!
//! A platform error is an RFC 9457 problem document and carries `x-unifaas-error`, so that it is not mistaken for the
//! function's own answer.

use std::{borrow::Cow, sync::Arc, time::Duration};

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use serde::Serialize;
use unifaas_actors::{CallbackOutcome, Outcome, Refusal};

use super::{inbox_failure::InboxFailure, reasons::Failure};
use crate::{
    header_names::{ERROR_CODE, NODE, REQUEST_ID, UNTOUCHED},
    request_id::RequestId,
    trace::TraceId,
};

/// How much the answer to a failed request says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ErrorDetail {
    /// Nothing about the host and the function: for clients that are strangers.
    Brief,
    /// The reason, and the output of an instance that failed to boot.
    #[default]
    Full,
}

/// The `detail` of a brief answer whose reason is not for strangers.
const BRIEF_DETAIL: &str = "the reason is in the log of the daemon";

/// Status, outcome, code and title. The code is the outcome's where that says enough.
pub(super) type Saying = (StatusCode, Outcome, &'static str, &'static str);

impl Failure {
    fn saying(&self) -> Saying {
        use Outcome as O;
        use StatusCode as S;
        let counted = |status, outcome: Outcome, title| (status, outcome, outcome.code(), title);
        match self {
            Failure::NoSuchFunction => (S::NOT_FOUND, O::BadRequest, "no_such_function", "No such function"),
            Failure::NoSuchPage => (S::NOT_FOUND, O::BadRequest, "no_such_page", "Nothing here"),
            Failure::NoSuchInstance => (S::NOT_FOUND, O::BadRequest, "no_such_instance", "No such instance"),
            Failure::Forbidden { .. } => (S::FORBIDDEN, O::BadRequest, "forbidden", "Not allowed"),
            Failure::UnknownNode => (S::FORBIDDEN, O::BadRequest, "unknown_node", "Unknown node"),
            Failure::MethodNotAllowed { .. } => {
                (S::METHOD_NOT_ALLOWED, O::BadRequest, "method_not_allowed", "Method not allowed")
            }
            Failure::NotUpgraded { is_busy: true, .. } => {
                (S::CONFLICT, O::BadRequest, "upgrade_under_way", "Upgrade under way")
            }
            Failure::NotUpgraded { is_busy: false, .. } => {
                (S::INTERNAL_SERVER_ERROR, O::Internal, "upgrade_failed", "Upgrade failed")
            }
            Failure::RegistryUnreadable { .. } => {
                (S::INTERNAL_SERVER_ERROR, O::Internal, "registry_unreadable", "Registry unreadable")
            }
            Failure::HeadTooLarge => {
                (S::REQUEST_HEADER_FIELDS_TOO_LARGE, O::BadRequest, "head_too_large", "Request head too large")
            }
            Failure::TooManyConnections => {
                (S::SERVICE_UNAVAILABLE, O::HostSaturated, "too_many_connections", "Too many connections")
            }
            Failure::TooManyStreams => {
                (S::SERVICE_UNAVAILABLE, O::HostSaturated, "too_many_streams", "Too many requests at once")
            }
            Failure::TooManyReaders => {
                (S::SERVICE_UNAVAILABLE, O::HostSaturated, "too_many_readers", "Too many live pages")
            }
            Failure::Draining => counted(S::SERVICE_UNAVAILABLE, O::Draining, "Shutting down"),
            Failure::Refused(refusal) => {
                let (status, title) = match refusal.root() {
                    Refusal::Misconfigured { .. } => (S::INTERNAL_SERVER_ERROR, "Function misconfigured"),
                    Refusal::Saturated { .. } => (S::TOO_MANY_REQUESTS, "Function saturated"),
                    Refusal::HostSaturated { .. } => (S::SERVICE_UNAVAILABLE, "Host saturated"),
                    Refusal::Draining => (S::SERVICE_UNAVAILABLE, "Shutting down"),
                    Refusal::StartFailed { .. } => (S::BAD_GATEWAY, "Instance could not be started"),
                    Refusal::BootFailed { .. } => (S::BAD_GATEWAY, "Instance ended while booting"),
                    Refusal::Unreachable { .. } => (S::BAD_GATEWAY, "Instance accepts no connection"),
                    Refusal::BootTimedOut { .. } => (S::GATEWAY_TIMEOUT, "Instance was not ready in time"),
                    Refusal::QueueTimedOut { .. } => (S::GATEWAY_TIMEOUT, "No instance had room in time"),
                    Refusal::Lost | Refusal::Failing { .. } => (S::INTERNAL_SERVER_ERROR, "Internal error"),
                };
                counted(status, refusal.outcome(), title)
            }
            Failure::BodyTooLarge { .. } => counted(S::PAYLOAD_TOO_LARGE, O::BodyTooLarge, "Request body too large"),
            Failure::Inbox(failure) => failure.saying(),
            Failure::Publish(failure) => failure.saying(),
            Failure::BadRequest | Failure::MalformedBody | Failure::BadQuery { .. } | Failure::BadHeader { .. } => {
                counted(S::BAD_REQUEST, O::BadRequest, "Bad request")
            }
            // No client reads this. The log says 499, as nginx's does.
            Failure::ClientGone => counted(S::BAD_REQUEST, O::ClientGone, "Client left"),
            Failure::RequestTimedOut { .. } | Failure::ClientSilent { .. } | Failure::HeadTimedOut => {
                counted(S::REQUEST_TIMEOUT, O::RequestTimedOut, "Request timed out")
            }
            Failure::Unreachable { .. }
            | Failure::Attempt { .. }
            | Failure::ResponseBody { .. }
            | Failure::Ended { .. } => counted(S::BAD_GATEWAY, O::InstanceFailed, "Instance failed"),
            Failure::PeerFailed { .. } => counted(S::BAD_GATEWAY, O::PeerFailed, "Other node failed"),
            Failure::PeerTimedOut { .. } => counted(S::GATEWAY_TIMEOUT, O::PeerTimedOut, "Other node timed out"),
            Failure::FunctionTimedOut { .. } => counted(S::GATEWAY_TIMEOUT, O::FunctionTimedOut, "Function timed out"),
        }
    }

    /// Returns the status of the answer.
    pub fn status(&self) -> u16 {
        self.saying().0.as_u16()
    }

    /// Returns how the request is counted.
    pub fn outcome(&self) -> Outcome {
        self.saying().1
    }

    /// `Retry-After`, in whole seconds from 1 to 60: what was observed, rounded up.
    pub fn retry_after(&self) -> Option<u64> {
        let computed = match self {
            Failure::Refused(
                Refusal::Saturated { retry_after, .. }
                | Refusal::HostSaturated { retry_after: Some(retry_after), .. }
                | Refusal::Failing { retry_after, .. },
            ) => *retry_after,
            Failure::Draining
            | Failure::Inbox(InboxFailure::Full { .. } | InboxFailure::Unavailable { .. })
            | Failure::TooManyConnections
            | Failure::TooManyStreams
            | Failure::TooManyReaders
            | Failure::Refused(Refusal::Draining) => Duration::from_secs(1),
            _ => return None,
        };
        Some((computed.as_secs_f64().ceil() as u64).clamp(1, 60))
    }

    fn problem(
        &self,
        function: Option<&str>,
        (request_id, trace_id): (&str, Option<TraceId>),
        detail: ErrorDetail,
    ) -> Problem {
        let (status, _, code, title) = self.saying();
        let is_full = detail == ErrorDetail::Full;
        let instance = self.instance().map(|instance| instance.to_string());
        let document = Document {
            r#type: "about:blank",
            title,
            status: status.as_u16(),
            detail: if is_full || !self.is_internal() { self.to_string() } else { BRIEF_DETAIL.to_owned() },
            code,
            function,
            instance: instance.as_deref(),
            output: if is_full { self.output() } else { &[] },
            request_id,
            trace_id: trace_id.map(|id| id.to_string()),
        };
        let mut fields = vec![("content-type", "application/problem+json".into()), (ERROR_CODE, code.into())];
        if let Failure::MethodNotAllowed { allowed } = self {
            fields.push(("allow", allowed.clone().into()));
        }
        if self.is_untouched() {
            fields.push((UNTOUCHED, "1".into()));
        }
        fields.extend(self.retry_after().map(|seconds| ("retry-after", seconds.to_string().into())));
        Problem { status, fields, body: serde_json::to_string(&document).unwrap_or_default() }
    }

    /// Returns the answer to what reaches no handler, as the bytes of HTTP/1.1. It is the last of its connection.
    pub fn bare_response(&self) -> Vec<u8> {
        let request_id = RequestId::of(None);
        let Problem { status, fields, body } = self.problem(None, (request_id.as_str(), None), ErrorDetail::Brief);
        let length = body.len();
        let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n");
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        (head + &format!("{REQUEST_ID}: {}\r\n\r\n{body}", request_id.as_str())).into_bytes()
    }
}

/// A failure with what its answer says of the request. Handlers return it as their error.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct Rejection {
    pub failure: Failure,
    /// The name of the function that the client asked for.
    pub function: Option<Box<str>>,
    pub request_id: RequestId,
    /// Boxed, so that errors stay small.
    pub marks: Option<Box<Marks>>,
    /// Whether the connection ends behind the answer.
    pub closes: bool,
    pub detail: ErrorDetail,
}

/// What the answers of some daemons have besides.
#[derive(Debug)]
pub struct Marks {
    /// What this node is called among others.
    pub node: Option<Arc<str>>,
    pub trace_id: Option<TraceId>,
}

impl ResponseError for Rejection {
    fn status_code(&self) -> StatusCode {
        self.failure.saying().0
    }

    fn error_response(&self) -> HttpResponse {
        let (function, trace_id) = (self.function.as_deref(), self.marks.as_ref().and_then(|marks| marks.trace_id));
        let ids = (self.request_id.as_str(), trace_id);
        let Problem { status, fields, body } = self.failure.problem(function, ids, self.detail);
        let mut response = HttpResponse::build(status);
        for (name, value) in &fields {
            response.insert_header((*name, value.as_bytes()));
        }
        if let Some(node) = self.marks.as_ref().and_then(|marks| marks.node.as_ref()) {
            response.insert_header((NODE, node.as_bytes()));
        }
        if self.closes {
            response.force_close();
        }
        response.insert_header((REQUEST_ID, self.request_id.as_bytes())).body(body)
    }
}

/// An answer of the platform, but for the request's id in its head.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    fields: Vec<(&'static str, Cow<'static, str>)>,
    body: String,
}

/// RFC 9457, with extension members.
#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    output: &'a [String],
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// Returns the response to a callback; `None`: the token is unknown.
pub fn of_callback(outcome: Option<CallbackOutcome>) -> (StatusCode, &'static str) {
    match outcome {
        Some(CallbackOutcome::Accepted) => (StatusCode::OK, "welcome\n"),
        Some(CallbackOutcome::WrongSource) => (StatusCode::FORBIDDEN, "this is not the instance's address\n"),
        Some(CallbackOutcome::NotExpected) => (StatusCode::CONFLICT, "not expected, or not any more\n"),
        None => (StatusCode::NOT_FOUND, "no such instance\n"),
    }
}

#[cfg(test)]
mod tests {
    use unifaas_actors::InstanceId;

    use super::*;

    fn said(failure: &Failure) -> (u16, String, Option<String>) {
        let problem = failure.problem(Some("f"), ("r", None), ErrorDetail::Full);
        let field = |name: &str| {
            let found = problem.fields.iter().find(|(this, _)| *this == name);
            found.map(|(_, value)| value.to_string())
        };
        assert_eq!(field("content-type").as_deref(), Some("application/problem+json"));
        (problem.status.as_u16(), field("x-unifaas-error").unwrap(), field("retry-after"))
    }

    #[test]
    fn every_refusal_has_its_status_and_code() {
        let instance = InstanceId::random();
        let after = Duration::from_millis(2300);
        let why = String::new;
        let failing = |last| Refusal::Failing { last: Box::new(last), retry_after: after };
        for (refusal, status, code, retry) in [
            (Refusal::Misconfigured { reason: "x".into() }, 500, "function_misconfigured", None),
            (Refusal::Saturated { waiting: 9, retry_after: after }, 429, "function_saturated", Some("3")),
            (
                Refusal::HostSaturated { why: why(), retry_after: Some(Duration::ZERO) },
                503,
                "host_saturated",
                Some("1"),
            ),
            (Refusal::HostSaturated { why: why(), retry_after: None }, 503, "host_saturated", None),
            (Refusal::Draining, 503, "draining", Some("1")),
            (Refusal::StartFailed { instance, why: why() }, 502, "start_failed", None),
            (Refusal::Unreachable { instance, why: "".into(), output: vec![] }, 502, "boot_failed", None),
            (Refusal::BootTimedOut { instance, after, why: "".into(), output: vec![] }, 504, "boot_timed_out", None),
            (failing(Refusal::StartFailed { instance, why: why() }), 502, "start_failed", Some("3")),
            (failing(Refusal::Unreachable { instance, why: "".into(), output: vec![] }), 502, "boot_failed", Some("3")),
            (Refusal::QueueTimedOut { after }, 504, "queue_timed_out", None),
            (Refusal::Lost, 500, "internal", None),
        ] {
            let expected = (status, code.to_owned(), retry.map(str::to_owned));
            assert_eq!(said(&refusal.into()), expected);
        }
    }

    #[test]
    fn a_problem_names_function_instance_and_last_words() {
        let instance = InstanceId::random();
        let exit = unifaas_actors::sandbox::SandboxExit::Code(3);
        let output = vec!["no such table".to_owned()];
        let failure = Failure::from(Refusal::BootFailed { instance, exit, output });
        let shown = |detail| serde_json::from_str(&failure.problem(Some("f"), ("r-1", None), detail).body).unwrap();
        let problem: serde_json::Value = shown(ErrorDetail::Full);
        assert_eq!(problem["status"], 502);
        assert_eq!(problem["code"], "boot_failed");
        assert_eq!(problem["function"], "f");
        assert_eq!(problem["instance"], instance.to_string());
        assert_eq!(problem["request_id"], "r-1");
        assert_eq!(problem["output"][0], "no such table");
        assert!(problem["detail"].as_str().unwrap().contains("status 3"));
        let brief: serde_json::Value = shown(ErrorDetail::Brief);
        assert_eq!((&brief["code"], &brief["detail"]), (&"boot_failed".into(), &BRIEF_DETAIL.into()));
        assert!(brief.get("output").is_none() && !brief.to_string().contains("status 3"), "{brief}");
    }
}
