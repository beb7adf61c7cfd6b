//! The byte stream of a client's connection, below actix-http: what its dispatchers do not see or do.
//!
//! actix-http has a deadline for the first request head of a connection only, none for a client that takes nothing of a
//! response, and does not tell handlers that a client has left. Its parser answers what it refuses with a bare status.
//! All of that is done here, by deadlines in the connection's own task (`deadlines.rs`). The tests pin what this relies on.

mod deadlines;

use std::{
    io, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    client_connection::ClientConnection,
    goaway::{GoawayFilter, NO_MORE_STREAMS},
    read_ahead::ReadAhead,
    timer::StallTimer,
    transport::{Transport, socket},
};
use crate::{failure::Failure, header_names::REQUEST_ID};

/// From the first byte of a request's head to its last, and from a connection to its first byte.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer of actix-http's parser, in bytes: a status line and three headers.
const PARSER_ANSWER: usize = 256;

/// A client's connection as actix-http reads and writes it.
#[derive(Debug)]
pub struct ClientStream {
    /// There until dropped.
    transport: Option<Transport>,
    connection: Rc<ClientConnection>,
    /// Requests begun when this last looked.
    begun: u64,
    /// Bytes that have come and belong to no request yet.
    unparsed: usize,
    /// Of HTTP/1.1: what has been read behind the request in service.
    ahead: ReadAhead,
    /// A request has just begun, and a part of its body is held back.
    holds_body: bool,
    /// Of HTTP/2.
    goaway: GoawayFilter,
    /// Of HTTP/2: a GOAWAY was written.
    said_goaway: bool,
    /// A response has been begun and not been written to its end.
    answering: bool,
    /// Since when the client has been idle or sending a head.
    since: Option<Instant>,
    /// What is written before anything else: interim responses, refusals in place of actix-http's, and a GOAWAY.
    prefix: Bytes,
    /// The connection has had its last answer.
    closing: bool,
    written: u64,
    /// The transport holds nothing that was written.
    flushed: bool,
    /// Of HTTP/2: how much was written when the connection was to end and had no request in service.
    written_at_end: Option<u64>,
    stalled: StallTimer,
}

impl ClientStream {
    /// Wraps an accepted connection.
    pub fn new(transport: Transport, connection: Rc<ClientConnection>) -> Self {
        Self {
            transport: Some(transport),
            connection,
            begun: 0,
            unparsed: 0,
            ahead: ReadAhead::default(),
            holds_body: false,
            goaway: GoawayFilter::default(),
            said_goaway: false,
            answering: false,
            since: None,
            prefix: Bytes::new(),
            closing: false,
            written: 0,
            flushed: true,
            written_at_end: None,
            stalled: StallTimer::default(),
        }
    }

    /// Returns the state shared with the handlers.
    pub fn connection(&self) -> &Rc<ClientConnection> {
        &self.connection
    }

    fn transport(&mut self) -> io::Result<Pin<&mut Transport>> {
        self.transport.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Notes whether a request has begun since the last look.
    fn look(&mut self) {
        let begun = self.connection.begun();
        if self.begun != begun {
            self.begun = begun;
            self.unparsed = 0;
            self.holds_body = self.ahead.begin_request(self.connection.framing());
            self.answering = true;
            self.since = None;
            self.written_at_end = None;
        }
    }

    /// Writes the problem document of a failure next, as the last answer of the connection.
    fn refuse(&mut self, failure: &Failure) {
        self.prefix = failure.bare_response().into();
        self.closing = true;
    }

    fn poll_prefix(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty()
            && let Some(interim) = self.connection.take_interim()
        {
            self.prefix = interim.into();
        }
        while !self.prefix.is_empty() {
            let prefix = self.prefix.clone();
            let written = ready!(self.transport()?.poll_write(cx, &prefix))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written as u64;
            self.prefix.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what the dispatcher may see now: the next head, or the body of the request in service.
    fn poll_request(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.look();
        let Self { transport: Some(transport), connection, ahead, goaway, .. } = self else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let transport = Pin::new(transport);
        if connection.is_http2 {
            let before = buf.filled().len();
            ready!(transport.poll_read(cx, buf))?;
            goaway.correct(&mut buf.filled_mut()[before..]);
            return Poll::Ready(Ok(()));
        }
        let is_served = connection.active() > 0;
        if !is_served && connection.ends_after_response() {
            // What follows is no request.
            return Poll::Pending;
        }
        ahead.poll_read(transport, cx, buf, is_served)
    }

    /// Whether this is actix-http's own answer to what its parser refuses: every answer of a handler has an id.
    fn is_parser_answer(&mut self, bytes: &[u8]) -> bool {
        self.look();
        bytes.len() < PARSER_ANSWER
            && !self.answering
            && bytes.starts_with(b"HTTP/1.")
            && matches!(bytes.get(9..12), Some(b"400" | b"431"))
            && !self.connection.is_http2
            && self.connection.active() == 0
            && !bytes.windows(REQUEST_ID.len()).any(|part| part == REQUEST_ID.as_bytes())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match this.poll_request(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                this.look();
                if this.connection.active() == 0 {
                    if this.unparsed == 0 {
                        // The time before the first byte of a head is not part of its own.
                        this.since = None;
                    }
                    this.unparsed += buf.filled().len() - before;
                    if this.connection.max_head.is_some_and(|max| this.unparsed > max) {
                        this.refuse(&Failure::HeadTooLarge);
                    }
                }
                if this.connection.is_http2 {
                    this.since = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(end) => {
                this.connection.set_left();
                Poll::Ready(end)
            }
            Poll::Pending => this.poll_idle(cx).map(Ok),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.prefix.is_empty() && this.is_parser_answer(buf) {
            let failure = if buf[9..].starts_with(b"431") { Failure::HeadTooLarge } else { Failure::BadRequest };
            this.refuse(&failure);
            return Poll::Ready(Ok(buf.len()));
        }
        let prefix = this.poll_prefix(cx);
        this.connection.set_flushed(false);
        this.flushed = false;
        if !matches!(prefix, Poll::Ready(Ok(()))) {
            return this.wrote(cx, prefix).map_ok(|()| 0);
        }
        let outcome = this.transport()?.poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = outcome {
            this.written += written as u64;
        }
        this.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let prefix = this.poll_prefix(cx);
        this.connection.set_flushed(false);
        this.flushed = false;
        if !matches!(prefix, Poll::Ready(Ok(()))) {
            return this.wrote(cx, prefix).map_ok(|()| 0);
        }
        let outcome = this.transport()?.poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = outcome {
            this.written += written as u64;
        }
        this.wrote(cx, outcome)
    }

    // Only HTTP/2 writes several buffers at once.
    fn is_write_vectored(&self) -> bool {
        self.connection.is_http2 && self.transport.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The dispatcher flushes when it has written all it has.
        this.connection.set_flushed(true);
        if this.connection.is_http2 && !this.said_goaway && this.connection.guard.is_ending() {
            // Behind a whole frame.
            (this.prefix, this.said_goaway) = (Bytes::from_static(&NO_MORE_STREAMS), true);
        }
        let flushed = match this.poll_prefix(cx) {
            Poll::Ready(Ok(())) => this.transport()?.poll_flush(cx),
            other => other,
        };
        ready!(this.wrote(cx, flushed))?;
        this.flushed = true;
        this.look();
        this.look_for_reset(cx);
        // Between two requests the dispatcher does not read again by itself, so the deadline is set here.
        let is_idle = this.connection.active() == 0;
        this.answering &= !is_idle;
        let has_held = mem::take(&mut this.holds_body) || (is_idle && !this.ahead.is_empty());
        if has_held || (is_idle && this.poll_idle(cx).is_ready()) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let prefix = this.poll_prefix(cx);
        ready!(this.wrote(cx, prefix))?;
        this.transport()?.poll_shutdown(cx)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let Some(transport) = self.transport.take() else { return };
        let left = self.connection.has_left();
        self.connection.set_left();
        if self.connection.ends_with_reset() {
            // An error means that the connection is broken already.
            let _ = socket(&transport).set_zero_linger();
        } else if !left {
            if self.connection.is_unanswered() && !self.connection.is_http2 {
                // The dispatcher ends a request whose chunks are malformed with its connection.
                self.refuse(&Failure::MalformedBody);
            }
            if self.closing || self.unparsed > 0 || !self.ahead.is_empty() || self.connection.is_body_unread() {
                let last = mem::take(&mut self.prefix);
                self.connection.return_transport(transport, last);
            }
        }
    }
}
