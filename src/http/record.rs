//! The one line and the one count of a request.

use std::thread;

use slog::{Drain as _, Level, Logger, debug, info, warn};
use tokio::time::Instant;
use unifaas_actors::{FunctionHandle, Outcome};

use super::{request_id::RequestId, status::Failure};

/// Counts and logs one request, exactly once: at its end, or when it is dropped because the client left.
pub struct Record<'a> {
    handle: &'a FunctionHandle,
    log: &'a Logger,
    request_id: &'a RequestId,
    since: Instant,
    over: bool,
}

impl<'a> Record<'a> {
    pub fn new(handle: &'a FunctionHandle, log: &'a Logger, request_id: &'a RequestId, since: Instant) -> Self {
        Self { handle, log, request_id, since, over: false }
    }

    /// The request's end, if it had not ended before.
    pub fn end(&mut self, outcome: Outcome) {
        // Asked first: even the values of a line that is not written cost something, and this one is on every request's way.
        if self.close(outcome) && self.log.is_enabled(Level::Debug) {
            debug!(self.log, "request is over"; "function" => self.handle.name(), "outcome" => outcome.code(),
                "request_id" => self.request_id.as_str(), "ms" => self.elapsed_ms());
        }
    }

    /// The end of a request that the platform answered, or broke off.
    pub fn fail(&mut self, failure: &Failure) {
        let outcome = failure.outcome();
        if !self.close(outcome) {
            return;
        }
        let (function, request_id, ms) = (self.handle.name(), self.request_id.as_str(), self.elapsed_ms());
        match outcome {
            Outcome::ClientGone => debug!(self.log, "client left"; "function" => function, "status" => 499,
                "request_id" => request_id, "ms" => ms),
            Outcome::Internal => warn!(self.log, "request failed"; "function" => function,
                "outcome" => outcome.code(), "request_id" => request_id, "ms" => ms, "error" => %failure),
            _ => info!(self.log, "request failed"; "function" => function,
                "outcome" => outcome.code(), "request_id" => request_id, "ms" => ms, "error" => %failure),
        }
    }

    fn close(&mut self, outcome: Outcome) -> bool {
        if self.over {
            return false;
        }
        self.over = true;
        self.handle.stats().count(outcome);
        true
    }

    fn elapsed_ms(&self) -> f64 {
        self.since.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.end(Outcome::Internal);
        } else {
            // Nobody waits for it any more.
            self.fail(&Failure::ClientGone);
        }
    }
}
