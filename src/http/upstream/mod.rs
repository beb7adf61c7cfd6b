//! The HTTP client towards function instances, on hyper's `client::conn::http1`.
//!
//! [`send`] makes an attempt with one instance. A kept connection that turns out to be closed is replaced there; whether
//! another instance gets the request, and which failure ends an instance, is the caller's decision.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `pool.rs` | idle connections, one pool per instance for all workers |
//! | `connection.rs` | opening a connection, and the task that drives it |
//! | `meter.rs` | the socket: bytes counted, and whether a request was read |
//! | `upload.rs` | the request body, kept for a replay |
//! | `answer.rs` | the response body, framing rules, tunnels |
//! | `interim.rs` | interim responses on their way to the client |
//! | `tcp_info.rs` | what the kernel tells of a connection |
//! | `error.rs` | what can go wrong |

mod answer;
mod connection;
mod error;
mod interim;
mod meter;
mod pool;
mod tcp_info;
#[cfg(test)]
mod tests;
mod upload;

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, client::conn::TrySendError, ext::on_informational};
use tokio::time::{Instant, sleep, timeout};
use unifaas_actors::Endpoint;

pub use answer::{Answer, AnswerBody, Tunnel};
use answer::{Checkout, check_framing};
use connection::Connection;
pub use error::{AttemptError, BodyError, MalformedResponse};
pub use interim::InterimResponses;
pub use pool::ConnectionPools;
use upload::RequestBody;
pub use upload::{Upload, UploadSender, upload};

/// An instance that breaks off so soon, and is found dead, was dying when the request came.
const DYING: Duration = Duration::from_millis(50);
/// How long the death of an instance may take to be noticed.
const DEATH_NOTICE: Duration = Duration::from_millis(10);
/// How long an instance may take to ask for a body that is withheld. Past that it gets it unasked: some never ask.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// A request towards an instance.
pub struct Outgoing<'a> {
    /// Makes the head, once per connection that is tried: method, target in origin form, `Host`, framing headers.
    pub head: &'a dyn Fn() -> Request<()>,
    /// `None`: no body.
    pub body: Option<Upload>,
    /// Whether sending it twice does no harm.
    pub is_idempotent: bool,
    /// The body is withheld until the instance asks for it: see [`UploadSender::continue_requested`].
    pub wants_continue: bool,
    /// Whether a `101` is a response to it.
    pub wants_upgrade: bool,
    /// `None`: interim responses are dropped.
    pub interim: Option<Arc<InterimResponses>>,
}

/// Sends a request to an instance, and returns its final response. Dropped, it closes the connection. The request body has
/// to be fed meanwhile.
///
/// # Errors
/// The instance could not be reached, broke the connection off or sent a malformed response.
pub async fn send(
    pools: &Arc<ConnectionPools>,
    endpoint: &Arc<Endpoint>,
    outgoing: &Outgoing<'_>,
) -> Result<Answer, AttemptError> {
    let upload = outgoing.body.as_ref().map(|upload| &upload.0);
    let mut kept = None;
    while let Some(mut connection) = pools.take(endpoint.instance, outgoing.is_idempotent && upload.is_none()) {
        // That of another worker may still be about to finish its last request.
        if connection.sender.is_ready() || connection.sender.ready().await.is_ok() {
            kept = Some(connection);
            break;
        }
    }
    loop {
        let connection = match kept.take() {
            Some(connection) => connection,
            // Boxed, as most requests find a connection.
            None => {
                Box::pin(Connection::open(endpoint, pools.reserve(endpoint))).await.map_err(AttemptError::Connect)?
            }
        };
        let (reused, meter, began) = (connection.reused, connection.meter.clone(), Instant::now());
        let failed = match exchange(pools, endpoint, outgoing, connection).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        let (error, was_unsent) = match failed {
            Failed::Malformed(malformed) => return Err(malformed.into()),
            Failed::Sending { error, was_unsent } => (error, was_unsent),
        };
        if upload.is_some_and(|upload| upload.is_aborted()) {
            return Err(AttemptError::UploadAborted);
        }
        if let Some(malformed) = MalformedResponse::of_head(&error) {
            return Err(malformed.into());
        }
        // Stray bytes that kept the request from being sent are no response to it.
        let heard = !was_unsent && meter.is_heard();
        let was_unread = was_unsent || (!heard && meter.is_unread());
        let is_unread = was_unread && upload.is_none_or(|upload| upload.is_replayable());
        let is_repeatable = !heard && outgoing.is_idempotent && upload.is_none_or(|upload| upload.is_untouched());
        if reused && !heard {
            pools.note_early_close(endpoint.instance);
            // The next connection is a fresh one, so this happens once.
            if is_unread || is_repeatable {
                continue;
            }
        }
        let is_dying = is_repeatable && began.elapsed() < DYING && Box::pin(is_dead(endpoint)).await;
        let source = meter.write_error().or_else(|| error::io_error(&error));
        return Err(AttemptError::Broken { heard, reused, retryable: is_unread || is_dying, source });
    }
}

enum Failed {
    Sending { error: hyper::Error, was_unsent: bool },
    Malformed(MalformedResponse),
}

impl From<TrySendError<Request<RequestBody>>> for Failed {
    fn from(error: TrySendError<Request<RequestBody>>) -> Self {
        Self::Sending { was_unsent: error.message().is_some(), error: error.into_error() }
    }
}

/// Sends the request on this connection, and returns its final response.
async fn exchange(
    pools: &Arc<ConnectionPools>,
    endpoint: &Arc<Endpoint>,
    outgoing: &Outgoing<'_>,
    mut connection: Connection,
) -> Result<Answer, Failed> {
    connection.meter.begin();
    let upload = outgoing.body.as_ref().map(|upload| upload.0.clone());
    let body = RequestBody::new(upload.as_ref(), &connection.meter);
    let mut request = (outgoing.head)().map(|()| body);
    let method = request.method().clone();
    let withheld = upload.clone().filter(|upload| outgoing.wants_continue && !upload.is_released());
    if withheld.is_some() || outgoing.interim.is_some() {
        let (withheld, interim, meter) = (withheld.clone(), outgoing.interim.clone(), connection.meter.clone());
        on_informational(&mut request, move |response| {
            let is_passed_on = meter.count_interim();
            match (response.status(), &withheld, &interim) {
                (StatusCode::CONTINUE, Some(upload), _) => upload.release(),
                (StatusCode::CONTINUE, ..) => {}
                (status, _, Some(interim)) if is_passed_on => interim.push(status, response.headers()),
                _ => {}
            }
        });
    }
    let response = connection.sender.try_send_request(request);
    let response = match withheld {
        Some(upload) => Box::pin(release_in_time(response, &upload)).await,
        None => response.await,
    };
    let (mut head, incoming) = response?.into_parts();
    if let Some(upload) = &upload {
        upload.answered();
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS && !outgoing.wants_upgrade {
        return Err(Failed::Malformed(MalformedResponse::UnaskedUpgrade));
    }
    let is_reusable = check_framing(&mut head, &method).map_err(Failed::Malformed)?;
    let checkout = Checkout {
        pools: pools.clone(),
        endpoint: endpoint.clone(),
        connection,
        has_upload: upload.is_some(),
        is_reusable,
    };
    let body = AnswerBody::new(incoming, &mut head, checkout).await;
    Ok(Answer { head, body })
}

/// Waits for the response, and lets the body go when the instance does not ask for it.
async fn release_in_time<E>(
    response: impl Future<Output = Result<Response<Incoming>, E>>,
    upload: &upload::Channel,
) -> Result<Response<Incoming>, E> {
    tokio::pin!(response);
    tokio::select! {
        response = &mut response => return response,
        () = sleep(CONTINUE_TIMEOUT) => upload.release(),
    }
    response.await
}

/// Returns whether the instance is found dead, now or in a moment.
async fn is_dead(endpoint: &Endpoint) -> bool {
    timeout(DEATH_NOTICE, endpoint.gone()).await.is_ok()
}
