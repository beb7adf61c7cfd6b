//! The function's answer on its way to the client, and everything that must last as long as it does.
//!
//! A [`Relay`] is the body of the response. It holds the lease, so the slot returns when the last byte has been handed
//! on or either side is gone, panics included.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::{
    body::{BodySize, BoxBody, MessageBody},
    header::HeaderValue,
};
use bytes::Bytes;
use slog::{Drain as _, Level, Logger, debug, info, warn};
use tokio::{
    task::coop::{Unconstrained, unconstrained},
    time::{Instant, Sleep, sleep_until},
};
use unifaas_actors::{Desk, Lease, Outcome};

use super::{
    client::{Client, Served},
    status::Failure,
    upstream::{Exchange, ExchangeError, Pool},
};

/// Any body this server sends.
pub enum Body {
    /// Held in memory: a problem document.
    Text(Bytes),
    /// Of a page of the admin part.
    Page(BoxBody),
    /// Streaming from an instance.
    Relay(Box<Relay>),
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::Text(text.into())
    }
}

impl MessageBody for Body {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        match self {
            Body::Text(text) => text.size(),
            Body::Page(page) => page.size(),
            Body::Relay(relay) => relay.size,
        }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        match self.get_mut() {
            Body::Text(text) if text.is_empty() => Poll::Ready(None),
            Body::Text(text) => Poll::Ready(Some(Ok(std::mem::take(text)))),
            Body::Page(page) => Pin::new(page).poll_next(cx),
            Body::Relay(relay) => relay.poll(cx).map_err(Into::into),
        }
    }
}

/// A response body that streams from an instance.
pub struct Relay {
    size: BodySize,
    exchange: Option<Exchange>,
    lease: Option<Lease>,
    deadline: Option<Deadline>,
    client: Option<ClientEnd>,
    record: Record,
    pool: Rc<Pool>,
    /// Whether a piece of the body has been handed on: most responses are one.
    begun: bool,
}

/// The client that a response goes to.
pub struct ClientEnd {
    pub client: Client,
    /// The end of the connection is the end of the body, so one that is cut short needs another sign.
    pub reset_on_failure: bool,
}

/// When a request must be over.
pub struct Deadline {
    /// Fires also where an instance has so much to say that a fair runtime would let nothing else of the task proceed.
    pub sleep: Pin<Box<Unconstrained<Sleep>>>,
    at: Instant,
    /// The time the function had.
    pub after: Duration,
}

impl Deadline {
    /// `after` is how long after the dispatch `at` is.
    pub fn new(at: Instant, after: Duration) -> Self {
        Self { sleep: Box::pin(unconstrained(sleep_until(at))), at, after }
    }
}

impl Relay {
    pub fn new(
        size: BodySize,
        exchange: Exchange,
        lease: Lease,
        deadline: Option<Deadline>,
        client: Option<ClientEnd>,
        record: Record,
        pool: Rc<Pool>,
    ) -> Self {
        Self { size, exchange: Some(exchange), lease: Some(lease), deadline, client, record, pool, begun: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let (Some(exchange), Some(lease)) = (&mut self.exchange, &self.lease) else { return Poll::Ready(None) };
        let instance = lease.endpoint().instance;
        match exchange.poll_body(cx) {
            Poll::Ready(Some(Ok(chunk))) => match &self.deadline {
                // Whoever never pauses is not let off.
                Some(Deadline { at, after, .. }) if self.begun && Instant::now() > *at => {
                    let after = *after;
                    self.fail(Failure::FunctionTimedOut { instance, after })
                }
                _ => {
                    self.begun = true;
                    Poll::Ready(Some(Ok(chunk)))
                }
            },
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.fail(Failure::Exchange { instance, error }),
            Poll::Pending if self.client.as_ref().is_some_and(|end| end.client.poll_left(cx).is_ready()) => {
                self.fail(Failure::ClientGone)
            }
            Poll::Pending => {
                let Some(deadline) = &mut self.deadline else { return Poll::Pending };
                ready!(deadline.sleep.as_mut().poll(cx));
                let after = deadline.after;
                self.fail(Failure::FunctionTimedOut { instance, after })
            }
        }
    }

    /// The last byte has been handed on: the slot and the connection are free.
    pub fn complete(&mut self) {
        if let (Some(exchange), Some(lease)) = (self.exchange.take(), self.lease.take()) {
            if let Some(connection) = exchange.into_connection() {
                self.pool.give_back(lease.endpoint(), connection);
            }
            self.record.end(Outcome::Ok);
        }
    }

    fn fail(&mut self, failure: Failure) -> Poll<Option<Result<Bytes, Failure>>> {
        self.exchange = None;
        if let Some(mut lease) = self.lease.take()
            && blames_instance(&failure)
        {
            lease.condemn();
        }
        self.record.fail(&failure);
        if let Some(ClientEnd { client, reset_on_failure: true }) = &self.client {
            client.end_with_reset();
        }
        // The server breaks the client's connection off: a truncated body never looks like a whole one.
        Poll::Ready(Some(Err(failure)))
    }
}

/// Whether an instance that failed a request like this should get no other.
pub fn blames_instance(failure: &Failure) -> bool {
    matches!(failure.outcome(), Outcome::InstanceFailed | Outcome::FunctionTimedOut)
}

/// Counts and logs one request, exactly once: at its end, or when it is dropped because the client left.
pub struct Record {
    desk: Arc<Desk>,
    log: Logger,
    request_id: HeaderValue,
    since: Instant,
    client: Option<Served>,
    state: Recorded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// The client has no answer yet.
    Unanswered,
    /// The head of an answer is on its way.
    Answered,
    /// It has been counted.
    Over,
}

impl Record {
    pub fn new(desk: Arc<Desk>, log: Logger, request_id: HeaderValue, since: Instant, client: Option<Client>) -> Self {
        Self { desk, log, request_id, since, client: client.map(Client::serve), state: Recorded::Unanswered }
    }

    /// The client gets an answer, whatever becomes of its body.
    pub fn answered(&mut self) {
        self.state = Recorded::Answered;
    }

    /// The request's end, if it had not ended before.
    pub fn end(&mut self, outcome: Outcome) {
        // Asked first: even the values of a line that is not written cost something, and this one is on every request's way.
        if self.close(outcome) && self.log.is_enabled(Level::Debug) {
            debug!(self.log, "request is over"; "function" => self.desk.name(), "outcome" => outcome.code(),
                "request_id" => self.request_id(), "ms" => self.elapsed_ms());
        }
    }

    /// The failure, put right: the server reports the early end of a body also where the body is malformed.
    pub fn judge(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Exchange { instance, error: ExchangeError::ClientGone } if self.client_is_there() => {
                Failure::Exchange { instance, error: ExchangeError::ClientMalformed }
            }
            other => other,
        }
    }

    /// The end of a request that the platform answered.
    pub fn fail(&mut self, failure: &Failure) {
        let outcome = failure.outcome();
        if let Some(client) = self.client.as_ref().filter(|_| failure.closes()) {
            client.dismiss();
        }
        if !self.close(outcome) {
            return;
        }
        let (function, ms) = (self.desk.name(), self.elapsed_ms());
        match outcome {
            Outcome::Internal => warn!(self.log, "request failed"; "function" => function,
                "outcome" => outcome.code(), "request_id" => self.request_id(), "ms" => ms, "error" => %failure),
            _ => info!(self.log, "request failed"; "function" => function,
                "outcome" => outcome.code(), "request_id" => self.request_id(), "ms" => ms, "error" => %failure),
        }
    }

    fn client_is_there(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.has_left())
    }

    fn close(&mut self, outcome: Outcome) -> bool {
        if self.state == Recorded::Over {
            return false;
        }
        self.state = Recorded::Over;
        self.desk.stats().count(outcome);
        self.client = None;
        true
    }

    fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    fn elapsed_ms(&self) -> f64 {
        self.since.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.state == Recorded::Over {
            return;
        }
        if self.client_is_there() {
            // The server dropped the request all the same: its body is malformed.
            if let (Recorded::Unanswered, Some(client)) = (self.state, &self.client) {
                client.refuse();
            }
            self.end(Outcome::BadRequest);
        } else if self.close(Outcome::ClientGone) {
            debug!(self.log, "client left"; "function" => self.desk.name(), "status" => 499,
                "request_id" => self.request_id(), "ms" => self.elapsed_ms());
        }
    }
}
