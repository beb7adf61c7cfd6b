//! Has an instance answer a request: one attempt after the other, within the request's time.
//!
//! A request that provably never reached an instance may be offered to another. Anything past that is a failure: the
//! instance may have acted on the request.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::dev::Payload;
use tokio::time::{Instant, timeout, timeout_at};
use unifaas_actors::{Endpoint, Lease, Refusal};

use super::{
    client_body::Pump,
    client_connection::ClientWatch,
    headers,
    invoke::Invocation,
    shared::Shared,
    status::Failure,
    upstream::{self, Answer, AttemptError, Outgoing, Upload},
};
use crate::host::open_files::is_exhaustion;

/// Instances that are tried when they cannot be connected to.
const MAX_CONNECT_ATTEMPTS: usize = 4;
/// Instances that are tried when they break off unread: a request that kills instances must not end them all.
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

/// What belongs to a request besides its head.
pub struct Transfer {
    /// When the first slot was taken.
    pub leased: Instant,
    pub deadline: Option<Deadline>,
    pub watch: ClientWatch,
    /// Both ends of the request's body, if there is one.
    pub pump: Option<Pump>,
    pub upload: Option<Upload>,
    /// What comes from the client behind a request for WebSocket.
    pub tunnel: Option<Payload>,
}

/// Gets the response's head from the instance of `lease`, or from another one if the request never reached the first.
pub async fn dispatch(
    invocation: &Invocation,
    transfer: &mut Transfer,
    mut lease: Lease,
) -> Result<(Lease, Answer), Failure> {
    for attempt in 1.. {
        let (failure, is_retryable) = match send(invocation, transfer, lease.endpoint()).await {
            Ok(answer) => return Ok((lease, answer)),
            Err(failed) => failed,
        };
        let failure = Box::pin(attach_exit_reason(failure, lease.endpoint())).await;
        let attempts = if matches!(failure, Failure::Unreachable { .. }) { MAX_CONNECT_ATTEMPTS } else { MAX_ATTEMPTS };
        // The slot is free before the client gets the failure, and before another one is asked for.
        release(&invocation.shared, lease, &failure);
        if !is_retryable || attempt >= attempts {
            return Err(failure);
        }
        let next = pin!(with_deadline(transfer.deadline, invocation.handle.acquire()));
        lease = match unless_left(&mut transfer.watch, next).await? {
            Some(lease) => lease?,
            None => return Err(failure),
        };
    }
    unreachable!("the last attempt returns")
}

/// Makes one attempt. The error tells whether the request may be offered to another instance.
async fn send(
    invocation: &Invocation,
    transfer: &mut Transfer,
    endpoint: &Arc<Endpoint>,
) -> Result<Answer, (Failure, bool)> {
    let instance = endpoint.instance;
    let interim = invocation.interim_responses();
    let head = || invocation.request_head(endpoint.address);
    let outgoing = Outgoing {
        head: &head,
        body: transfer.upload.take(),
        is_idempotent: invocation.is_idempotent(),
        wants_continue: invocation.body_wanted.is_some(),
        wants_upgrade: invocation.is_websocket,
        interim: interim.clone(),
    };
    let outcome = {
        let mut attempt = pin!(upstream::send(&invocation.shared.upstream, endpoint, &outgoing));
        let Transfer { watch, pump, deadline, .. } = &mut *transfer;
        let connection = &invocation.connection;
        poll_fn(|cx| {
            if let Err(failure) = poll_pump(pump, cx) {
                return Poll::Ready(Err(failure));
            }
            let outcome = attempt.as_mut().poll(cx);
            while let Some(Poll::Ready((status, fields))) = interim.as_ref().map(|interim| interim.poll_next(cx)) {
                connection.queue_interim(&headers::interim_response(status, &fields));
            }
            if let Poll::Ready(outcome) = outcome {
                // The instance may have asked for the body just before it responded.
                let asked = if invocation.body_wanted.is_some() { poll_pump(pump, cx) } else { Ok(()) };
                return Poll::Ready(asked.map(|()| outcome));
            }
            if watch.poll_left(cx).is_ready() {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            let Some(Deadline { at, after }) = *deadline else { return Poll::Pending };
            watch.poll_timer(cx, at).map(|()| {
                Err(if invocation.progress.borrow().waits_for_client() {
                    Failure::RequestTimedOut { after }
                } else {
                    Failure::FunctionTimedOut { instance, after }
                })
            })
        })
        .await
    };
    transfer.upload = outgoing.body;
    let error = match outcome {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(failure) => return Err((failure, false)),
    };
    let is_retryable = error.is_retryable();
    Err(match error {
        // No other instance could be reached either.
        AttemptError::Connect(source) if is_exhaustion(&source) => {
            let why = format!("no connection to the instance can be opened: {source}");
            (Refusal::HostSaturated { why, retry_after: EXHAUSTION_RETRY }.into(), false)
        }
        AttemptError::Connect(source) => (Failure::Unreachable { instance, source }, is_retryable),
        error => (Failure::Attempt { instance, error }, is_retryable),
    })
}

/// Moves the request's body on, if there is one. The error says why it cannot be moved.
fn poll_pump(pump: &mut Option<Pump>, cx: &mut Context<'_>) -> Result<(), Failure> {
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
pub async fn unless_left<T>(
    watch: &mut ClientWatch,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Failure> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
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
