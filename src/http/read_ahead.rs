//! Hands the bytes of an HTTP/1.1 connection to actix-http request by request.
//!
//! actix-http frames a response by the request that it has parsed last, not by the request that is answered: a `HEAD` received
//! behind a `GET` takes the body from the answer to the `GET`. So what follows a request is held back until its response
//! has been made. If this file found another end of a request than actix-http, the connection would stall and end in time.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::request_facts::Framing;

/// Most bytes that are held back.
const MAX_HELD: usize = 64 * 1024;

/// The bytes that a client has sent ahead, and how far the current request has been handed on.
#[derive(Debug, Default)]
pub struct ReadAhead {
    held: BytesMut,
    part: Part,
    /// What the head seems to declare. `None`: the request has begun.
    hint: Option<Framing>,
}

/// What comes next of a request.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// With what it has declared so far.
    Head(EmptyLine, Framing),
    /// So many bytes of the body.
    Body(u64),
    /// The size of a chunk, as far as it has come.
    ChunkSize(u64),
    /// The rest of the line behind that size.
    ChunkExtension(u64),
    /// So many bytes of a chunk and the line end behind it.
    Chunk(u64),
    Trailers(EmptyLine),
    Tunnel,
    Nothing,
}

impl Default for Part {
    fn default() -> Self {
        Self::Head(EmptyLine::default(), Framing::None)
    }
}

impl Part {
    fn body(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Nothing,
            Framing::Length(length) => Self::Body(length),
            Framing::Unknown => Self::ChunkSize(0),
            Framing::Tunnel => Self::Tunnel,
        }
    }
}

impl ReadAhead {
    /// Returns whether no bytes are held back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Notes that a request has begun, and how actix-http frames it. Returns whether bytes of its body are held back.
    pub fn begin_request(&mut self, framing: Framing) -> bool {
        if self.hint.take() != Some(framing) {
            self.part = Part::body(framing);
        }
        !self.held.is_empty() && !matches!(self.part, Part::Nothing)
    }

    /// Reads bytes of the current request. What follows it is held back while it `is_served`; after that it is the next
    /// request. Ready without bytes at the end of the connection.
    pub fn poll_read(
        &mut self,
        mut transport: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        is_served: bool,
    ) -> Poll<io::Result<()>> {
        if matches!(self.part, Part::Nothing) {
            if is_served || self.hint.is_some() {
                while self.held.len() < MAX_HELD {
                    if ready!(poll_read_buf(transport.as_mut(), cx, &mut self.held))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                return Poll::Pending;
            }
            self.part = Part::default();
        }
        let before = buf.filled().len();
        if self.held.is_empty() {
            ready!(transport.poll_read(cx, buf))?;
            let end = before + self.advance(&buf.filled()[before..]);
            self.held.extend_from_slice(&buf.filled()[end..]);
            buf.set_filled(end);
        } else {
            let mut held = mem::take(&mut self.held);
            let length = self.advance(&held[..held.len().min(buf.remaining())]);
            buf.put_slice(&held[..length]);
            held.advance(length);
            if !held.is_empty() {
                self.held = held;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns how many of the next bytes belong to the request.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let (length, next) = match self.part {
                Part::Head(mut line, mut framing) => match line.find(rest, |line| framing.declare(line)) {
                    Some(end) => {
                        self.hint = Some(framing);
                        (end, Part::body(framing))
                    }
                    None => (rest.len(), Part::Head(line, framing)),
                },
                Part::Body(left) => match left.checked_sub(rest.len() as u64) {
                    None | Some(0) => (left as usize, Part::Nothing),
                    Some(left) => (rest.len(), Part::Body(left)),
                },
                Part::ChunkSize(size) => match char::from(rest[0]).to_digit(16) {
                    Some(digit) => (1, Part::ChunkSize(size.saturating_mul(16).saturating_add(digit.into()))),
                    None => (0, Part::ChunkExtension(size)),
                },
                Part::ChunkExtension(size) => match memchr(b'\n', rest) {
                    Some(end) if size == 0 => {
                        (end + 1, Part::Trailers(EmptyLine { has_content: true, in_line: false }))
                    }
                    Some(end) => (end + 1, Part::Chunk(size.saturating_add(2))),
                    None => (rest.len(), self.part),
                },
                Part::Chunk(left) => match left.checked_sub(rest.len() as u64) {
                    None | Some(0) => (left as usize, Part::ChunkSize(0)),
                    Some(left) => (rest.len(), Part::Chunk(left)),
                },
                Part::Trailers(mut line) => match line.find(rest, |_| {}) {
                    Some(end) => (end, Part::Nothing),
                    None => (rest.len(), Part::Trailers(line)),
                },
                Part::Tunnel => (rest.len(), Part::Tunnel),
                Part::Nothing => break,
            };
            at += length;
            self.part = next;
        }
        at
    }
}

/// Finds the first empty line behind one with content.
#[derive(Debug, Default, Clone, Copy)]
struct EmptyLine {
    has_content: bool,
    in_line: bool,
}

impl EmptyLine {
    /// Returns the number of bytes up to the end of the line, if it ends among these. `see` gets the lines before it, or their
    /// ends.
    fn find(&mut self, bytes: &[u8], mut see: impl FnMut(&[u8])) -> Option<usize> {
        let mut at = 0;
        loop {
            let length = memchr(b'\n', &bytes[at..]);
            let line = &bytes[at..length.map_or(bytes.len(), |length| at + length)];
            self.in_line |= !matches!(line, b"" | b"\r");
            at += length? + 1;
            if self.has_content && !self.in_line {
                return Some(at);
            }
            see(line);
            self.has_content |= mem::take(&mut self.in_line);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    /// Returns where each of some pipelined requests ends, if they come in parts of that size.
    fn ends(bytes: &[u8], size: usize) -> Vec<usize> {
        let (mut ahead, mut ends, mut at) = (ReadAhead::default(), Vec::new(), 0);
        while at < bytes.len() {
            let part = &bytes[at..bytes.len().min(at + size)];
            at += ahead.advance(part);
            if matches!(ahead.part, Part::Nothing) {
                ends.push(at);
                ahead = ReadAhead::default();
            }
        }
        ends
    }

    #[test]
    fn finds_the_end_of_each_request() {
        for (requests, sizes) in [
            (
                &["GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\nHost: h\n\n", "\r\n\r\nHEAD /\r\n\r\n"][..],
                1..100,
            ),
            (&["POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n\r\n\r\nx", "GET /\r\n\r\n"], 40..100),
            (
                &[
                    "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00a\r\n0123456789\r\n1;x=y\r\n\n\r\n0\r\n\r\n",
                    "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0 \r\ntrailer: 1\r\nother: 2\r\n\r\n",
                    "HEAD / HTTP/1.1\r\n\r\n",
                ],
                48..200,
            ),
        ] {
            let expected: Vec<_> = requests
                .iter()
                .scan(0, |end, request| {
                    *end += request.len();
                    Some(*end)
                })
                .collect();
            for size in sizes {
                assert_eq!(ends(requests.concat().as_bytes(), size), expected, "in parts of {size}: {requests:?}");
            }
        }
        assert!(ends(b"GET / HTTP/1.1\r\nHost: h\r\n", 7).is_empty() && ends(b"\r\n\r\n", 2).is_empty());
        assert!(ends(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\n\r\n", 99).is_empty());
    }

    #[tokio::test]
    async fn hands_requests_on_one_by_one() {
        let (mut client, mut transport) = duplex(1024);
        client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (mut ahead, mut bytes) = (ReadAhead::default(), [0; 1024]);
        let mut buf = ReadBuf::new(&mut bytes);
        let mut read = |ahead: &mut ReadAhead, buf: &mut ReadBuf<'_>, is_served| {
            ahead.poll_read(
                Pin::new(&mut transport),
                &mut Context::from_waker(std::task::Waker::noop()),
                buf,
                is_served,
            )
        };
        assert!(read(&mut ahead, &mut buf, false).is_ready());
        assert_eq!(buf.filled(), b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody");
        buf.clear();
        assert!(read(&mut ahead, &mut buf, false).is_pending(), "it has not begun");
        assert!(!ahead.begin_request(Framing::Length(4)));
        assert!(read(&mut ahead, &mut buf, true).is_pending() && buf.filled().is_empty());
        assert!(read(&mut ahead, &mut buf, false).is_ready());
        assert_eq!(buf.filled(), b"GET / HTTP/1.1\r\n\r\n");
        assert!(!ahead.begin_request(Framing::None) && ahead.is_empty());
        drop(client);
        assert!(read(&mut ahead, &mut buf, true).is_ready());
    }
}
