//! How requests end.

/// How a request ended, as the platform sees it. Every request is counted under exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the codes in docs/http.md")]
pub enum Outcome {
    /// The function's response reached the client completely, whatever its status.
    Ok,
    /// The client disconnected before it had the complete response.
    ClientGone,
    FunctionMisconfigured,
    FunctionSaturated,
    HostSaturated,
    Draining,
    StartFailed,
    BootFailed,
    BootTimedOut,
    QueueTimedOut,
    InstanceFailed,
    FunctionTimedOut,
    BadRequest,
    BodyTooLarge,
    RequestTimedOut,
    Internal,
    PeerFailed,
    PeerTimedOut,
}

impl Outcome {
    /// Every outcome, in the order of the discriminants.
    pub const ALL: [Outcome; 18] = [
        Outcome::Ok,
        Outcome::ClientGone,
        Outcome::FunctionMisconfigured,
        Outcome::FunctionSaturated,
        Outcome::HostSaturated,
        Outcome::Draining,
        Outcome::StartFailed,
        Outcome::BootFailed,
        Outcome::BootTimedOut,
        Outcome::QueueTimedOut,
        Outcome::InstanceFailed,
        Outcome::FunctionTimedOut,
        Outcome::BadRequest,
        Outcome::BodyTooLarge,
        Outcome::RequestTimedOut,
        Outcome::Internal,
        Outcome::PeerFailed,
        Outcome::PeerTimedOut,
    ];

    /// Returns the stable name in `/debug` and in `x-unifaas-error`.
    pub const fn code(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ClientGone => "client_gone",
            Outcome::FunctionMisconfigured => "function_misconfigured",
            Outcome::FunctionSaturated => "function_saturated",
            Outcome::HostSaturated => "host_saturated",
            Outcome::Draining => "draining",
            Outcome::StartFailed => "start_failed",
            Outcome::BootFailed => "boot_failed",
            Outcome::BootTimedOut => "boot_timed_out",
            Outcome::QueueTimedOut => "queue_timed_out",
            Outcome::InstanceFailed => "instance_failed",
            Outcome::FunctionTimedOut => "function_timed_out",
            Outcome::BadRequest => "bad_request",
            Outcome::BodyTooLarge => "body_too_large",
            Outcome::RequestTimedOut => "request_timed_out",
            Outcome::Internal => "internal",
            Outcome::PeerFailed => "peer_failed",
            Outcome::PeerTimedOut => "peer_timed_out",
        }
    }
}
