//! One client's connection: requests come out of it, answers go into it. No decisions about either.
//!
//! How long a client may take for what it has to do is watched here, on the one alarm of the connection.
//! Everything that a request needs and the next one needs again lives here, so a usual request allocates nothing.
//! A client that has closed its side has left: a proxy cannot tell whether it has only said all it had to say.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::StatusCode;
use bytes::{Buf, BytesMut};
use tokio::{io::AsyncWrite, net::TcpStream, time::Instant};

use super::{
    alarm::{Alarm, Standstill},
    clock::Clock,
    crowd::Guest,
    gate::Ends,
    headers::{Peer, REQUEST_ID},
    request_id::RequestId,
    socket::Socket,
    status::Failure,
    transfer::Transfer,
    wire::{Framing, HeadError, RequestHead, ResponseHead, Seen, put_header, put_number},
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
    /// Where it is and where it has come to.
    pub ends: Ends,
    /// Where it is, in the words of headers.
    pub peer: Peer,
    pub guest: Guest,
    pub terms: Terms,
    clock: Rc<Clock>,
    fresh: bool,
    left: bool,
    /// Of what there is for it to take.
    stalled: Standstill,
}

/// What clients of a listener may do.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long one may be silent in the middle of a request, or take nothing of a response.
    pub timeout: Option<Duration>,
    /// Largest head of a request, in bytes.
    pub head: usize,
    /// Whether there may be more than one request on a connection.
    pub keep_alive: bool,
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
    pub fn new(io: TcpStream, ends: Ends, guest: Guest, terms: Terms, clock: Rc<Clock>) -> Self {
        Self {
            side: Side { socket: Socket::new(io), body: Transfer::default() },
            request: RequestHead::default(),
            response: ResponseHead::default(),
            alarm: Alarm::default(),
            keep_alive: false,
            ends,
            peer: Peer::new(ends.peer.ip()),
            guest,
            terms,
            clock,
            fresh: true,
            left: false,
            stalled: Standstill::default(),
        }
    }

    /// Waits for the next request, which is in `self.request` then.
    pub async fn next_request(&mut self) -> Next {
        let since = Instant::now();
        let patience = if self.fresh { HEAD_TIMEOUT } else { KEEP_ALIVE };
        let (mut begun, mut seen) = (None, Seen::default());
        self.fresh = false;
        let next = poll_fn(|cx| {
            loop {
                let socket = &mut self.side.socket;
                if !seen.anything() {
                    skip_line_ends(&mut socket.input);
                }
                // Half a line end may begin no head, either.
                if socket.input[..] != *b"\r" && seen.is_worth_parsing(&socket.input, self.terms.head) {
                    match self.request.take(&mut socket.input, self.terms.head) {
                        Ok(true) => return Poll::Ready(Next::Request),
                        Ok(false) => {}
                        Err(error) => return Poll::Ready(Next::Nonsense(error)),
                    }
                }
                match socket.poll_read(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Nothing),
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Pending => {}
                }
                if self.guest.poll_rest(cx).is_ready() {
                    return Poll::Ready(Next::Nothing);
                }
                if seen.anything() {
                    let due = *begun.get_or_insert_with(Instant::now) + HEAD_TIMEOUT;
                    return self.alarm.poll_at(cx, due).map(|()| Next::Slow);
                }
                if socket.is_swollen() && self.alarm.poll_at(cx, since + SWOLLEN).is_ready() {
                    socket.shrink();
                    (self.request, self.response) = Default::default();
                }
                return self.alarm.poll_at(cx, since + patience).map(|()| Next::Nothing);
            }
        })
        .await;
        self.guest.is_served();
        match next {
            Next::Request => {
                self.keep_alive = self.request.keep_alive && self.terms.keep_alive;
                self.side.body = Transfer::new(self.request.framing, self.request.framing == Framing::Chunked);
            }
            Next::Nonsense(_) | Next::Slow | Next::Nothing => {
                self.request = RequestHead::default();
                self.keep_alive = false;
            }
        }
        if let Next::Slow = next {
            self.guest.has_to_leave();
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
        poll_fn(|cx| match self.side.socket.poll_flush(cx, &mut BytesMut::new()) {
            Poll::Ready(sent) => Poll::Ready(sent),
            Poll::Pending => self.poll_stalled(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        })
        .await
    }

    /// Ready once it has taken nothing for too long of what is there for it. To be asked only when it cannot take more now.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let output = &self.side.socket.output;
        let Some(timeout) = self.terms.timeout.filter(|_| !output.is_empty()) else { return Poll::Pending };
        let due = self.stalled.since(output.total()) + timeout;
        ready!(self.alarm.poll_at(cx, due));
        self.guest.has_to_leave();
        Poll::Ready(())
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

/// Some clients send an empty line behind a body. Whoever sends many begins a head that has no end.
pub fn skip_line_ends(input: &mut BytesMut) {
    for _ in 0..2 {
        let line_end = [b"\r\n".as_slice(), b"\n"].into_iter().find(|line_end| input.starts_with(line_end));
        input.advance(line_end.map_or(0, <[u8]>::len));
    }
}
