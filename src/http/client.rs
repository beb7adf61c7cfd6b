//! A client's connection, and what the HTTP/1 server above it does not tell apart.
//!
//! That server ignores the end of a client's side until it writes again; and it takes a malformed chunk of a request body
//! for a broken connection, which it drops together with the request, unanswered. So the stream itself keeps watch:
//! whoever serves a request asks its [`Client`] whether it has left, and a request that is dropped although the client is
//! still there is answered with a 400 on the way out.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::headers::Peer;

/// What is known of the client at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Client(Rc<State>);

#[derive(Debug)]
struct State {
    peer: Option<Peer>,
    left: Cell<bool>,
    /// One request is served at a time, so one waker is enough.
    waker: RefCell<Option<Waker>>,
    reset: Cell<bool>,
    refused: Cell<bool>,
}

/// The answer to a request that the server has dropped because its body is malformed.
const MALFORMED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// Unread bytes that are looked at before the connection is closed: with any left, the answer could be lost.
const LAST_LOOK: usize = 64 * 1024;

impl Client {
    fn of(connection: &TcpStream) -> Self {
        Self(Rc::new(State {
            peer: connection.peer_addr().ok().map(|address| Peer::new(address.ip())),
            left: Cell::new(false),
            waker: RefCell::new(None),
            reset: Cell::new(false),
            refused: Cell::new(false),
        }))
    }

    /// Where it is, unless its connection broke before that could be asked.
    pub fn peer(&self) -> Option<&Peer> {
        self.0.peer.as_ref()
    }

    /// Whether the client has closed its side, or the connection is broken.
    pub fn has_left(&self) -> bool {
        self.0.left.get()
    }

    /// Ready once the client has closed its side. A proxy cannot tell one that has left from one that has only said
    /// all it had to say, and takes it for the former.
    pub fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.left.get() {
            return Poll::Ready(());
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Lets the connection end with a reset instead of an orderly close, which would look like the end of a body that
    /// has no other.
    pub fn end_with_reset(&self) {
        self.0.reset.set(true);
    }

    /// The server has dropped this client's request before there was an answer.
    pub fn refuse(&self) {
        self.0.refused.set(true);
    }

    fn leave(&self) {
        self.0.left.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

/// The connection itself.
#[derive(Debug)]
pub struct ClientStream {
    io: TcpStream,
    client: Client,
}

impl ClientStream {
    pub fn new(io: TcpStream) -> Self {
        let client = Client::of(&io);
        Self { io, client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.client.0.refused.get() && !self.client.has_left() {
            // As much as can be done without waiting. The request goes before its connection does.
            let _ = self.io.try_read(&mut vec![0; LAST_LOOK]);
            let _ = self.io.try_write(MALFORMED);
        }
        if self.client.0.reset.get() {
            // A connection that is broken already needs no reset.
            let _ = self.io.set_zero_linger();
        }
        self.client.leave();
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        if read.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            self.client.leave();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        if written.is_err() {
            self.client.leave();
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
