//! An HTTP/1.1 client without convenience: one connection, no redirects, no decoding, body chunks as they arrive.

use std::{
    convert::Infallible,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle, time::Instant};

use crate::{SOON, eventually, within};

/// Time limit of every request in these tests. Longer than the longest boot.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A request body.
pub type Body = BoxBody<Bytes, Infallible>;

/// Returns a body of known length.
pub fn body_of(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// Returns an empty body.
pub fn empty() -> Body {
    body_of(Bytes::new())
}

/// Returns a request. The path is sent unchanged.
///
/// # Panics
/// When the path is not valid in a request.
#[track_caller]
pub fn request(method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).body(body).expect("a valid request")
}

/// A client connection.
pub struct Connection {
    sender: SendRequest<Body>,
    host: String,
    driver: JoinHandle<()>,
    socket: std::net::TcpStream,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // At once, not when the runtime drops the task.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.driver.abort();
    }
}

impl Connection {
    /// Connects to an address.
    ///
    /// # Errors
    /// When the connection is refused.
    pub async fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let socket = stream.try_clone()?;
        let stream = TokioIo::new(TcpStream::from_std(stream)?);
        let handshake = http1::Builder::new().max_headers(2048).handshake(stream);
        let (sender, connection) = handshake.await.expect("no bytes yet");
        let driver = tokio::spawn(async move {
            // Errors are also returned to the pending request.
            let _ = connection.await;
        });
        Ok(Self { sender, host: to.to_string(), driver, socket })
    }

    /// Returns whether the connection is open, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and returns the response head with an unread body.
    ///
    /// # Errors
    /// When the connection ends without a response.
    pub async fn start(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", self.host.parse().expect("an address is a header value"));
        }
        self.sender.ready().await?;
        let what = format!("the response head of {} {}", request.method(), request.uri());
        within(REQUEST_TIMEOUT, what, self.sender.send_request(request)).await
    }

    /// Sends a request and returns the complete response.
    ///
    /// # Errors
    /// When the connection ends before the response is complete.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Reply> {
        let started = Instant::now();
        let what = format!("the response body of {} {}", request.method(), request.uri());
        let (head, body) = self.start(request).await?.into_parts();
        let body = within(REQUEST_TIMEOUT, what, body.collect()).await?;
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
            took: started.elapsed(),
        })
    }
}

/// Waits until the function under test listens at an address, and returns its callback URL.
///
/// # Panics
/// When it does not listen in time.
pub async fn callback_url(function: SocketAddr) -> String {
    let reply = async || {
        let mut connection = Connection::open(function).await.map_err(|error| error.to_string())?;
        connection.send(request("GET", "/callback", empty())).await.map_err(|error| error.to_string())
    };
    let reply = eventually(SOON, format!("{function} answers"), reply, Result::is_ok).await;
    reply.map(|reply| reply.text()).unwrap_or_default()
}

/// A complete response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Time from the first byte of the request to the last byte of the response.
    pub took: Duration,
}

impl Reply {
    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the first header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Returns the response if the function itself answered 200.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!((self.status, self.header("x-unifaas-error")), (200, None), "{}", self.text());
        self
    }

    /// Returns the pid at the beginning of the body, as the function under test writes it.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let text = self.text();
        text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no pid: {text}"))
    }

    /// Returns the problem document, which must be complete and have this status and code.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.header("x-unifaas-error").as_deref()), (status, Some(code)), "{}", self.text());
        assert_eq!(self.header("content-type").as_deref(), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!((&problem["status"], &problem["code"]), (&Value::from(status), &Value::from(code)), "{problem}");
        for member in ["type", "title", "detail", "request_id"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no {member} in {problem}");
        }
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id").as_deref());
        problem
    }

    /// Returns the seconds of `Retry-After`.
    ///
    /// # Panics
    /// When the header is missing or no number.
    #[track_caller]
    pub fn retry_after(&self) -> u64 {
        let value = self.header("retry-after").expect("a Retry-After");
        value.parse().unwrap_or_else(|_| panic!("not a number of seconds: {value}"))
    }
}

/// Reads a body chunk by chunk.
pub struct Pieces {
    body: Incoming,
}

impl Pieces {
    /// Takes the body of a response.
    pub fn of(response: Response<Incoming>) -> Self {
        Self { body: response.into_body() }
    }

    /// Returns the next chunk; `None` at the clean end, an error when the connection broke.
    pub async fn next(&mut self) -> Option<hyper::Result<Bytes>> {
        let frame = within(REQUEST_TIMEOUT, "more of a body or its end", self.body.frame()).await?;
        Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
    }
}

/// Returns a body that is produced while it is sent.
pub fn streamed(pieces: impl Stream<Item = Bytes> + Send + Sync + 'static) -> Body {
    use futures::StreamExt;
    BodyExt::boxed(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))))
}
