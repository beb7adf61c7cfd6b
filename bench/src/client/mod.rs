//! The HTTP client of the measurements: hyper over a socket that notes when bytes pass.
//!
//! `stream.rs` has the socket, `timing.rs` reads `server-timing`, `closed.rs` and `open.rs` are loops of many requests,
//! `failures.rs` counts those of them that fail, and `timer.rs` waits for times of sending. Addresses are numeric, so no name
//! is resolved in any figure.

mod closed;
mod failures;
mod open;
mod stream;
mod timer;
mod timing;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderMap, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

pub use closed::{Window, closed};
pub use failures::{Failures, reason};
pub use open::{Arrival, Outcome, open};
pub use timing::ServerTiming;

use crate::clock;
use stream::{StampedStream, Stamps};

/// Limit of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a body that are kept, for pages and errors. The rest is counted only.
const MAX_KEPT: usize = 16 << 20;
/// The header that the daemon expects of actions.
const ACTION: &str = "x-unifaas";
/// The header in which a function says how long it worked.
const FUNCTION_TIME: &str = "x-bench-us";

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection was not made.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// The exchange broke off.
    #[error("no complete response: {0}")]
    Exchange(#[from] hyper::Error),
    /// It took too long.
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The target is no URI.
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
}

/// When the bytes of an exchange passed, in nanoseconds of the monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Before connect(2), and after it.
    pub connect: (u64, u64),
    /// Before the first write(2) of the request.
    pub sent: u64,
    /// After the read(2) with the first byte of the response.
    pub first_byte: u64,
    /// After the read(2) that completes the body.
    pub last_byte: u64,
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// When its bytes passed.
    pub times: Times,
    /// What the daemon says about its time. Instances say nothing.
    pub timing: Option<ServerTiming>,
    /// How long the function says it worked, in microseconds.
    pub function_us: Option<f64>,
    /// The begin of its body.
    pub body: Vec<u8>,
    /// The length of its body.
    pub length: u64,
}

/// A connection for one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    stamps: Arc<Stamps>,
    host: HeaderValue,
    connect: (u64, u64),
}

impl Connection {
    /// Connects. The connection ends when this is dropped.
    ///
    /// # Errors
    /// When the server does not accept.
    pub async fn open(server: SocketAddr) -> Result<Self, ClientError> {
        let began = clock::now();
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(server)).await;
        let ended = clock::now();
        let stream = stream.map_err(|_| ClientError::Timeout(CONNECT_TIMEOUT))?;
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| ClientError::Connect(server, error))?;
        let stamps = Arc::<Stamps>::default();
        let (sender, connection) = http1::handshake(TokioIo::new(StampedStream::new(stream, stamps.clone()))).await?;
        // Its errors are those of the requests.
        tokio::spawn(async move { drop(connection.await) });
        let host = HeaderValue::try_from(server.to_string()).map_err(hyper::http::Error::from)?;
        Ok(Self { sender, stamps, host, connect: (began, ended) })
    }

    /// Sends a request without a body, and reads the response to its end.
    ///
    /// # Errors
    /// When there is no complete response within `limit`.
    pub async fn send(&mut self, method: Method, target: &str, limit: Duration) -> Result<Response, ClientError> {
        self.exchange(method, target, limit, MAX_KEPT).await
    }

    /// Sends a GET, and counts the body of the response without keeping it.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn download(&mut self, target: &str, limit: Duration) -> Result<Response, ClientError> {
        self.exchange(Method::GET, target, limit, 0).await
    }

    async fn exchange(
        &mut self,
        method: Method,
        target: &str,
        limit: Duration,
        kept: usize,
    ) -> Result<Response, ClientError> {
        let mut request = Request::builder().uri(target).header(HOST, self.host.clone());
        if method == Method::POST {
            // The daemon acts for no browser that was led astray.
            request = request.header(ACTION, "1");
        }
        let request = request.method(method).body(Empty::new())?;
        self.stamps.arm();
        let exchange = async {
            self.sender.ready().await?;
            let (head, mut rest) = self.sender.send_request(request).await?.into_parts();
            let (mut body, mut length) = (Vec::new(), 0);
            while let Some(frame) = rest.frame().await {
                let Ok(data) = frame?.into_data() else { continue };
                length += data.len() as u64;
                if body.len() < kept {
                    body.extend_from_slice(&data);
                }
            }
            Ok::<_, ClientError>((head, body, length))
        };
        let (head, body, length) = timeout(limit, exchange).await.map_err(|_| ClientError::Timeout(limit)).flatten()?;
        let (sent, first_byte, last_byte) = self.stamps.read();
        Ok(Response {
            status: head.status.as_u16(),
            times: Times { connect: self.connect, sent, first_byte, last_byte },
            timing: text_of(&head.headers, "server-timing").map(ServerTiming::parse),
            function_us: text_of(&head.headers, FUNCTION_TIME).and_then(|text| text.parse().ok()),
            body,
            length,
        })
    }
}

/// Sends a GET over a new connection.
///
/// # Errors
/// See [`Connection`].
pub async fn get(server: SocketAddr, target: &str, limit: Duration) -> Result<Response, ClientError> {
    Connection::open(server).await?.send(Method::GET, target, limit).await
}

fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
