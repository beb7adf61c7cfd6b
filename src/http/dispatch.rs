//! One attempt to have one instance serve a request.
//!
//! A connection that had been kept and turns out to be closed is replaced once. A request that never reached the
//! instance may be offered to another. Anything past that is a failure: the instance may have acted on the request.

use std::{future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use actix_http::StatusCode;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use unifaas_actors::{Endpoint, InstanceId, Lease, Refusal};

use super::{
    alarm::Standstill,
    client::Client,
    headers::{Peer, Via, put_request_headers},
    invoke::target_for_function,
    request_id::RequestId,
    status::Failure,
    upstream::{Answer, Connection, Exchange, ExchangeError, Pool},
    wire::{Framing, Nonsense, RequestHead, put_header, put_number},
};
use crate::host::open_files::is_exhaustion;

/// How long an instance that has just become ready may refuse connections: some call back before they listen.
const LATE_LISTENER: Duration = Duration::from_secs(1);
/// First pause before such an instance is tried again; it doubles.
const LATE_LISTENER_PAUSE: Duration = Duration::from_millis(2);
/// Longest wait for a connection to an instance of this host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An instance that breaks off so soon, and is found dead, was dying when the request came.
const DYING: Duration = Duration::from_millis(50);
/// How long the death of an instance may take to be noticed.
const DEATH_NOTICE: Duration = Duration::from_millis(10);
/// How long the reason of a death may take to be known: an engine tells it later than the connection does.
const OBITUARY: Duration = Duration::from_millis(200);
/// How long an instance may take to ask for a body that is withheld. Past that it gets it unasked: some never ask.
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);
/// How long the host may take to have files or memory for a connection again.
const EXHAUSTION: Duration = Duration::from_secs(1);

/// When a request must be over.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    /// The time the function had, from the dispatch on.
    pub after: Duration,
}

/// The instance did not serve the request.
pub struct Missed {
    pub failure: Failure,
    /// The request never reached the instance, and may be offered to another.
    pub untouched: bool,
}

/// Sends the client's request to the instance of `lease` and waits for its answer, the head of which is `client.response`.
pub async fn send(
    pool: &Pool,
    client: &mut Client,
    request_id: &RequestId,
    lease: &Lease,
    deadline: Option<Deadline>,
) -> Result<Exchange, Missed> {
    let endpoint = lease.endpoint();
    let instance = endpoint.instance;
    let mut kept = pool.take(instance, lease.since());
    let mut sent_at = lease.since();
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            // Boxed like everything that only few requests come by: their way is long enough without carrying it along.
            None => match client.unless_left(Box::pin(by(deadline, connect(endpoint))).as_mut()).await {
                Ok(Ok(Ok(connection))) => {
                    sent_at = Instant::now();
                    connection
                }
                Ok(Err(after)) => {
                    let failure = Failure::FunctionTimedOut { instance, after };
                    return Err(Missed { failure, untouched: false });
                }
                Ok(Ok(Err(source))) if is_exhaustion(&source) => {
                    // No other instance could be reached either.
                    let why = format!("no connection to the instance can be opened: {source}");
                    let failure = Refusal::HostSaturated { why, retry_after: EXHAUSTION }.into();
                    return Err(Missed { failure, untouched: false });
                }
                Ok(Ok(Err(source))) => {
                    // What one instance is too busy to accept would be too much for the next one, too.
                    let untouched = source.kind() != io::ErrorKind::TimedOut;
                    return Err(Missed { failure: Failure::Unreachable { instance, source }, untouched });
                }
                Err(failure) => return Err(Missed { failure, untouched: false }),
            },
        };
        put_request(&mut connection.socket.output.head, &client.request, Some(&client.peer), request_id);
        let to_head = client.request.method() == b"HEAD";
        let mut exchange = Exchange::new(connection, to_head, client.request.expects_continue);
        let failure = match answer(&mut exchange, client, instance, deadline).await {
            Ok(()) => return Ok(exchange),
            Err(failure) => failure,
        };
        let unheard = matches!(failure, Failure::Exchange { error: ExchangeError::Broken { heard: false, .. }, .. });
        let repeatable = unheard && client.request.is_idempotent() && client.side.body.taken() == 0;
        if repeatable && exchange.is_reused() {
            continue;
        }
        if !exchange.is_sent() && client.side.body.taken() > 0 {
            // What of the body was on its way is lost, so where the next request begins is not known.
            client.keep_alive = false;
        }
        let dying = repeatable && sent_at.elapsed() < DYING && Box::pin(is_dead(endpoint)).await;
        return Err(Missed { failure, untouched: dying });
    }
}

/// Writes the head of the client's request as the instance gets it.
pub fn put_request(out: &mut Vec<u8>, request: &RequestHead, client: Option<&Peer>, request_id: &RequestId) {
    let target = target_for_function(request);
    out.extend_from_slice(request.method());
    out.push(b' ');
    if !target.starts_with(b"/") {
        out.push(b'/');
    }
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let via = Via { client, request_id, websocket: request.websocket };
    put_request_headers(out, &request.fields, via);
    match request.framing {
        Framing::Length(length) => put_number(out, b"content-length", length),
        Framing::Chunked => put_header(out, b"transfer-encoding", [&b"chunked"[..]]),
        Framing::None | Framing::UntilClose => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Waits for the head of the instance's response, within the time the request has. Asks the client for a body that is
/// withheld once the instance does.
async fn answer(
    exchange: &mut Exchange,
    client: &mut Client,
    instance: InstanceId,
    deadline: Option<Deadline>,
) -> Result<(), Failure> {
    let patience = exchange.withholds_body().then(|| Instant::now() + CONTINUE_PATIENCE);
    let mut silence = Standstill::default();
    let failed = |error: ExchangeError| Failure::Exchange { instance, error };
    poll_fn(|cx| {
        loop {
            let asked = match exchange.poll_answer(cx, &mut client.side, &mut client.response) {
                Poll::Ready(Ok(Answer::Head)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Answer::Continue)) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(error))),
                Poll::Pending => false,
            };
            let impatient = exchange.withholds_body()
                && patience.is_some_and(|patience| client.alarm.poll_at(cx, patience).is_ready());
            if !asked && !impatient {
                break;
            }
            exchange.release();
            client.request.expects_continue = false;
            client.ask_for_body();
        }
        if let Poll::Ready(error) = exchange.poll_deserted(cx, &client.side.socket.output, &mut client.alarm) {
            return Poll::Ready(Err(failed(error)));
        }
        // A client that cannot be told to send its body is found gone below.
        let _ = client.side.socket.poll_flush(cx, &mut Default::default());
        if client.poll_left(cx).is_ready() {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        // Until the function answers: from then on it is the function's own business how long it waits for the rest.
        if let Some(after) = client.terms.timeout.filter(|_| exchange.waits_for_client()) {
            let due = silence.since(client.side.body.taken()) + after;
            if client.alarm.poll_at(cx, due).is_ready() {
                return Poll::Ready(Err(Failure::ClientSilent { after }));
            }
        }
        let Some(Deadline { at, after }) = deadline else { return Poll::Pending };
        client.alarm.poll_at(cx, at).map(|()| {
            Err(if exchange.waits_for_client() {
                Failure::RequestTimedOut { after }
            } else {
                Failure::FunctionTimedOut { instance, after }
            })
        })
    })
    .await?;
    if client.response.status == StatusCode::SWITCHING_PROTOCOLS && !client.request.websocket {
        return Err(failed(Nonsense::UnaskedUpgrade.into()));
    }
    Ok(())
}

/// Lets the response's body go to the client, in chunks or as it comes, within the time the request has.
pub async fn relay(
    exchange: &mut Exchange,
    client: &mut Client,
    instance: InstanceId,
    deadline: Option<Deadline>,
) -> Result<(), Failure> {
    poll_fn(|cx| {
        match exchange.poll_body(cx, &mut client.side) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Exchange { instance, error })),
            Poll::Pending => {}
        }
        let tunnel = client.side.body.framing() == Framing::UntilClose;
        if let Poll::Ready(error) = exchange.poll_deserted(cx, &client.side.socket.output, &mut client.alarm) {
            // A tunnel ends with either side.
            return Poll::Ready(if tunnel { Ok(()) } else { Err(Failure::Exchange { instance, error }) });
        }
        // In a tunnel, what the client says and its end are part of what is moved.
        let left = !tunnel && client.poll_left(cx).is_ready();
        if left || client.poll_stalled(cx).is_ready() {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        let Some(Deadline { at, after }) = deadline else { return Poll::Pending };
        client.alarm.poll_at(cx, at).map(|()| {
            // What the client has not taken yet is not the function's fault.
            let taken = client.side.socket.output.is_empty();
            Err(if taken { Failure::FunctionTimedOut { instance, after } } else { Failure::ClientGone })
        })
    })
    .await
}

/// The outcome of `work`, unless the deadline comes before it is there: the time there was.
pub async fn by<T>(deadline: Option<Deadline>, work: impl Future<Output = T>) -> Result<T, Duration> {
    match deadline {
        Some(Deadline { at, after }) => timeout_at(at, work).await.map_err(|_| after),
        None => Ok(work.await),
    }
}

/// Whether the instance is found dead, now or in a moment.
async fn is_dead(endpoint: &Endpoint) -> bool {
    timeout(DEATH_NOTICE, endpoint.gone()).await.is_ok()
}

/// The failure, with the end of the instance for its reason if a connection broke off because of that.
pub async fn explain(failure: Failure, endpoint: &Endpoint) -> Failure {
    if !matches!(failure, Failure::Exchange { error: ExchangeError::Broken { .. }, .. }) {
        return failure;
    }
    let _ = timeout(OBITUARY, endpoint.ended()).await;
    match endpoint.end() {
        Some(end) => Failure::Ended { instance: endpoint.instance, end: end.clone() },
        None => failure,
    }
}

async fn connect(endpoint: &Arc<Endpoint>) -> io::Result<Box<Connection>> {
    let mut pause = LATE_LISTENER_PAUSE;
    loop {
        // Where a container or a virtual machine has been, nobody is left who would refuse.
        let attempt = tokio::select! {
            attempt = timeout(CONNECT_TIMEOUT, Connection::open(endpoint)) => attempt,
            () = endpoint.gone() => return Err(io::ErrorKind::HostUnreachable.into()),
        };
        let error = match attempt {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let young = endpoint.ready_at().is_some_and(|ready_at| Instant::now() - ready_at < LATE_LISTENER);
        if !young || !endpoint.is_live() || error.kind() != io::ErrorKind::ConnectionRefused {
            return Err(error);
        }
        sleep(pause).await;
        pause *= 2;
    }
}
