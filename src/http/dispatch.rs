//! One attempt to have one instance serve a request.
//!
//! A connection that had been kept and turns out to be closed is replaced once. An instance that cannot be connected to
//! is reported together with the untouched body, so that another one may be tried. Anything past that is a failure: the
//! instance may have acted on the request.

use std::{io, time::Duration};

use actix_http::{Method, RequestHead, StatusCode, header::HeaderValue};
use bytes::BytesMut;
use tokio::time::{Instant, sleep, timeout};
use unifaas_actors::{Endpoint, Lease};

use super::{
    headers::{Via, put_request_headers},
    relay::Deadline,
    status::Failure,
    upstream::{
        Connection, Exchange, ExchangeError, Framing, Nonsense, Pool, RequestBody, ResponseHead, end_head, put_header,
        start_head,
    },
};

/// How long an instance that has just become ready may refuse connections: some call back before they listen.
const LATE_LISTENER: Duration = Duration::from_secs(1);
/// First pause before such an instance is tried again; it doubles.
const LATE_LISTENER_PAUSE: Duration = Duration::from_millis(2);
/// Longest wait for a connection to an instance of this host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client's request, as it is to be sent on.
pub struct Outgoing<'a> {
    pub head: &'a RequestHead,
    /// Path and query for the function; may be empty or begin with `?`.
    pub target: &'a str,
    pub framing: Framing,
    pub websocket: bool,
    pub request_id: &'a HeaderValue,
}

/// The instance did not serve the request.
pub struct Missed {
    pub failure: Failure,
    /// The body, if the request never reached the instance and may be offered to another.
    pub untouched: Option<RequestBody>,
}

impl Missed {
    fn for_good(failure: Failure) -> Self {
        Self { failure, untouched: None }
    }
}

impl Outgoing<'_> {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        let rooted;
        let target = if self.target.starts_with('/') {
            self.target
        } else {
            rooted = format!("/{}", self.target);
            &rooted
        };
        start_head(&mut out, &self.head.method, target);
        let client = self.head.peer_addr.map(|peer| peer.ip());
        let via = Via { client, request_id: self.request_id, websocket: self.websocket };
        put_request_headers(&mut out, &self.head.headers, via);
        match self.framing {
            Framing::Length(length) => put_header(&mut out, b"content-length", length.to_string().as_bytes()),
            Framing::Chunked => put_header(&mut out, b"transfer-encoding", b"chunked"),
            Framing::None | Framing::UntilClose => {}
        }
        end_head(&mut out);
        out
    }

    /// Whether sending it twice is the same as sending it once (RFC 9110, section 9.2.2).
    fn is_idempotent(&self) -> bool {
        let method = &self.head.method;
        method.is_idempotent() || *method == Method::TRACE
    }
}

/// Sends the request to the instance of `lease` and waits for the head of its response.
pub async fn send(
    pool: &Pool,
    outgoing: &Outgoing<'_>,
    mut body: RequestBody,
    lease: &Lease,
    mut deadline: Option<&mut Deadline>,
) -> Result<(Exchange, ResponseHead), Missed> {
    let endpoint = lease.endpoint();
    let instance = endpoint.instance;
    let mut kept = pool.take(instance);
    loop {
        let connection = match kept.take() {
            Some(connection) => connection,
            None => match connect(endpoint).await {
                Ok(connection) => connection,
                Err(source) => {
                    let failure = Failure::Unreachable { instance, source };
                    return Err(Missed { failure, untouched: Some(body) });
                }
            },
        };
        let mut exchange = Exchange::new(connection, outgoing.head.method.clone(), outgoing.encode(), body);
        match response_head(&mut exchange, lease, deadline.as_deref_mut()).await {
            Ok(response) if response.status == StatusCode::SWITCHING_PROTOCOLS && !outgoing.websocket => {
                let error = ExchangeError::Nonsense(Nonsense::Head("a 101 that nobody asked for".to_owned()));
                return Err(Missed::for_good(Failure::Exchange { instance, error }));
            }
            Ok(response) => return Ok((exchange, response)),
            Err(Failure::Exchange { error, .. }) if exchange.died_of_age(&error) && outgoing.is_idempotent() => {
                body = exchange.into_body();
            }
            Err(failure) => return Err(Missed::for_good(failure)),
        }
    }
}

async fn response_head(
    exchange: &mut Exchange,
    lease: &Lease,
    deadline: Option<&mut Deadline>,
) -> Result<ResponseHead, Failure> {
    let instance = lease.endpoint().instance;
    let head = match deadline {
        None => exchange.response_head().await,
        Some(deadline) => tokio::select! {
            biased;
            head = exchange.response_head() => head,
            () = &mut deadline.sleep => {
                let after = deadline.after;
                return Err(if exchange.waits_for_client() {
                    Failure::RequestTimedOut { after }
                } else {
                    Failure::FunctionTimedOut { instance, after }
                });
            }
        },
    };
    head.map_err(|error| Failure::Exchange { instance, error })
}

async fn connect(endpoint: &Endpoint) -> io::Result<Connection> {
    let mut pause = LATE_LISTENER_PAUSE;
    loop {
        let attempt = timeout(CONNECT_TIMEOUT, Connection::open(endpoint.address)).await;
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
