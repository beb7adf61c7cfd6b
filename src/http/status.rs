//! What each failure says to the client: the only file that knows status codes.
//!
//! A platform error is an RFC 9457 problem document and carries `x-unifaas-error`, so that it is not mistaken for the
//! function's own answer.

use std::{borrow::Cow, time::Duration};

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use serde::Serialize;
use unifaas_actors::{CallbackOutcome, InstanceId, Outcome, Refusal, sandbox::SandboxExit};

use super::{
    headers::{ERROR_CODE, REQUEST_ID},
    request_id::RequestId,
    upstream::{AttemptError, BodyError},
};

/// Why the platform answers instead of the function.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No function of that name.
    #[error("no function of this name is registered")]
    NoSuchFunction,
    /// There is no such page.
    #[error("there is nothing at this address")]
    NoSuchPage,
    /// The daemon is ending.
    #[error("the daemon is shutting down")]
    Draining,
    /// The limit of connections, or of this client's, is reached.
    #[error("there are too many connections, from everywhere or from this address: see --max-connections")]
    TooManyConnections,
    /// The client has too many requests at once on one connection of HTTP/2.
    #[error("there are too many requests at once on this connection")]
    TooManyStreams,
    /// The function gave no slot.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The client has left; the response is not read.
    #[error("the client left")]
    ClientGone,
    /// The client's request declares a body that is too large.
    #[error("the request body is larger than {limit} bytes")]
    BodyTooLarge {
        /// What is allowed.
        limit: u64,
    },
    /// What came is not a valid request.
    #[error("the request is malformed")]
    BadRequest,
    /// The request's body is malformed.
    #[error("the request body is malformed")]
    MalformedBody,
    /// The request's head has too many bytes or headers.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// The head of the request took too long.
    #[error("the request head did not arrive in time")]
    HeadTimedOut,
    /// The instance could not be reached.
    #[error("could not connect to the instance: {source}")]
    Unreachable {
        /// The instance.
        instance: InstanceId,
        /// What the system said.
        source: std::io::Error,
    },
    /// The instance gave no response.
    #[error("{}", chain(.error))]
    Attempt {
        /// The instance.
        instance: InstanceId,
        /// Why.
        error: AttemptError,
    },
    /// The instance's response broke off.
    #[error("{}", chain(.error))]
    ResponseBody {
        /// The instance.
        instance: InstanceId,
        /// How.
        error: BodyError,
        /// Whether the connection had been kept from an earlier request.
        reused: bool,
    },
    /// The instance ended in the middle of the exchange.
    #[error("the instance ended before it answered: {end}")]
    Ended {
        /// The instance.
        instance: InstanceId,
        /// How.
        end: SandboxExit,
    },
    /// The function took too long.
    #[error("the function did not answer within {:.3} s", .after.as_secs_f64())]
    FunctionTimedOut {
        /// The instance.
        instance: InstanceId,
        /// The time it had.
        after: Duration,
    },
    /// The client sends nothing more of its body.
    #[error("nothing of the request body came for {:.3} s", .after.as_secs_f64())]
    ClientSilent {
        /// The time it had.
        after: Duration,
    },
    /// The client took too long to send its body.
    #[error("the request body did not arrive within {:.3} s", .after.as_secs_f64())]
    RequestTimedOut {
        /// The time it had.
        after: Duration,
    },
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// Status, code and title.
type Saying = (StatusCode, &'static str, &'static str);

impl Failure {
    fn saying(&self) -> Saying {
        use StatusCode as S;
        let counted = |outcome: Outcome| outcome.code();
        match self {
            Failure::NoSuchFunction => (S::NOT_FOUND, "no_such_function", "No such function"),
            Failure::NoSuchPage => (S::NOT_FOUND, "no_such_page", "Nothing here"),
            Failure::Draining => (S::SERVICE_UNAVAILABLE, "draining", "Shutting down"),
            Failure::TooManyConnections => (S::SERVICE_UNAVAILABLE, "too_many_connections", "Too many connections"),
            Failure::TooManyStreams => (S::SERVICE_UNAVAILABLE, "too_many_streams", "Too many requests at once"),
            Failure::Refused(refusal) => {
                let (status, title) = match refusal.root() {
                    Refusal::Misconfigured { .. } => (S::INTERNAL_SERVER_ERROR, "Function misconfigured"),
                    Refusal::Saturated { .. } => (S::TOO_MANY_REQUESTS, "Function saturated"),
                    Refusal::HostSaturated { .. } => (S::SERVICE_UNAVAILABLE, "Host saturated"),
                    Refusal::Draining => (S::SERVICE_UNAVAILABLE, "Shutting down"),
                    Refusal::StartFailed { .. } => (S::BAD_GATEWAY, "Instance could not be started"),
                    Refusal::BootFailed { .. } => (S::BAD_GATEWAY, "Instance ended while booting"),
                    Refusal::BootTimedOut { .. } => (S::GATEWAY_TIMEOUT, "Instance was not ready in time"),
                    Refusal::QueueTimedOut { .. } => (S::GATEWAY_TIMEOUT, "No instance had room in time"),
                    Refusal::Lost | Refusal::Failing { .. } => (S::INTERNAL_SERVER_ERROR, "Internal error"),
                };
                (status, counted(refusal.outcome()), title)
            }
            Failure::BodyTooLarge { .. } => {
                (S::PAYLOAD_TOO_LARGE, counted(Outcome::BodyTooLarge), "Request body too large")
            }
            Failure::HeadTooLarge => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "Request head too large"),
            Failure::BadRequest | Failure::MalformedBody => {
                (S::BAD_REQUEST, counted(Outcome::BadRequest), "Bad request")
            }
            // No client reads this. The log says 499, as nginx's does.
            Failure::ClientGone => (S::BAD_REQUEST, counted(Outcome::ClientGone), "Client left"),
            Failure::RequestTimedOut { .. } | Failure::ClientSilent { .. } | Failure::HeadTimedOut => {
                (S::REQUEST_TIMEOUT, counted(Outcome::RequestTimedOut), "Request timed out")
            }
            Failure::Unreachable { .. }
            | Failure::Attempt { .. }
            | Failure::ResponseBody { .. }
            | Failure::Ended { .. } => (S::BAD_GATEWAY, counted(Outcome::InstanceFailed), "Instance failed"),
            Failure::FunctionTimedOut { .. } => {
                (S::GATEWAY_TIMEOUT, counted(Outcome::FunctionTimedOut), "Function timed out")
            }
        }
    }

    /// Returns how the request is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Failure::NoSuchFunction
            | Failure::NoSuchPage
            | Failure::BadRequest
            | Failure::MalformedBody
            | Failure::HeadTooLarge => Outcome::BadRequest,
            Failure::Draining => Outcome::Draining,
            Failure::TooManyConnections | Failure::TooManyStreams => Outcome::HostSaturated,
            Failure::ClientGone => Outcome::ClientGone,
            Failure::Refused(refusal) => refusal.outcome(),
            Failure::BodyTooLarge { .. } => Outcome::BodyTooLarge,
            Failure::Unreachable { .. }
            | Failure::Attempt { .. }
            | Failure::ResponseBody { .. }
            | Failure::Ended { .. } => Outcome::InstanceFailed,
            Failure::FunctionTimedOut { .. } => Outcome::FunctionTimedOut,
            Failure::RequestTimedOut { .. } | Failure::ClientSilent { .. } | Failure::HeadTimedOut => {
                Outcome::RequestTimedOut
            }
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

    fn instance(&self) -> Option<InstanceId> {
        match self {
            Failure::Unreachable { instance, .. }
            | Failure::Attempt { instance, .. }
            | Failure::ResponseBody { instance, .. }
            | Failure::Ended { instance, .. }
            | Failure::FunctionTimedOut { instance, .. } => Some(*instance),
            Failure::Refused(refusal) => match refusal.root() {
                Refusal::StartFailed { instance, .. }
                | Refusal::BootFailed { instance, .. }
                | Refusal::BootTimedOut { instance, .. } => Some(*instance),
                _ => None,
            },
            _ => None,
        }
    }

    fn output(&self) -> &[String] {
        let Failure::Refused(refusal) = self else { return &[] };
        match refusal.root() {
            Refusal::BootFailed { output, .. } | Refusal::BootTimedOut { output, .. } => output,
            _ => &[],
        }
    }

    /// `Retry-After`, in whole seconds from 1 to 60: what was observed, rounded up.
    fn retry_after(&self) -> Option<u64> {
        let computed = match self {
            Failure::Refused(
                Refusal::Saturated { retry_after, .. }
                | Refusal::HostSaturated { retry_after, .. }
                | Refusal::Failing { retry_after, .. },
            ) => *retry_after,
            Failure::Draining
            | Failure::TooManyConnections
            | Failure::TooManyStreams
            | Failure::Refused(Refusal::Draining) => Duration::from_secs(1),
            _ => return None,
        };
        Some((computed.as_secs_f64().ceil() as u64).clamp(1, 60))
    }

    fn problem(&self, function: Option<&str>, request_id: &str) -> Problem {
        let (status, code, title) = self.saying();
        let instance = self.instance().map(|instance| instance.to_string());
        let document = Document {
            r#type: "about:blank",
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            code,
            function,
            instance: instance.as_deref(),
            output: self.output(),
            request_id,
        };
        let mut fields = vec![("content-type", "application/problem+json".into()), (ERROR_CODE, code.into())];
        fields.extend(self.retry_after().map(|seconds| ("retry-after", seconds.to_string().into())));
        Problem { status, fields, body: serde_json::to_string(&document).unwrap_or_default() }
    }

    /// Whether the connection cannot go on after this: what follows on it is no request, or will not be served.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Failure::Draining
                | Failure::TooManyConnections
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

    /// Returns the answer to what reaches no handler, as the bytes of HTTP/1.1. It is the last of its connection.
    pub fn bare_response(&self) -> Vec<u8> {
        let request_id = RequestId::of(None);
        let Problem { status, fields, body } = self.problem(None, request_id.as_str());
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
    pub function: Option<String>,
    pub request_id: RequestId,
}

impl ResponseError for Rejection {
    fn status_code(&self) -> StatusCode {
        self.failure.saying().0
    }

    fn error_response(&self) -> HttpResponse {
        let Problem { status, fields, body } = self.failure.problem(self.function.as_deref(), self.request_id.as_str());
        let mut response = HttpResponse::build(status);
        for (name, value) in &fields {
            response.insert_header((*name, value.as_bytes()));
        }
        if self.failure.closes() {
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
    use super::*;

    fn said(failure: &Failure) -> (u16, String, Option<String>) {
        let problem = failure.problem(Some("f"), "r");
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
            (Refusal::HostSaturated { why: why(), retry_after: Duration::ZERO }, 503, "host_saturated", Some("1")),
            (Refusal::Draining, 503, "draining", Some("1")),
            (Refusal::StartFailed { instance, why: why() }, 502, "start_failed", None),
            (Refusal::BootTimedOut { instance, after, output: vec![] }, 504, "boot_timed_out", None),
            (failing(Refusal::StartFailed { instance, why: why() }), 502, "start_failed", Some("3")),
            (failing(Refusal::BootTimedOut { instance, after, output: vec![] }), 504, "boot_timed_out", Some("3")),
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
        let problem: serde_json::Value = serde_json::from_str(&failure.problem(Some("f"), "r-1").body).unwrap();
        assert_eq!(problem["status"], 502);
        assert_eq!(problem["code"], "boot_failed");
        assert_eq!(problem["function"], "f");
        assert_eq!(problem["instance"], instance.to_string());
        assert_eq!(problem["request_id"], "r-1");
        assert_eq!(problem["output"][0], "no such table");
        assert!(problem["detail"].as_str().unwrap().contains("status 3"));
    }
}
