//! One attempt to deliver a result: a POST on a connection of its own. Redirects are not followed, as bodies get lost on
//! them.

use std::{io, pin::pin, sync::OnceLock, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, Uri, client::conn::http1::Builder, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use unifaas_actors::inbox::{DeliveryEnd, Found, State, UnixMillis};

use super::{DeliverySettings, allowed::Target};
use crate::{client_tls::client_config, inbox::INVOCATION};

/// How long a receiver may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the body of its answer is awaited, so that it can send it whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Head and body of its answer are read no further than this.
const MAX_ANSWER: usize = 64 * 1024;
/// The headers of the function's answer that say what its body is.
const ABOUT_BODY: [&str; 2] = ["content-type", "content-encoding"];

/// Why a receiver has not confirmed a result.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("--deliver-to does not allow {0} any more")]
    Forbidden(String),
    #[error("the result makes no request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the receiver answered {}", .0.as_u16())]
    Refused(StatusCode),
    #[error("the receiver cannot be reached: {0}")]
    Connect(io::Error),
    #[error("the receiver's answer cannot be read: {0}")]
    Http(hyper::Error),
    #[error("the receiver has not answered within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

impl SendError {
    /// Returns what the error means for the delivery.
    pub fn end(&self) -> DeliveryEnd {
        match self {
            Self::Forbidden(_) | Self::Request(_) => DeliveryEnd::Forbidden,
            Self::Refused(_) => DeliveryEnd::Refused,
            Self::Connect(_) | Self::Http(_) | Self::TimedOut => DeliveryEnd::Unreachable,
        }
    }
}

/// Sends results.
pub struct Sender {
    settings: DeliverySettings,
    /// Made for the first https URL.
    connector: OnceLock<TlsConnector>,
}

impl Sender {
    pub fn new(settings: DeliverySettings) -> Self {
        Self { settings, connector: OnceLock::new() }
    }

    /// Sends a result.
    ///
    /// # Errors
    /// The receiver has not confirmed it.
    pub async fn send(&self, url: &str, found: Found) -> Result<(), SendError> {
        let is_allowed = self.settings.deliver_to.as_ref().is_some_and(|allowed| allowed.allows(url));
        let forbidden = || SendError::Forbidden(url.to_owned());
        let (target, uri) = Target::of(url).filter(|_| is_allowed).ok_or_else(forbidden)?;
        let request = self.request(&uri, found)?;
        let attempt = async {
            let host = target.host.trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, target.port)).await.map_err(SendError::Connect)?;
            if !target.is_tls {
                return post(stream, request).await;
            }
            let name = ServerName::try_from(host.to_owned()).map_err(|error| connect_error(&error))?;
            let connector = self.connector()?.clone();
            post(connector.connect(name, stream).await.map_err(SendError::Connect)?, request).await
        };
        timeout(TIMEOUT, attempt).await.map_err(|_| SendError::TimedOut)?
    }

    fn request(&self, url: &Uri, Found { record, response }: Found) -> hyper::http::Result<Request<Full<Bytes>>> {
        let (id, timestamp) = (record.id.to_string(), UnixMillis::now().0 / 1000);
        // A redriven invocation has another result.
        let message = format!("{id}-{}", record.epoch);
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let (headers, body) = match response {
            Some(response) => (response.headers, response.body),
            None => (Vec::new(), Some(Bytes::new())),
        };
        let mut request = Request::post(target)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("unifaas/", env!("CARGO_PKG_VERSION")))
            .header(INVOCATION, id)
            .header("x-unifaas-function", &*record.function)
            .header("webhook-id", &message)
            .header("webhook-timestamp", timestamp);
        let (status, error) = match record.state {
            State::Done { status, .. } => (Some(status), None),
            State::Dead { status, reason, .. } => (status, Some(reason.code())),
            State::Queued { .. } | State::Running => (None, None),
        };
        if let Some(status) = status {
            request = request.header("x-unifaas-status", status);
        }
        if let Some(error) = error.or(body.is_none().then_some("response_gone")) {
            request = request.header("x-unifaas-error", error);
        }
        for (name, value) in headers.iter().filter(|(name, _)| ABOUT_BODY.contains(&&**name)) {
            request = request.header(name, value.as_slice());
        }
        let body = body.unwrap_or_default();
        if let Some(key) = &self.settings.key {
            request = request.header("webhook-signature", key.sign(&message, timestamp, &body));
        }
        request.body(Full::new(body))
    }

    /// Returns what speaks TLS to servers that this host trusts.
    fn connector(&self) -> Result<&TlsConnector, SendError> {
        if let Some(connector) = self.connector.get() {
            return Ok(connector);
        }
        let config = client_config(&[]).map_err(SendError::Connect)?;
        Ok(self.connector.get_or_init(|| TlsConnector::from(config)))
    }
}

fn connect_error(error: &impl ToString) -> SendError {
    SendError::Connect(io::Error::other(error.to_string()))
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(), SendError> {
    let handshake = Builder::new().max_buf_size(MAX_ANSWER).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(SendError::Http)?;
    let exchange = pin!(async {
        let answer = sender.send_request(request).await.map_err(SendError::Http)?;
        let status = answer.status();
        // The head decides, whatever comes of the body.
        let _ = timeout(BODY_TIMEOUT, Limited::new(answer.into_body(), MAX_ANSWER).collect()).await;
        if status.is_success() { Ok(()) } else { Err(SendError::Refused(status)) }
    });
    match select(exchange, connection).await {
        Either::Left((done, _)) => done,
        // Its error is that of the exchange.
        Either::Right((_, exchange)) => exchange.await,
    }
}
