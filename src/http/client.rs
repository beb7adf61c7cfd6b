//! One client's connection: requests come out of it, answers go into it. No decisions about either.
//!
//! Everything that a request needs and the next one needs again lives here, so a usual request allocates nothing.
//! A client that has closed its side has left: a proxy cannot tell whether it has only said all it had to say.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::StatusCode;
use bytes::{Buf, BytesMut};
use tokio::{io::AsyncWrite, net::TcpStream, time::Instant};

use super::{
    alarm::Alarm,
    clock::Clock,
    headers::{Peer, REQUEST_ID},
    request_id::RequestId,
    socket::Socket,
    status::Failure,
    transfer::Transfer,
    wire::{Framing, HeadError, MAX_HEAD, RequestHead, ResponseHead, put_header, put_number},
};

/// From the first byte of a request's head to its last, and from a connection to its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// After how long an unused connection gives back the memory that only large messages need.
const SWOLLEN: Duration = Duration::from_secs(2);
/// Time for a client to take notice that its connection is being closed, or to send what nobody reads.
const GOODBYE: Duration = Duration::from_secs(1);
/// Largest body that is read for nobody so that the connection can go on, in bytes.
const SKIPPED: u64 = 256 * 1024;
/// Bytes that are taken from a client before their turn. One that has sent more is not seen to leave.
const READ_AHEAD: usize = 64 * 1024;

/// A client.
#[derive(Debug)]
pub struct Client {
    pub side: Side,
    pub request: RequestHead,
    /// The head of the answer of an instance.
    pub response: ResponseHead,
    pub alarm: Alarm,
    /// Whether the connection goes on after the answer.
    pub keep_alive: bool,
    clock: Rc<Clock>,
    peer: Option<(SocketAddr, Peer)>,
    fresh: bool,
    left: bool,
}

/// The connection, and the body that comes out of it.
#[derive(Debug)]
pub struct Side {
    pub socket: Socket,
    pub body: Transfer,
}

/// What comes next from a client.
#[derive(Debug)]
pub enum Next {
    Request,
    /// Something that is no request.
    Nonsense(HeadError),
    /// The beginning of a request, and nothing more in time.
    Slow,
    /// Nothing, or nothing in time.
    Nothing,
}

impl Client {
    pub fn new(io: TcpStream, clock: Rc<Clock>) -> Self {
        let peer = io.peer_addr().ok().map(|address| (address, Peer::new(address.ip())));
        Self {
            side: Side { socket: Socket::new(io), body: Transfer::default() },
            request: RequestHead::default(),
            response: ResponseHead::default(),
            alarm: Alarm::default(),
            keep_alive: false,
            clock,
            peer,
            fresh: true,
            left: false,
        }
    }

    /// Where it is, unless its connection broke before that could be asked.
    pub fn address(&self) -> Option<SocketAddr> {
        self.peer.as_ref().map(|(address, _)| *address)
    }

    /// The same in words.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref().map(|(_, peer)| peer)
    }

    /// Waits for the next request, which is in `self.request` then. A connection without one ends with `last_call`.
    pub async fn next_request(&mut self, mut last_call: Pin<&mut impl Future<Output = ()>>) -> Next {
        let since = Instant::now();
        let patience = if self.fresh { HEAD_TIMEOUT } else { KEEP_ALIVE };
        let (mut due, mut seen) = (since + patience, 0);
        self.fresh = false;
        let next = poll_fn(|cx| {
            loop {
                let socket = &mut self.side.socket;
                if seen == 0 {
                    skip_line_ends(&mut socket.input);
                }
                let input = &mut socket.input;
                if input.len() > seen {
                    // Without another line end there is nothing new to be found.
                    if seen == 0 || input.len() >= MAX_HEAD || input[seen..].contains(&b'\n') {
                        match self.request.take(input) {
                            Ok(true) => return Poll::Ready(Next::Request),
                            Ok(false) => {}
                            Err(error) => return Poll::Ready(Next::Nonsense(error)),
                        }
                    }
                    if seen == 0 {
                        due = Instant::now() + HEAD_TIMEOUT;
                    }
                    seen = input.len();
                }
                match socket.poll_read(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Nothing),
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Pending => {}
                }
                if seen > 0 {
                    return self.alarm.poll_at(cx, due).map(|()| Next::Slow);
                }
                if socket.is_swollen() && self.alarm.poll_at(cx, since + SWOLLEN).is_ready() {
                    socket.shrink();
                    (self.request, self.response) = Default::default();
                }
                if last_call.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Next::Nothing);
                }
                return self.alarm.poll_at(cx, due).map(|()| Next::Nothing);
            }
        })
        .await;
        if let Next::Request = next {
            self.keep_alive = self.request.keep_alive;
            self.side.body = Transfer::new(self.request.framing, self.request.framing == Framing::Chunked);
        } else {
            self.request = RequestHead::default();
            self.keep_alive = false;
        }
        next
    }

    /// Ready once the client has left. Takes what it sends meanwhile, within bounds.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.left {
            if self.side.socket.input.len() >= READ_AHEAD {
                return Poll::Pending;
            }
            self.left = matches!(ready!(self.side.socket.poll_read(cx)), Ok(0) | Err(_));
        }
        Poll::Ready(())
    }

    /// The outcome of `work`, unless the client leaves before it is there.
    pub async fn unless_left<T>(&mut self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Failure> {
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll_left(cx).map(|()| Err(Failure::ClientGone)),
        })
        .await
    }

    /// Sends what is there for it.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.side.socket.poll_flush(cx, &mut BytesMut::new())).await
    }

    /// Tells it to send the body that it holds back.
    pub fn ask_for_body(&mut self) {
        self.side.socket.output.head.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Ends the head of an answer: when it was written, and what becomes of the connection.
    pub fn end_head(&mut self, dated: bool) {
        // A client that still holds its body back may send it or not, so nobody can tell what follows.
        self.keep_alive &= !self.request.expects_continue;
        let out = &mut self.side.socket.output.head;
        if !dated {
            put_header(out, b"date", [&self.clock.date()[..]]);
        }
        if self.response.status == StatusCode::SWITCHING_PROTOCOLS {
            put_header(out, b"connection", [&b"Upgrade"[..]]);
        } else if !self.keep_alive {
            put_header(out, b"connection", [&b"close"[..]]);
        } else if self.request.is_old {
            put_header(out, b"connection", [&b"keep-alive"[..]]);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// A whole answer that is in memory.
    pub fn answer<'a>(
        &mut self,
        status: StatusCode,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        body: &[u8],
    ) {
        self.response.status = status;
        let out = &mut self.side.socket.output.head;
        put_status(out, status, status.canonical_reason().unwrap_or_default().as_bytes());
        for (name, value) in fields {
            put_header(out, name.as_bytes(), [value]);
        }
        put_number(out, b"content-length", body.len() as u64);
        self.end_head(false);
        if self.request.method() != b"HEAD" {
            self.side.socket.output.head.extend_from_slice(body);
        }
    }

    /// The platform's answer. `function` is the name that was asked for.
    pub fn refuse(&mut self, failure: &Failure, function: Option<&str>, request_id: &RequestId) {
        if failure.closes() {
            self.keep_alive = false;
        }
        let problem = failure.problem(function, request_id.as_str());
        let fields = problem.fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        self.answer(problem.status, fields.chain([(REQUEST_ID, request_id.as_bytes())]), problem.body.as_bytes());
    }

    /// Takes what is left of the request's body, so that another one can follow; whether that was possible.
    pub async fn skip_body(&mut self) -> bool {
        let Side { socket, body } = &mut self.side;
        let mut due = None;
        poll_fn(|cx| {
            if let Poll::Ready(skipped) = body.poll_skip(cx, socket, SKIPPED) {
                return Poll::Ready(skipped.is_ok());
            }
            self.alarm.poll_at(cx, *due.get_or_insert_with(|| Instant::now() + GOODBYE)).map(|()| false)
        })
        .await
    }

    /// Ends the connection in such a way that the answer is not lost: a reset, which is what bytes that nobody has read
    /// lead to, may overtake it.
    pub async fn say_goodbye(&mut self) {
        let due = Instant::now() + GOODBYE;
        poll_fn(|cx| {
            let socket = &mut self.side.socket;
            if ready!(Pin::new(socket.io_mut()).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            loop {
                socket.input.clear();
                match socket.poll_read(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return self.alarm.poll_at(cx, due),
                }
            }
        })
        .await;
    }

    /// Lets the connection end with a reset instead of an orderly close, which would look like the end of a body that
    /// has no other.
    pub fn end_with_reset(&self) {
        // A connection that is broken already needs no reset.
        let _ = self.side.socket.io().set_zero_linger();
    }
}

/// Begins the head of an answer.
pub fn put_status(out: &mut Vec<u8>, status: StatusCode, reason: &[u8]) {
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Some clients send an empty line behind a body.
pub fn skip_line_ends(input: &mut BytesMut) {
    while let [b'\r' | b'\n', ..] = input[..] {
        input.advance(1);
    }
}
