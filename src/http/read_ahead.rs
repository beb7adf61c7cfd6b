//! Hands the bytes of an HTTP/1.1 connection to actix-http request by request.
//!
//! actix-http frames a response by the request that it has parsed last, not by the request that is answered: a `HEAD` received
//! behind a `GET` takes the body from the answer to the `GET`. So what follows a request is held back until its response
//! has been made. A chunked body is the exception, because only actix-http finds its end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Most bytes that are held back.
const MAX_HELD: usize = 64 * 1024;

/// The bytes that a client has sent ahead.
#[derive(Debug, Default)]
pub struct ReadAhead {
    held: BytesMut,
    scanner: HeadScanner,
    /// A whole head has been handed on, and its request has not begun.
    after_head: bool,
    /// Bytes of its body that have been handed on along with a head.
    body_begun: usize,
}

/// Finds the end of a request's head: the first empty line behind its first line.
#[derive(Debug, Default, Clone, Copy)]
enum HeadScanner {
    #[default]
    Start,
    InLine,
    /// Behind a line feed, and perhaps a carriage return.
    LineEnd,
}

impl ReadAhead {
    /// Returns whether no bytes are held back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Notes that a request has begun. Returns how many bytes of its body have been handed on with its head.
    pub fn begin_request(&mut self) -> usize {
        (self.scanner, self.after_head) = (HeadScanner::Start, false);
        std::mem::take(&mut self.body_begun)
    }

    /// Reads bytes of the next head, and what has come of its body. Reads nothing at the end of the connection.
    pub fn poll_head(
        &mut self,
        mut transport: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.after_head {
            if self.held.is_empty() && ready!(poll_read_buf(transport.as_mut(), cx, &mut self.held))? == 0 {
                return Poll::Ready(Ok(()));
            }
            // The dispatcher parses the head first.
            (self.scanner, self.after_head) = (HeadScanner::Start, false);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(self.poll_any(transport, cx, buf, usize::MAX))?;
        if let Some(end) = self.scanner.find_end(&buf.filled()[before..]) {
            (self.after_head, self.body_begun) = (true, 0);
            let (head, rest) = buf.filled()[before..].split_at(end);
            if !rest.is_empty() {
                // Head and body together reach the instance in one write.
                self.body_begun = declared_size(head).min(rest.len());
                let mut held = BytesMut::from(&rest[self.body_begun..]);
                held.unsplit(std::mem::take(&mut self.held));
                self.held = held;
                buf.set_filled(before + end + self.body_begun);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads at most `limit` bytes of a body.
    pub fn poll_body(
        &mut self,
        transport: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: u64,
    ) -> Poll<io::Result<()>> {
        self.poll_any(transport, cx, buf, usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Reads what follows a request that is being served, and holds it back. Ready at the end of the connection.
    pub fn poll_behind(
        &mut self,
        mut transport: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.held.len() < MAX_HELD {
            if ready!(poll_read_buf(transport.as_mut(), cx, &mut self.held))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    fn poll_any(
        &mut self,
        transport: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: usize,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            let length = self.held.len().min(buf.remaining()).min(limit);
            buf.put_slice(&self.held[..length]);
            self.held.advance(length);
            if self.held.is_empty() {
                self.held = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if limit >= buf.remaining() {
            return transport.poll_read(cx, buf);
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(limit));
        ready!(transport.poll_read(cx, &mut part))?;
        let length = part.filled().len();
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// Returns the size of a body as the last bytes of a head declare it. A hint: what it misses is read a moment later.
fn declared_size(head: &[u8]) -> usize {
    let size = head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        if name.eq_ignore_ascii_case(b"content-length") {
            return std::str::from_utf8(&value[1..]).ok()?.trim().parse().ok();
        }
        (name.eq_ignore_ascii_case(b"transfer-encoding") || name.eq_ignore_ascii_case(b"upgrade")).then_some(usize::MAX)
    });
    size.unwrap_or(0)
}

impl HeadScanner {
    /// Returns the number of bytes up to the end of the head, if it is among these.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            *self = match (*self, byte) {
                (Self::LineEnd, b'\n') => {
                    *self = Self::Start;
                    return Some(at + 1);
                }
                (Self::InLine, b'\n') | (Self::LineEnd, b'\r') => Self::LineEnd,
                // Empty lines in front of a request are none of it.
                (Self::Start, b'\r' | b'\n') => Self::Start,
                _ => Self::InLine,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    #[test]
    fn head_ends_at_first_empty_line() {
        for (bytes, expected) in [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET", Some(27)),
            ("GET / HTTP/1.1\nHost: h\n\nGET", Some(24)),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Some(22)),
            ("GET / HTTP/1.1\r\nHost: h\r\n", None),
            ("\r\n\r\n", None),
        ] {
            assert_eq!(HeadScanner::default().find_end(bytes.as_bytes()), expected, "{bytes:?}");
            let mut scanner = HeadScanner::default();
            let end = bytes.bytes().position(|byte| scanner.find_end(&[byte]).is_some());
            assert_eq!(end.map(|at| at + 1), expected, "byte by byte: {bytes:?}");
        }
    }

    #[tokio::test]
    async fn requests_are_handed_on_one_by_one() {
        let (mut client, mut transport) = duplex(1024);
        client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nbo").await.unwrap();
        client.write_all(b"dyXXGET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (mut ahead, mut bytes) = (ReadAhead::default(), [0; 1024]);
        let mut buf = ReadBuf::new(&mut bytes);
        poll_fn(|cx| ahead.poll_head(Pin::new(&mut transport), cx, &mut buf)).await.unwrap();
        assert_eq!(buf.filled(), b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nbodyXX");
        assert_eq!(ahead.begin_request(), 6);
        buf.clear();
        poll_fn(|cx| ahead.poll_head(Pin::new(&mut transport), cx, &mut buf)).await.unwrap();
        assert_eq!(buf.filled(), b"GET / HTTP/1.1\r\n\r\n");
        client.write_all(b"GET").await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(ahead.poll_behind(Pin::new(&mut transport), cx))).await.is_pending());
        assert!(!ahead.is_empty());
        drop(client);
        poll_fn(|cx| ahead.poll_behind(Pin::new(&mut transport), cx)).await.unwrap();
    }
}
