//! Has an instance answer a request: one attempt after the other, within the request's time.
//!
//! A request that provably never reached an instance may be offered to another. Anything past that is a failure: the
//! instance may have acted on the request.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt as _;
use hyper::Request;
use tokio::time::{Instant, timeout, timeout_at};
use unifaas_actors::{Endpoint, Lease, Refusal};

use super::{
    client_body::Pump,
    exchange::Exchange,
    headers::{instance_headers, instance_target, interim_response, method_of},
};
use crate::{
    failure::Failure,
    host::open_files::is_exhaustion,
    http::ClientWatch,
    shared::Shared,
    upstream::{self, Answer, AttemptError, Outgoing, Remote},
};

/// Instances that are tried when they cannot be connected to, because they have ended or stopped listening while idle.
const MAX_CONNECT_ATTEMPTS: usize = 4;
/// Instances that are tried when they break off unread, or were started for the request and cannot be connected to: a
/// request that kills instances must not end them all.
const MAX_ATTEMPTS: usize = 2;
/// How long the reason of an exit may take to be known: an engine tells it later than the connection does.
const EXIT_REASON_WAIT: Duration = Duration::from_millis(200);
/// When the host may have files or memory for a connection again.
const EXHAUSTION_RETRY: Duration = Duration::from_secs(1);

/// When a request must have ended.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    /// The time the function had, from the dispatch on.
    pub after: Duration,
}

impl Exchange {
    /// Gets the response's head from the instance of `lease`, or from another one if the request never reached the first.
    ///
    /// # Errors
    /// There is no response. The slot is released.
    pub async fn dispatch(&mut self, mut lease: Lease) -> Result<(Lease, Answer), Failure> {
        for attempt in 1.. {
            if let Some(trace) = &mut self.trace {
                trace.set_attempt(attempt, lease.endpoint());
            }
            let (failure, is_retryable) = match self.attempt(lease.endpoint(), lease.since()).await {
                Ok(answer) => {
                    self.shared.malformed_responses.reset(lease.endpoint().instance);
                    return Ok((lease, answer));
                }
                Err(failed) => failed,
            };
            let failure = Box::pin(attach_exit_reason(failure, lease.endpoint())).await;
            let attempts = match failure {
                Failure::Unreachable { .. } if !lease.is_fresh() => MAX_CONNECT_ATTEMPTS,
                _ => MAX_ATTEMPTS,
            };
            // The slot is free before the client gets the failure, and before another one is asked for.
            release(&self.shared, lease, &failure);
            if !is_retryable || attempt >= attempts {
                return Err(failure);
            }
            let Some(handle) = self.function.here() else { return Err(failure) };
            let next = Box::pin(with_deadline(self.deadline, handle.acquire()));
            lease = match unless_left(&mut self.watch, next).await? {
                Some(lease) => lease?,
                None => return Err(failure),
            };
        }
        unreachable!("the last attempt returns")
    }

    /// Makes one attempt. The error tells whether the request may be offered to another instance.
    async fn attempt(&mut self, endpoint: &Arc<Endpoint>, since: Instant) -> Result<Answer, (Failure, bool)> {
        let Self { shared, client, head, facts, body_wanted, watch, deadline, progress, pump, upload, trace, .. } =
            self;
        let (instance, head) = (endpoint.instance, head.get());
        let method = method_of(head);
        let queue_interim = |status, fields: &_| client.queue_interim(&interim_response(status, fields));
        let outgoing = Outgoing {
            method: method.clone(),
            request: &|body| {
                let mut request = Request::new(body);
                *request.method_mut() = method.clone();
                *request.uri_mut() = instance_target(head);
                let expects_continue = body_wanted.is_some();
                *request.headers_mut() =
                    instance_headers(head, facts, &client.peer, expects_continue, endpoint.address());
                if let Some(trace) = trace.as_ref() {
                    trace.set_headers(request.headers_mut());
                }
                request
            },
            since,
            body: upload.as_ref(),
            wants_continue: body_wanted.is_some(),
            is_continue_timed: true,
            wants_upgrade: facts.is_websocket,
            interim: client.takes_interim(head.version).then_some(&queue_interim),
        };
        let remote = Remote::from(endpoint);
        // Boxed, so that the future of the whole request stays small enough for the quick lists of the allocator.
        let mut attempt = Box::pin(upstream::send(&shared.upstream, &remote, &outgoing));
        let outcome = poll_fn(|cx| {
            if let Err(failure) = poll_pump(pump, cx) {
                return Poll::Ready(Err(failure));
            }
            if let Poll::Ready(outcome) = attempt.as_mut().poll(cx) {
                // The instance may have asked for the body just before it responded.
                let asked = if body_wanted.is_some() { poll_pump(pump, cx) } else { Ok(()) };
                return Poll::Ready(asked.map(|()| outcome));
            }
            if watch.poll_left(cx).is_ready() {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            let Some(Deadline { at, after }) = *deadline else { return Poll::Pending };
            watch.poll_timer(cx, at).map(|()| {
                Err(match progress {
                    Some(progress) if progress.waits_for_client() => Failure::RequestTimedOut { after },
                    _ => Failure::FunctionTimedOut { instance, after },
                })
            })
        });
        let error = match outcome.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(failure) => return Err((failure, false)),
        };
        let is_retryable = error.is_retryable();
        Err(match error {
            // No other instance could be reached either.
            AttemptError::Connect(source) if is_exhaustion(&source) => {
                let why = format!("no connection to the instance can be opened: {source}");
                (Refusal::HostSaturated { why, retry_after: Some(EXHAUSTION_RETRY) }.into(), false)
            }
            AttemptError::Connect(source) => {
                (Failure::Unreachable { instance, address: endpoint.address(), source }, is_retryable)
            }
            error => (Failure::Attempt { instance, error }, is_retryable),
        })
    }
}

/// Moves the request's body on, if there is one. The error says why it cannot be moved.
pub fn poll_pump(pump: &mut Option<Pump>, cx: &mut Context<'_>) -> Result<(), Failure> {
    match pump.as_mut().map(|moving| moving.as_mut().poll(cx)) {
        Some(Poll::Ready(moved)) => {
            *pump = None;
            moved
        }
        Some(Poll::Pending) | None => Ok(()),
    }
}

/// Returns the slot. An instance that failed the request like this gets no other, and neither does one whose responses are
/// malformed again and again.
pub fn release(shared: &Shared, mut lease: Lease, failure: &Failure) {
    let instance = lease.endpoint().instance;
    let is_malformed = failure.is_malformed_response();
    if failure.condemns_instance() || (is_malformed && shared.malformed_responses.count(instance)) {
        lease.mark_failed();
    }
}

/// The outcome of `work`, unless the client leaves before it is there.
pub async fn unless_left<T>(watch: &mut ClientWatch, mut work: impl Future<Output = T> + Unpin) -> Result<T, Failure> {
    poll_fn(|cx| match work.poll_unpin(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => watch.poll_left(cx).map(|()| Err(Failure::ClientGone)),
    })
    .await
}

/// The outcome of `work`, unless the deadline comes before it is there.
async fn with_deadline<T>(deadline: Option<Deadline>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(Deadline { at, .. }) => timeout_at(at, work).await.ok(),
        None => Some(work.await),
    }
}

/// The failure, with the exit of the instance as its reason if a connection broke off because of that.
async fn attach_exit_reason(failure: Failure, endpoint: &Endpoint) -> Failure {
    if !matches!(failure, Failure::Attempt { error: AttemptError::Broken { .. }, .. }) {
        return failure;
    }
    let _ = timeout(EXIT_REASON_WAIT, endpoint.ended()).await;
    match endpoint.end() {
        Some(end) => Failure::Ended { instance: endpoint.instance, end: end.clone() },
        None => failure,
    }
}
