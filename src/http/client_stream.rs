//! The byte stream of a client's connection, below actix-http: what its dispatchers do not see or do.
//!
//! actix-http has a deadline for the first request head of a connection only, none for a client that takes nothing of a
//! response, and does not tell handlers that a client has left. Its parser answers what it refuses with a bare status.
//! All of that is done here, by deadlines in the connection's own task. The tests pin what this relies on.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{
    client_connection::{ClientConnection, UNKNOWN_SIZE},
    read_ahead::ReadAhead,
    status::Failure,
    timer::StallTimer,
};

/// From the first byte of a request's head to its last, and from a connection to its first byte.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Between two looks whether a client has reset its upload.
const RESET_INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks of HTTP/2 handlers at the time.
const PULSE_INTERVAL: Duration = Duration::from_millis(200);
/// Longest answer of actix-http's parser, in bytes: a status line and three headers.
const PARSER_ANSWER: usize = 256;

/// TCP, or TLS over TCP.
pub type Transport = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Returns the TCP socket below.
pub fn socket(transport: &Transport) -> &TcpStream {
    match transport {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}

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
    /// What has been read behind the request in service.
    ahead: ReadAhead,
    /// A response has been begun and not been written to its end.
    answering: bool,
    /// Since when the client has been idle or sending a head.
    since: Option<Instant>,
    /// What is written before anything else: interim responses, and refusals in place of actix-http's.
    prefix: Bytes,
    /// The connection has had its last answer.
    closing: bool,
    written: u64,
    stalled: StallTimer,
    /// Of HTTP/2, while requests are served.
    next_pulse: Option<Instant>,
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
            answering: false,
            since: None,
            prefix: Bytes::new(),
            closing: false,
            written: 0,
            stalled: StallTimer::default(),
            next_pulse: None,
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
            self.connection.count_body(self.ahead.begin_request());
            self.answering = true;
            self.since = None;
        }
    }

    /// Ready when nothing more is to be read from a client that has no request being served.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.look();
        let connection = &self.connection;
        if connection.active() > 0 {
            return self.poll_streams(cx);
        }
        self.next_pulse = None;
        if connection.guard.is_evicted(cx) || connection.ends_after_response() {
            return Poll::Ready(());
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let in_head = self.unparsed > 0 && !connection.is_http2;
        let timeout = if in_head || self.begun == 0 { HEAD_TIMEOUT } else { KEEP_ALIVE };
        ready!(connection.poll_timer(cx, since + timeout));
        if in_head && !self.closing {
            connection.guard.count_evicted();
            // After an answer to a request whose body still comes there is nothing to say.
            if !connection.is_body_unread() {
                self.refuse(&Failure::HeadTimedOut);
            }
            self.closing = true;
        }
        Poll::Ready(())
    }

    /// Notices that the client has reset the connection while its upload is not taken: nothing is read then. Looks now and
    /// then, as long as there is an upload.
    fn look_for_reset(&mut self, cx: &mut Context<'_>) {
        let connection = &self.connection;
        if connection.is_http2 || connection.active() == 0 || !connection.is_body_unread() {
            return;
        }
        let due = *self.since.get_or_insert_with(Instant::now) + RESET_INTERVAL;
        if connection.poll_timer(cx, due).is_pending() {
            return;
        }
        self.since = Some(Instant::now());
        let ready = self.transport.as_ref().and_then(|transport| {
            socket(transport).ready(Interest::READABLE | Interest::WRITABLE).now_or_never()?.ok()
        });
        if ready.is_some_and(|ready| ready.is_read_closed() && ready.is_write_closed()) {
            connection.set_left();
        }
        cx.waker().wake_by_ref();
    }

    /// Pulses while HTTP/2 streams are served. Ready when one has waited too long for the client to take its data: its
    /// task, which is actix-http's, has no timer, so the whole connection ends.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let connection = &self.connection;
        if !connection.is_http2 {
            return Poll::Pending;
        }
        loop {
            let pulse = *self.next_pulse.get_or_insert_with(|| Instant::now() + PULSE_INTERVAL);
            ready!(connection.poll_timer(cx, pulse));
            self.next_pulse = None;
            connection.pulse();
            let longest = connection.longest_wait().map_or(Duration::ZERO, |since| since.elapsed());
            if connection.client_timeout.is_some_and(|timeout| longest > timeout) {
                connection.guard.count_evicted();
                return Poll::Ready(());
            }
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

    /// The outcome of a write, or an error when the client has taken nothing for too long.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            return outcome;
        }
        self.connection.set_write_blocked();
        let Some(timeout) = self.connection.client_timeout else { return Poll::Pending };
        let due = self.stalled.since(self.written) + timeout;
        ready!(self.connection.poll_timer(cx, due));
        self.connection.guard.count_evicted();
        self.connection.set_left();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads what the dispatcher may see now: the next head, or the body of the request in service.
    fn poll_request(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.look();
        let Self { transport: Some(transport), connection, ahead, .. } = self else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let transport = Pin::new(transport);
        if connection.is_http2 {
            return transport.poll_read(cx, buf);
        }
        let (is_served, left) = (connection.active() > 0, connection.body_left());
        if left > 0 && (is_served || left != UNKNOWN_SIZE) {
            let before = buf.filled().len();
            ready!(ahead.poll_body(transport, cx, buf, left))?;
            connection.count_body(buf.filled().len() - before);
            return Poll::Ready(Ok(()));
        }
        if is_served { ahead.poll_behind(transport, cx) } else { ahead.poll_head(transport, cx, buf) }
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
            && !bytes
                .windows(super::headers::REQUEST_ID.len())
                .any(|part| part == super::headers::REQUEST_ID.as_bytes())
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
        this.connection.set_flushed(false);
        let outcome = this.transport()?.poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = outcome {
            this.written += written as u64;
        }
        this.wrote(cx, outcome)
    }

    // Only HTTP/2 writes several buffers at once, and it has no prefix.
    fn is_write_vectored(&self) -> bool {
        self.connection.is_http2 && self.transport.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The dispatcher flushes when it has written all it has.
        this.connection.set_flushed(true);
        let flushed = match this.poll_prefix(cx) {
            Poll::Ready(Ok(())) => this.transport()?.poll_flush(cx),
            other => other,
        };
        ready!(this.wrote(cx, flushed))?;
        if this.connection.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        this.look_for_reset(cx);
        // Between two requests the dispatcher does not read again by itself, so the deadline is set here.
        let is_idle = this.connection.active() == 0;
        this.answering &= !is_idle;
        if is_idle && (!this.ahead.is_empty() || this.poll_idle(cx).is_ready()) {
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
            let is_cut = self.connection.is_cut();
            if self.closing || is_cut || self.unparsed > 0 || !self.ahead.is_empty() || self.connection.is_body_unread()
            {
                let last = std::mem::take(&mut self.prefix);
                self.connection.return_transport(transport, last);
            }
        }
    }
}

#[cfg(test)]
mod actix_http_facts;
