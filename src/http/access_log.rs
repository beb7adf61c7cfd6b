//! The one log line and the one count of a request.

use std::{rc::Rc, sync::Arc, thread};

use slog::{Drain as _, Level, debug, info, warn};
use tokio::time::Instant;
use unifaas_actors::{FunctionHandle, Outcome};

use super::{client_connection::ClientConnection, request_id::RequestId, shared::Shared, status::Failure};

/// Counts and logs one request, exactly once: at its end, or when it is dropped because the client left.
pub struct AccessLog {
    handle: Arc<FunctionHandle>,
    shared: Arc<Shared>,
    client: Rc<ClientConnection>,
    pub request_id: RequestId,
    since: Instant,
    ended: bool,
}

impl AccessLog {
    /// Begins with a request's arrival.
    pub fn new(
        handle: Arc<FunctionHandle>,
        shared: Arc<Shared>,
        client: Rc<ClientConnection>,
        request_id: RequestId,
        since: Instant,
    ) -> Self {
        Self { handle, shared, client, request_id, since, ended: false }
    }

    /// Notes the request's end, if it had not ended before.
    pub fn end(&mut self, outcome: Outcome) {
        // Asked first: even the values of a line that is not written cost something on every request's path.
        if self.count(outcome) && self.shared.log.is_enabled(Level::Debug) {
            debug!(self.shared.log, "request ended"; "function" => self.handle.name(), "outcome" => outcome.code(),
                "request_id" => self.request_id.as_str(), "ms" => self.elapsed_ms());
        }
    }

    /// Notes the end of a request that the platform answered, or broke off.
    pub fn fail(&mut self, failure: &Failure) {
        let outcome = failure.outcome();
        if !self.count(outcome) {
            return;
        }
        let (log, function) = (&self.shared.log, self.handle.name());
        let (request_id, ms) = (self.request_id.as_str(), self.elapsed_ms());
        match outcome {
            Outcome::ClientGone => debug!(log, "client left"; "function" => function, "status" => 499,
                "request_id" => request_id, "ms" => ms),
            Outcome::Internal => warn!(log, "request failed"; "function" => function,
                "outcome" => outcome.code(), "request_id" => request_id, "ms" => ms, "error" => %failure),
            _ => info!(log, "request failed"; "function" => function,
                "outcome" => outcome.code(), "request_id" => request_id, "ms" => ms, "error" => %failure),
        }
    }

    fn count(&mut self, outcome: Outcome) -> bool {
        if self.ended {
            return false;
        }
        self.ended = true;
        self.handle.stats().count(outcome);
        true
    }

    fn elapsed_ms(&self) -> f64 {
        self.since.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if thread::panicking() {
            self.end(Outcome::Internal);
        } else if self.client.is_http2 || self.client.has_left() {
            self.fail(&Failure::ClientGone);
        } else {
            // The other reason for which actix-http drops a handler of HTTP/1.1.
            self.fail(&Failure::MalformedBody);
        }
    }
}
