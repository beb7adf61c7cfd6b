//! A client's connection, and what the HTTP/1 server above it does not tell apart.
//!
//! That server ignores the end of a client's side until it writes again; and it takes a malformed chunk of a request body
//! for a broken connection, which it drops together with the request, unanswered. So the stream itself keeps watch:
//! whoever serves a request asks its [`Client`] whether it has left, and a request that is dropped although the client is
//! still there is answered with a 400 on the way out.
//!
//! Nor does it limit how long a head may take but for the first of a connection, or how long a response may wait to be
//! taken. The stream writes down what comes and goes (`manners.rs`), and fails once the crowd has turned its client out.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    ops::Deref,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    crowd::{Crowd, Membership},
    headers::Peer,
    manners::{Manners, Offence},
};

/// What is known of the client at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Client(Rc<State>);

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// A request that is being served, until dropped.
#[derive(Debug)]
pub struct Served(Client);

#[derive(Debug)]
struct State {
    ends: Ends,
    peer: Peer,
    crowd: Rc<Crowd>,
    manners: Manners,
    welcome: bool,
    offence: Cell<Option<Offence>>,
    left: Cell<bool>,
    /// A connection is one task, which serves one request at a time, so one waker is enough.
    waker: RefCell<Option<Waker>>,
    reset: Cell<bool>,
    refused: Cell<bool>,
}

/// The answer to a request that the server has dropped because its body is malformed.
const MALFORMED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// The answer to a request whose head does not come to an end, and to one whose head is too large.
const SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// Unread bytes that are looked at before the connection is closed: with any left, the answer could be lost.
const LAST_LOOK: usize = 64 * 1024;

impl Client {
    /// Of a connection that has just come. One that is not `welcome` is to be told so.
    pub fn new(ends: Ends, crowd: Rc<Crowd>, welcome: bool) -> Self {
        let manners = Manners::new(crowd.now());
        let peer = Peer::new(ends.peer.ip());
        let (offence, left, waker, reset, refused) = Default::default();
        Self(Rc::new(State { ends, peer, crowd, manners, welcome, offence, left, waker, reset, refused }))
    }

    /// Where it is, in the words of headers.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Where it is, and where it has come to.
    pub fn ends(&self) -> Ends {
        self.0.ends
    }

    /// Whether there is a place for it.
    pub fn is_welcome(&self) -> bool {
        self.0.welcome
    }

    /// What it has been doing.
    pub fn manners(&self) -> &Manners {
        &self.0.manners
    }

    /// It gets its last answer now.
    pub fn dismiss(&self) {
        self.0.manners.dismiss(self.0.crowd.now());
    }

    /// From now on, a request of it is served.
    pub fn serve(self) -> Served {
        self.manners().is_served(true);
        Served(self)
    }

    /// Why it was turned out.
    pub fn offence(&self) -> Option<Offence> {
        self.0.offence.get()
    }

    /// Ends the connection, however long its task would have waited; whether it had not been ended before.
    pub fn turn_out(&self, offence: Offence) -> bool {
        if self.offence().is_some() {
            return false;
        }
        self.0.offence.set(Some(offence));
        self.leave();
        true
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
        self.wakes(cx);
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

    fn wakes(&self, cx: &Context<'_>) {
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn leave(&self) {
        self.0.left.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

impl Deref for Served {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.manners().is_served(false);
    }
}

/// The connection itself.
#[derive(Debug)]
pub struct ClientStream {
    io: TcpStream,
    client: Client,
    _membership: Membership,
}

impl ClientStream {
    pub fn new(io: TcpStream, client: Client, membership: Membership) -> Self {
        Self { io, client, _membership: membership }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// An error once the client has been turned out.
    fn check(&self) -> io::Result<()> {
        if self.client.offence().is_some() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// What is still to be said to a client whose request gets no other answer.
    fn last_words(&self) -> Option<&'static [u8]> {
        match self.client.offence() {
            Some(Offence::SlowHead) => Some(SLOW),
            Some(Offence::LargeHead) => Some(LARGE),
            Some(_) => None,
            None => (self.client.0.refused.get() && !self.client.has_left()).then_some(MALFORMED),
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if let Some(words) = self.last_words() {
            // As much as can be done without waiting. The request goes before its connection does.
            let _ = self.io.try_read(&mut vec![0; LAST_LOOK]);
            let _ = self.io.try_write(words);
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
        self.check()?;
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buf) else {
            // Between requests nobody else says whom to wake.
            self.client.wakes(cx);
            return Poll::Pending;
        };
        let count = buf.filled().len() - before;
        if read.is_err() || (count == 0 && buf.remaining() > 0) {
            self.client.leave();
        }
        self.client.0.crowd.hears(&self.client, count);
        Poll::Ready(read)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        let State { crowd, manners, .. } = &*self.client.0;
        match &written {
            Poll::Pending => manners.stalls(crowd.now()),
            Poll::Ready(Ok(count)) if *count == buf.len() => manners.keeps_up(),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(_)) => self.client.leave(),
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
