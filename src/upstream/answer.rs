//! The body of an instance's response, and what follows a `101`.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{
    Method, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING},
    response::Parts,
};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use super::{
    ConnectionPools, Outgoing,
    connection::{Connection, LAST_BYTES, this_worker},
    error::{AttemptError, BodyError, MalformedResponse},
};

/// A final response, or the `101` to a request for an upgrade.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers, those of the connection included.
    pub head: Parts,
    /// What follows.
    pub body: AnswerBody,
}

/// The body of a response. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub struct AnswerBody {
    incoming: Incoming,
    /// Read ahead.
    first: Option<Result<Bytes, BodyError>>,
    is_ended: bool,
    /// Until the end.
    checkout: Option<Checkout>,
    /// Behind a `101`.
    upgraded: Option<Box<Upgraded>>,
    /// Whether the connection had been kept from an earlier request.
    pub reused: bool,
}

/// A connection that has been taken from its pool.
#[derive(Debug)]
pub(super) struct Checkout {
    pub pools: Arc<ConnectionPools>,
    pub connection: Box<Connection>,
    /// Whether the request has a body.
    pub has_upload: bool,
    /// Whether the response's head lets the connection serve another request.
    pub is_reusable: bool,
}

impl Answer {
    /// Takes the response from a connection, and the beginning of its body if that is there, so that head and body may go in
    /// one write.
    ///
    /// # Errors
    /// The head of the response is malformed.
    pub(super) fn new(
        response: Response<Incoming>,
        outgoing: &Outgoing<'_>,
        connection: Box<Connection>,
        pools: &Arc<ConnectionPools>,
    ) -> Result<Self, AttemptError> {
        let (mut head, incoming) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS && !outgoing.wants_upgrade {
            return Err(MalformedResponse::UnaskedUpgrade.into());
        }
        let is_reusable = check_framing(&mut head, &outgoing.method)?;
        let (pools, reused) = (pools.clone(), connection.reused);
        let checkout = Checkout { pools, connection, has_upload: outgoing.body.is_some(), is_reusable };
        let mut body =
            AnswerBody { incoming, first: None, is_ended: false, reused, checkout: Some(checkout), upgraded: None };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // What follows is no body.
        } else if body.incoming.is_end_stream() {
            body.end();
        } else if let Poll::Ready(first) = body.poll_incoming(&mut Context::from_waker(Waker::noop())) {
            body.first = first;
        }
        Ok(Self { head, body })
    }

    /// Waits for the connection behind a `101`. If there is none, it has ended, which the tunnel shows.
    pub(super) async fn upgraded(mut self) -> Self {
        if let Some(upgrade) = self.head.extensions.remove::<OnUpgrade>() {
            self.body.upgraded = upgrade.await.ok().map(Box::new);
        }
        self
    }
}

impl Checkout {
    /// Gives the connection back when the response is complete, unless the request is not.
    fn finish(self) {
        let Self { pools, connection, has_upload, is_reusable } = self;
        // hyper is ready as soon as both are complete. That of another worker may still be about to know.
        let is_idle = connection.sender.is_ready() || (connection.worker != this_worker() && !has_upload);
        if is_reusable && is_idle && !connection.meter.is_write_broken() {
            pools.give_back(connection);
        }
    }
}

/// Whether the connection may serve another request once the response has ended, as far as the head tells.
///
/// # Errors
/// The head gives several body lengths, or none that is known. hyper lets `Transfer-Encoding` decide, and
/// an unknown coding for a body that ends with the connection; another proxy may see it otherwise.
pub(super) fn check_framing(head: &mut Parts, method: &Method) -> Result<bool, MalformedResponse> {
    // One pass over the few headers costs less than two look-ups.
    let (mut codings, mut is_chunked, mut length, mut is_repeated) = (0, false, None, false);
    for (name, value) in &head.headers {
        if name == TRANSFER_ENCODING {
            (codings, is_chunked) = (codings + 1, value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        } else if name == CONTENT_LENGTH {
            is_repeated = length.is_some();
            if *length.get_or_insert(value) != value {
                return Err(MalformedResponse::Length);
            }
        }
    }
    let is_coded = codings > 0;
    if is_coded && (codings > 1 || !is_chunked || length.is_some()) {
        return Err(MalformedResponse::Length);
    }
    let (first, length) = (length.filter(|_| is_repeated).cloned(), length.map(number).transpose()?);
    if let Some(first) = first {
        head.headers.insert(CONTENT_LENGTH, first);
    }
    // The body that such a response announces does not follow, but some servers send it.
    let is_bodiless = *method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS);
    // To a server that has answered with 1.0, hyper sends 1.0, and drops chunked bodies.
    Ok(head.version == Version::HTTP_11 && (!is_bodiless || (!is_coded && length.unwrap_or(0) == 0)))
}

fn number(value: &HeaderValue) -> Result<u64, MalformedResponse> {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(MalformedResponse::Length)
}

impl AnswerBody {
    /// Ready with the next bytes; `None` at the end. By the last bytes of a body of known size the connection is back in
    /// its pool.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.poll_incoming(cx),
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while !self.is_ended {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers are not passed on.
                    let Ok(chunk) = frame.into_data() else { continue };
                    if self.incoming.is_end_stream() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Some(Err(error)) => {
                    self.is_ended = true;
                    self.checkout = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => self.end(),
            }
        }
        Poll::Ready(None)
    }

    fn end(&mut self) {
        self.is_ended = true;
        if let Some(checkout) = self.checkout.take() {
            checkout.finish();
        }
    }

    /// Returns how many bytes are to come; 0 after `HEAD`, 204 and 304 whatever the head says. `None`: chunks, or all until
    /// the connection ends.
    pub fn size(&self) -> Option<u64> {
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok()).map_or(0, Bytes::len);
        self.incoming.size_hint().exact().map(|rest| rest + first as u64)
    }

    /// Returns whether nothing is to come.
    pub fn is_end(&self) -> bool {
        self.is_ended && self.first.is_none()
    }

    /// Returns the connection behind a `101`. `None`: this is another response, or the connection has ended.
    pub fn into_upgraded(self) -> Option<Tunnel> {
        let checkout = self.checkout?;
        let remote = checkout.connection.remote.clone();
        let ended = Box::pin(async move {
            remote.ended().await;
            sleep(LAST_BYTES).await;
        });
        Some(Tunnel { io: TokioIo::new(*self.upgraded?), ended, _checkout: checkout })
    }
}

/// The connection behind a `101`. An instance that ends without closing it ends it, too.
pub struct Tunnel {
    io: TokioIo<Upgraded>,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    _checkout: Checkout,
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            // Nothing more comes.
            Poll::Pending => self.ended.as_mut().poll(cx).map(Ok),
            read => read,
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
