//! One attempt to have one instance serve a request.
//!
//! A connection that had been kept and turns out to be closed is replaced once. A request that never reached the
//! instance is reported together with its body, so that another one may be tried. Anything past that is a failure: the
//! instance may have acted on the request.

use std::{
    future::{Future, poll_fn},
    io,
    task::{Poll, ready},
    time::Duration,
};

use actix_http::{RequestHead, StatusCode, header::HeaderValue};
use bytes::BytesMut;
use tokio::time::{Instant, sleep, timeout};
use unifaas_actors::{Endpoint, InstanceId, Lease, Refusal};

use super::{
    client::Client,
    headers::{Via, put_request_headers},
    relay::Deadline,
    status::Failure,
    upstream::{
        Answer, Connection, Exchange, ExchangeError, Framing, Nonsense, Pool, RequestBody, end_head, put_header,
        start_head,
    },
};
use crate::open_files::is_exhaustion;

/// Room for the head of a request, in bytes. It grows if there is need.
const USUAL_HEAD: usize = 1024;
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

/// A client's request, as it is to be sent on.
pub struct Outgoing<'a> {
    pub head: &'a RequestHead,
    /// Path and query for the function; may be empty or begin with `?`.
    pub target: &'a str,
    pub framing: Framing,
    pub websocket: bool,
    pub client: Option<&'a Client>,
    pub request_id: &'a HeaderValue,
}

/// The instance did not serve the request.
pub struct Missed {
    pub failure: Failure,
    /// The body, if the request never reached the instance and may be offered to another.
    pub untouched: Option<RequestBody>,
}

impl Outgoing<'_> {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(USUAL_HEAD);
        let root = if self.target.starts_with('/') { "" } else { "/" };
        start_head(&mut out, &self.head.method, [root, self.target]);
        let client = self.client.and_then(Client::peer);
        let via = Via { client, request_id: self.request_id, websocket: self.websocket };
        put_request_headers(&mut out, &self.head.headers, via);
        match self.framing {
            Framing::Length(length) => {
                put_header(&mut out, b"content-length", [itoa::Buffer::new().format(length).as_bytes()]);
            }
            Framing::Chunked => put_header(&mut out, b"transfer-encoding", [&b"chunked"[..]]),
            Framing::None | Framing::UntilClose => {}
        }
        end_head(&mut out);
        out
    }

    /// Whether sending it twice is the same as sending it once (RFC 9110, section 9.2.2).
    fn is_idempotent(&self) -> bool {
        self.head.method.is_idempotent()
    }
}

/// Sends the request to the instance of `lease` and waits for its answer.
pub async fn send(
    pool: &Pool,
    outgoing: &Outgoing<'_>,
    mut body: RequestBody,
    lease: &Lease,
    mut deadline: Option<&mut Deadline>,
) -> Result<(Exchange, Answer), Missed> {
    let endpoint = lease.endpoint();
    let instance = endpoint.instance;
    let mut kept = pool.take(instance, lease.since());
    let mut sent_at = lease.since();
    loop {
        let connection = match kept.take() {
            Some(connection) => connection,
            // Boxed like everything that only few requests come by: their way is long enough without carrying it along.
            None => match Box::pin(connect(endpoint)).await {
                Ok(connection) => {
                    sent_at = Instant::now();
                    connection
                }
                Err(source) if is_exhaustion(&source) => {
                    // No other instance could be reached either.
                    let why = format!("no connection to the instance can be opened: {source}");
                    let failure = Refusal::HostSaturated { why, retry_after: EXHAUSTION }.into();
                    return Err(Missed { failure, untouched: None });
                }
                Err(source) => {
                    let failure = Failure::Unreachable { instance, source };
                    return Err(Missed { failure, untouched: Some(body) });
                }
            },
        };
        let mut exchange = Exchange::new(connection, outgoing.head.method.clone(), outgoing.encode(), body);
        let failure = match answer(&mut exchange, outgoing, instance, deadline.as_deref_mut()).await {
            Ok(answer) => return Ok((exchange, answer)),
            Err(failure) => failure,
        };
        let repeatable = match &failure {
            Failure::Exchange { error, .. } => outgoing.is_idempotent() && exchange.is_repeatable(error),
            _ => false,
        };
        if repeatable && exchange.is_reused() {
            body = exchange.into_body();
        } else if repeatable && sent_at.elapsed() < DYING && Box::pin(is_dead(endpoint)).await {
            return Err(Missed { failure, untouched: Some(exchange.into_body()) });
        } else {
            return Err(Missed { failure, untouched: None });
        }
    }
}

/// What the instance says next, within the time the request has.
pub async fn answer(
    exchange: &mut Exchange,
    outgoing: &Outgoing<'_>,
    instance: InstanceId,
    mut deadline: Option<&mut Deadline>,
) -> Result<Answer, Failure> {
    let mut patience = exchange.withholds_body().then(|| Box::pin(sleep(CONTINUE_PATIENCE)));
    let answer = poll_fn(|cx| {
        if let Poll::Ready(answer) = exchange.poll_answer(cx) {
            return Poll::Ready(Ok(answer));
        }
        if let Some(patience) = &mut patience
            && patience.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(Ok(Answer::Continue)));
        }
        let Some(deadline) = &mut deadline else { return Poll::Pending };
        ready!(deadline.sleep.as_mut().poll(cx));
        let after = deadline.after;
        Poll::Ready(Err(if exchange.waits_for_client() {
            Failure::RequestTimedOut { after }
        } else {
            Failure::FunctionTimedOut { instance, after }
        }))
    })
    .await?;
    let unasked_upgrade = |answer: &Answer| {
        let head = if let Answer::Head(head) = answer { Some(head) } else { None };
        head.is_some_and(|head| head.status == StatusCode::SWITCHING_PROTOCOLS) && !outgoing.websocket
    };
    match answer {
        Ok(answer) if unasked_upgrade(&answer) => {
            let error = Nonsense::Head("a 101 that nobody asked for".to_owned()).into();
            Err(Failure::Exchange { instance, error })
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(Failure::Exchange { instance, error }),
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
    let _ = timeout(OBITUARY, endpoint.gone()).await;
    match endpoint.end() {
        Some(end) => Failure::Ended { instance: endpoint.instance, end: end.clone() },
        None => failure,
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<Connection> {
    let mut pause = LATE_LISTENER_PAUSE;
    loop {
        // Where a container or a virtual machine has been, nobody is left who would refuse.
        let attempt = tokio::select! {
            attempt = timeout(CONNECT_TIMEOUT, Connection::open(endpoint.address)) => attempt,
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
