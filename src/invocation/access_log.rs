//! The one count of a request, and its line of the log.
//!
//! Failures are grouped as well, for `/debug/errors`. Of equal failures one line is written in a while, with their number:
//! a broken function under load must not fill the log.

use std::{sync::Arc, thread, time::Duration};

use slog::{Drain as _, Level, Logger, Record, Serializer, info, warn};
use tokio::time::Instant;
use unifaas_actors::{
    ErrorReport, Failed, InstanceId, Lease, Origin, Outcome, Refusal, RequestEnd, Wait, WaitCause, WaitedFor,
    rounded_ms,
};

use super::exchange::{Exchange, Server};
use crate::{failure::Failure, log::AccessLogMode, shared::Shared};

/// Lines of an instance's output in a line of the log.
const LINES: usize = 5;
/// Bytes of a path in a line of the log.
const MAX_PATH: usize = 1024;
/// The status in the log if the client has left, as nginx has it.
const CLIENT_LEFT: u16 = 499;
/// What is counted among failures when a function answers 5xx. It is no code of the platform.
const FUNCTION_ERROR: &str = "function_error";
/// A failed request that was there for less has not waited.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// What a line of the log says of an instance's part.
#[derive(Debug, Default)]
pub struct AccessRecord {
    instance: Option<InstanceId>,
    /// The node that has served it instead.
    peer: Option<Arc<str>>,
    wait: Wait,
    /// The function's own status, once it has answered.
    status: Option<u16>,
    /// From the dispatch to the head of the response.
    upstream: Duration,
    /// Of the response's body.
    bytes: u64,
}

impl AccessRecord {
    /// Notes the slot that the request got.
    pub fn set_leased(&mut self, lease: &Lease, arrived: Instant) {
        self.instance = Some(lease.endpoint().instance);
        self.wait = lease.wait(arrived);
    }

    /// Notes the head of a response.
    pub fn set_answered(&mut self, status: u16, server: &Server, upstream: Duration) {
        (self.status, self.upstream) = (Some(status), upstream);
        match server {
            Server::Instance(lease) => self.instance = Some(lease.endpoint().instance),
            Server::Node(peer) => self.peer = Some(peer.beat.name.clone()),
        }
    }

    /// Counts bytes of the response's body.
    pub fn count_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Returns which instance got the request.
    pub fn instance(&self) -> Option<InstanceId> {
        self.instance
    }

    /// Returns the function's own status, once it has answered.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Returns the status that the client got.
    pub fn sent_status(&self, failure: Option<&Failure>) -> u16 {
        match failure {
            Some(Failure::ClientGone) => CLIENT_LEFT,
            // A response that breaks off has begun with the function's status.
            Some(failure) => self.status.unwrap_or_else(|| failure.status()),
            None => self.status.unwrap_or_default(),
        }
    }

    /// Returns how long the request waited.
    pub fn wait(&self) -> &Wait {
        &self.wait
    }
}

impl Exchange {
    /// Notes the request's end, if it had not ended before.
    pub fn log_end(&mut self, outcome: Outcome, now: Instant) {
        if !self.count(outcome, None, now) {
            return;
        }
        let is_logged = self.shared.access_log() == AccessLogMode::All;
        match self.access.status.filter(|status| *status >= 500) {
            Some(status) => {
                let message = format!("the function answered {status}");
                let times = self.note_failure(FUNCTION_ERROR, &message, &message, self.access.instance);
                if is_logged || times.is_some() {
                    self.write(outcome, None, times);
                }
            }
            None if is_logged => self.write(outcome, None, None),
            None => {}
        }
    }

    /// Notes the end of a request that the platform answered, or broke off.
    pub fn log_failure(&mut self, failure: &Failure) {
        let outcome = failure.outcome();
        if !self.count(outcome, Some(failure), Instant::now()) {
            return;
        }
        let is_logged = self.shared.access_log() == AccessLogMode::All;
        let times = match outcome {
            Outcome::ClientGone => None,
            _ => self.note_failure(outcome.code(), &failure.group(), &failure.reason(), failure.instance()),
        };
        if is_logged || times.is_some() {
            self.write(outcome, Some(failure), times);
        }
    }

    /// Notes the end of a request that is dropped.
    pub fn log_drop(&mut self) {
        if self.is_ended {
            return;
        }
        if thread::panicking() {
            self.log_failure(&Failure::Refused(Refusal::Lost));
        } else if self.client.is_http2 || self.client.has_left() {
            self.log_failure(&Failure::ClientGone);
        } else {
            // The other reason for which actix-http drops a handler of HTTP/1.1.
            self.log_failure(&Failure::MalformedBody);
        }
    }

    fn count(&mut self, outcome: Outcome, failure: Option<&Failure>, now: Instant) -> bool {
        if self.is_ended {
            return false;
        }
        self.is_ended = true;
        let took = now.saturating_duration_since(self.arrived);
        let AccessRecord { wait, status, bytes, .. } = &self.access;
        let (wait, status, bytes) = (*wait, *status, *bytes);
        let (queue, boot) = match self.access.instance {
            Some(_) => (
                wait.queue_for.map(|reason| (cause_of(reason), wait.queue)),
                wait.boot_from.map(|from| (from, wait.boot)),
            ),
            None => fruitless_wait(outcome, took),
        };
        let request_bytes = self.progress.as_ref().map_or(0, |progress| progress.moved());
        let end = RequestEnd { outcome, status, took, queue, boot, request_bytes, response_bytes: bytes };
        self.function.stats().count_request(&end);
        if self.trace.is_some() {
            self.export_trace(outcome, failure, took, now);
        }
        true
    }

    /// Adds a failure to its group. Returns for how many of them a line is due.
    fn note_failure(
        &self,
        code: &'static str,
        group: &str,
        message: &str,
        instance: Option<InstanceId>,
    ) -> Option<u64> {
        let (function, request_id) = (self.function.name(), Some(self.facts.request_id.as_str()));
        self.shared.history.errors.note_request(Failed { function, code, group, message, request_id, instance })
    }

    fn write(&self, outcome: Outcome, failure: Option<&Failure>, times: Option<u64>) {
        let (log, line) = (&self.shared.log, Line { exchange: self, outcome, failure, times });
        let words = match (outcome, failure) {
            (Outcome::ClientGone, _) => "client left",
            (_, Some(_)) => "request failed",
            (_, None) => "request ended",
        };
        // A bug of the daemon is logged in any case.
        if outcome == Outcome::Internal {
            warn!(log, "{}", words; line);
        } else if self.shared.access_log() != AccessLogMode::Off && log.is_enabled(Level::Info) {
            info!(log, "{}", words; line);
        }
    }

    /// Returns the last lines of an instance that failed while it served.
    fn last_words(&self, failure: &Failure) -> Option<String> {
        if !matches!(failure.outcome(), Outcome::InstanceFailed | Outcome::FunctionTimedOut) {
            return None;
        }
        let record = self.shared.history.instances.find(failure.instance()?)?;
        Some(record.output.summary(LINES))
    }
}

fn cause_of(reason: WaitedFor) -> WaitCause {
    match reason {
        WaitedFor::Slot => WaitCause::Slot,
        WaitedFor::Host => WaitCause::Host,
    }
}

/// What a request has waited for besides its instance, and how long it has waited for that.
type Waits = (Option<(WaitCause, Duration)>, Option<(Origin, Duration)>);

/// Returns what a request has waited for that got no slot.
pub fn fruitless_wait(outcome: Outcome, took: Duration) -> Waits {
    match outcome {
        _ if took < LEAST_WAIT => (None, None),
        Outcome::QueueTimedOut => (Some((WaitCause::Slot, took)), None),
        Outcome::HostSaturated => (Some((WaitCause::Host, took)), None),
        Outcome::StartFailed | Outcome::BootFailed | Outcome::BootTimedOut => (None, Some((Origin::Cold, took))),
        // Refused at once, or what it waited for is not known.
        _ => (None, None),
    }
}

/// The members of a line.
struct Line<'a> {
    exchange: &'a Exchange,
    outcome: Outcome,
    failure: Option<&'a Failure>,
    /// So many equal failures have one line.
    times: Option<u64>,
}

impl slog::KV for Line<'_> {
    fn serialize(&self, _: &Record<'_>, out: &mut dyn Serializer) -> slog::Result {
        let Exchange { function, facts, arrived, access, .. } = self.exchange;
        let head = self.exchange.head.get();
        let path = head.uri.path();
        let status = access.sent_status(self.failure);
        out.emit_str("function", function.name())?;
        out.emit_str("method", head.method.as_str())?;
        out.emit_str("path", &path[..path.floor_char_boundary(MAX_PATH)])?;
        out.emit_u16("status", status)?;
        if let Some(status) = access.status {
            out.emit_u16("function_status", status)?;
        }
        out.emit_str("outcome", self.outcome.code())?;
        out.emit_str("request_id", facts.request_id.as_str())?;
        if let Some(trace) = &self.exchange.trace {
            out.emit_arguments("trace_id", &format_args!("{}", trace.id()))?;
        }
        out.emit_f64("ms", rounded_ms(arrived.elapsed()))?;
        if access.instance.is_some() {
            let Wait { queue, queue_for, boot, boot_from } = access.wait;
            out.emit_f64("queue_ms", rounded_ms(queue))?;
            if let Some(reason) = queue_for {
                out.emit_str("queue_for", reason.as_str())?;
            }
            out.emit_f64("boot_ms", rounded_ms(boot))?;
            if let Some(origin) = boot_from {
                out.emit_str("boot_from", origin.as_str())?;
            }
            out.emit_bool("cold", access.wait.is_cold())?;
        }
        if access.status.is_some() {
            out.emit_f64("upstream_ms", rounded_ms(access.upstream))?;
            out.emit_u64("bytes", access.bytes)?;
        }
        if let Some(peer) = &access.peer {
            out.emit_str("peer", peer)?;
        }
        if let Some(instance) = access.instance.or(self.failure.and_then(Failure::instance)) {
            out.emit_arguments("instance", &format_args!("{instance}"))?;
        }
        if let Some(failure) = self.failure.filter(|failure| !matches!(failure, Failure::ClientGone)) {
            out.emit_arguments("error", &format_args!("{failure}"))?;
            if let Some(output) = self.exchange.last_words(failure) {
                out.emit_str("output", &output)?;
            }
        }
        match self.times {
            Some(times) => out.emit_u64("times", times),
            None => Ok(()),
        }
    }
}

/// Writes a line for each group of failures that has not been logged for a while.
pub fn log_overdue_failures(shared: &Shared) {
    for (report, times) in shared.history.errors.take_overdue() {
        if shared.access_log() != AccessLogMode::Off {
            write_group(&shared.log, &report, times);
        }
    }
}

fn write_group(log: &Logger, report: &ErrorReport, times: u64) {
    info!(log, "requests failed"; "function" => &report.function, "outcome" => report.code,
        "request_id" => report.request_id.as_deref().unwrap_or_default(), "error" => &report.message, "times" => times);
}
