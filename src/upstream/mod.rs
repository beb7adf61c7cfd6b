//! The HTTP client towards function instances and other nodes, on hyper's `client::conn::http1`.
//!
//! [`send`] makes an attempt with one instance. A kept connection that turns out to be closed is replaced there; whether
//! another instance gets the request, and which failure ends an instance, is the caller's decision. Clients, and the server
//! towards them, are in `http/`.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `remote.rs` | what a connection leads to: an instance, or another node |
//! | `pool.rs` | idle connections, one pool per instance for all workers |
//! | `connection.rs` | opening a connection, and the task that drives it |
//! | `meter.rs` | the socket: bytes counted, and whether a request was read |
//! | `upload.rs` | the request body, kept for a replay |
//! | `answer.rs` | the response body, framing rules, tunnels |
//! | `interim.rs` | interim responses: taken before hyper sees them, queued for the client's task |
//! | `tcp_info.rs` | what the kernel tells of a connection |
//! | `cut.rs` | whether the network still carries what is sent to another node |
//! | `error.rs` | what can go wrong |
//! | `malformed.rs` | malformed responses in a row, by instance |

mod answer;
mod connection;
mod cut;
mod error;
mod interim;
mod malformed;
mod meter;
mod pool;
mod remote;
mod tcp_info;
#[cfg(test)]
mod tests;
mod upload;

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout};
use unifaas_actors::Endpoint;

use crate::header_names::{ERROR_CODE, UNTOUCHED};
pub use answer::{Answer, AnswerBody, Tunnel};
use connection::Connection;
pub use error::{AttemptError, BodyError, MalformedResponse};
pub use malformed::MalformedResponses;
pub use pool::ConnectionPools;
pub use remote::{NodeEndpoint, Remote};
use remote::{is_hang_up, is_key_refused};
pub use upload::{RequestBody, Upload, UploadSender, upload};

/// An instance that breaks off so soon, and is found dead, was dying when the request came.
const DYING: Duration = Duration::from_millis(50);
/// How long the death of an instance may take to be noticed.
const DEATH_NOTICE: Duration = Duration::from_millis(10);
/// How long an instance may take to ask for a body that is withheld. Past that it gets it unasked: some never ask.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the rest of a refusal may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(100);
/// How long another node may take to hear the first heartbeat of this one, which has its key, and between two attempts.
const KEY_TIMEOUT: Duration = Duration::from_millis(500);
const KEY_INTERVAL: Duration = Duration::from_millis(50);

/// Takes an interim response.
pub type InterimSink<'a> = dyn Fn(StatusCode, &HeaderMap) + 'a;

/// A request towards an instance.
pub struct Outgoing<'a> {
    pub method: Method,
    /// Makes the request around its body, once per connection that is tried: that method, the target in origin form, `Host`
    /// and the headers that frame the body.
    pub request: &'a dyn Fn(RequestBody) -> Request<RequestBody>,
    /// When the slot was taken: a moment ago.
    pub since: Instant,
    /// `None`: no body.
    pub body: Option<&'a Upload>,
    /// The body is withheld until the instance asks for it: see [`UploadSender::continue_requested`].
    pub wants_continue: bool,
    /// A withheld body goes unasked after a while.
    pub is_continue_timed: bool,
    /// Whether a `101` is a response to it.
    pub wants_upgrade: bool,
    /// Gets interim responses other than `100`. `None`: they are dropped.
    pub interim: Option<&'a InterimSink<'a>>,
}

/// Sends a request to an instance, and returns its final response. Dropped, it closes the connection. The request body has
/// to be fed meanwhile.
///
/// # Errors
/// The instance could not be reached, broke the connection off or sent a malformed response.
pub async fn send(
    pools: &Arc<ConnectionPools>,
    remote: &Remote,
    outgoing: &Outgoing<'_>,
) -> Result<Answer, AttemptError> {
    let upload = outgoing.body.map(|upload| &upload.0);
    // Sending it twice does no harm (RFC 9110, section 9.2.2).
    let is_idempotent = outgoing.method.is_idempotent();
    let mut kept = None;
    while let Some(mut connection) = pools.take(remote.id(), is_idempotent && upload.is_none(), outgoing.since) {
        // That of another worker may still be about to finish its last request.
        if connection.sender.is_ready() || connection.sender.ready().await.is_ok() {
            kept = Some(connection);
            break;
        }
    }
    let mut opened = 0;
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            // Boxed, as most requests find a connection.
            None => match Box::pin(Connection::open(remote, pools.reserve(remote))).await {
                Ok(connection) => {
                    opened += 1;
                    connection
                }
                Err(error) if is_hang_up(&error) && opened + 1 < remote.max_openings() => {
                    opened += 1;
                    continue;
                }
                Err(error) if is_key_refused(&error) && outgoing.since.elapsed() < KEY_TIMEOUT => {
                    sleep(KEY_INTERVAL).await;
                    continue;
                }
                Err(error) => return Err(AttemptError::Connect(error)),
            },
        };
        let may_open = opened < remote.max_openings();
        let (reused, meter) = (connection.reused, connection.meter.clone());
        meter.begin();
        let withheld = upload.filter(|upload| outgoing.wants_continue && !upload.is_released());
        let request = (outgoing.request)(RequestBody::new(upload, &meter));
        // In its place from the beginning, as it is large.
        let response = pin!(connection.sender.try_send_request(request));
        let response = meter.interim.before(response, |status, headers| match (status, withheld, outgoing.interim) {
            (StatusCode::CONTINUE, Some(upload), _) => upload.release(),
            (StatusCode::CONTINUE, None, _) | (_, _, None) => {}
            (_, _, Some(receive)) => receive(status, headers),
        });
        let response = match withheld {
            Some(upload) if outgoing.is_continue_timed => Box::pin(release_in_time(response, upload)).await,
            _ => response.await,
        };
        let failed = match response {
            Ok(response) if matches!(remote, Remote::Node(_)) && response.headers().contains_key(UNTOUCHED) => {
                // The body is still there for another node.
                let error = Box::pin(refused(response, outgoing, connection, pools)).await;
                if may_open && error.is_draining() {
                    // A daemon that was upgraded ends. The next connection is accepted by the new one.
                    continue;
                }
                return Err(error);
            }
            Ok(response) => {
                if let Some(upload) = upload {
                    upload.answered();
                }
                let answer = Answer::new(response, outgoing, connection, pools)?;
                let is_upgrade = answer.head.status == StatusCode::SWITCHING_PROTOCOLS;
                return Ok(if is_upgrade { Box::pin(answer.upgraded()).await } else { answer });
            }
            Err(failed) => failed,
        };
        drop(connection);
        if upload.is_some_and(|upload| upload.is_aborted()) {
            return Err(AttemptError::UploadAborted);
        }
        let was_unsent = failed.message().is_some();
        let error = failed.into_error();
        if let Some(malformed) = MalformedResponse::of_head(&error) {
            return Err(malformed.into());
        }
        // Stray bytes that kept the request from being sent are no response to it.
        let heard = !was_unsent && meter.is_heard();
        let was_unread = was_unsent || (!heard && meter.is_unread());
        let is_unread = was_unread && upload.is_none_or(|upload| upload.is_replayable());
        let is_repeatable = !heard && is_idempotent && upload.is_none_or(|upload| upload.is_untouched());
        if may_open && !heard && !meter.is_cut() {
            if reused {
                pools.note_early_close(remote.id());
            }
            // The next connection is a fresh one, so this happens once.
            if is_unread || is_repeatable {
                continue;
            }
        }
        let may_be_repeated = match remote {
            Remote::Instance(endpoint) => {
                is_repeatable && outgoing.since.elapsed() < DYING && Box::pin(is_dead(endpoint)).await
            }
            // Another node may do better, and does it no harm.
            Remote::Node(_) => is_repeatable,
        };
        let source = meter.write_error().or_else(|| error::io_error(&error));
        return Err(AttemptError::Broken { heard, reused, retryable: is_unread || may_be_repeated, source });
    }
}

/// Reads a refusal of another node to its end, so that its connection can be kept.
async fn refused(
    response: Response<Incoming>,
    outgoing: &Outgoing<'_>,
    connection: Box<Connection>,
    pools: &Arc<ConnectionPools>,
) -> AttemptError {
    let mut answer = match Answer::new(response, outgoing, connection, pools) {
        Ok(answer) => answer,
        Err(malformed) => return malformed,
    };
    let rest = async { while let Some(Ok(_)) = poll_fn(|cx| answer.body.poll_next(cx)).await {} };
    let _ = timeout(REFUSAL_TIMEOUT, rest).await;
    let text = |name: &str| answer.head.headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = text("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let code = text(ERROR_CODE).unwrap_or_default().to_owned();
    AttemptError::Refused { code, retry_after }
}

/// Waits for the response, and lets the body go when the instance does not ask for it.
async fn release_in_time<E>(
    response: impl Future<Output = Result<Response<Incoming>, E>>,
    upload: &upload::Channel,
) -> Result<Response<Incoming>, E> {
    let mut response = pin!(response);
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
