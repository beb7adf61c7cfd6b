//! One TCP connection, to a client or to an instance: what has come and is not understood yet, and what is to be sent.
//!
//! Both directions of a proxy are the same thing seen from two sides, so both sides are the same type. Memory follows use:
//! room for reads starts small and grows while they fill it, and a connection that rests gives it back.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{io::AsyncWrite, net::TcpStream};
use tokio_util::io::poll_read_buf;

/// Room made for a read, in bytes: enough for usual heads at first; past the last, larger reads gain nothing.
const FIRST_READ: usize = 4 * 1024;
const LARGEST_READ: usize = 256 * 1024;
/// How much faster the room grows than doubling it: a mebibyte should not need many reads to get going.
const GROWTH: usize = 4;
/// What a connection that rests may hold of each kind of memory, in bytes.
const AT_REST: usize = 2 * FIRST_READ;

/// A connection.
#[derive(Debug)]
pub struct Socket {
    io: TcpStream,
    /// Read and not yet understood.
    pub input: BytesMut,
    pub output: Output,
    /// All that was ever read.
    received: u64,
    room: usize,
}

/// What is to be sent, in this order: `head`, bytes of another connection's input, `tail`.
#[derive(Debug, Default)]
pub struct Output {
    /// Heads, frames, and bodies that are cheaper copied than sent from where they are.
    pub head: Vec<u8>,
    /// So many bytes of `head` have been sent.
    sent: usize,
    /// So many bytes at the beginning of the source are sent next, and taken out of there when they are.
    pub borrowed: usize,
    pub tail: &'static [u8],
    /// All that was ever sent.
    total: u64,
}

impl Output {
    /// Whether all has been sent.
    pub fn is_empty(&self) -> bool {
        self.sent == self.head.len() && self.borrowed == 0 && self.tail.is_empty()
    }

    /// Whether there is something behind `head`, even if it is half a line end: nothing may be added before that is sent.
    pub fn is_in_parts(&self) -> bool {
        self.borrowed > 0 || !self.tail.is_empty()
    }

    /// Bytes ever sent.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Forgets what has not been sent.
    pub fn clear(&mut self) {
        self.head.clear();
        (self.sent, self.borrowed, self.tail) = (0, 0, b"");
    }

    fn wrote(&mut self, mut written: usize, source: &mut BytesMut) {
        self.total += written as u64;
        let of_head = written.min(self.head.len() - self.sent);
        self.sent += of_head;
        written -= of_head;
        let of_source = written.min(self.borrowed);
        source.advance(of_source);
        self.borrowed -= of_source;
        written -= of_source;
        self.tail = self.tail.get(written..).unwrap_or_default();
    }
}

impl Socket {
    pub fn new(io: TcpStream) -> Self {
        Self { io, input: BytesMut::new(), output: Output::default(), received: 0, room: FIRST_READ }
    }

    /// The connection itself.
    pub fn io(&self) -> &TcpStream {
        &self.io
    }

    /// The connection itself, to close a side of it.
    pub fn io_mut(&mut self) -> &mut TcpStream {
        &mut self.io
    }

    /// Bytes ever read.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads more. 0: the other side has ended its side in an orderly way.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(self.room);
        let room = self.input.capacity() - self.input.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))?;
        self.received += read as u64;
        if read == room {
            self.room = (self.room * GROWTH).min(LARGEST_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// Sends all there is; what is borrowed comes from `source`.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, source: &mut BytesMut) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let Output { head, sent, borrowed, tail, .. } = &self.output;
            let (head, io) = (&head[*sent..], Pin::new(&mut self.io));
            let written = if *borrowed == 0 && tail.is_empty() {
                ready!(io.poll_write(cx, head))?
            } else {
                let parts = [IoSlice::new(head), IoSlice::new(&source[..*borrowed]), IoSlice::new(tail)];
                ready!(io.poll_write_vectored(cx, &parts))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.wrote(written, source);
        }
        self.output.head.clear();
        self.output.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether it holds more memory than one that rests should.
    pub fn is_swollen(&self) -> bool {
        self.input.capacity() > AT_REST || self.output.head.capacity() > AT_REST
    }

    /// Gives back what only large messages need.
    pub fn shrink(&mut self) {
        if self.input.is_empty() && self.input.capacity() > AT_REST {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.head.capacity() > AT_REST {
            self.output.head = Vec::new();
        }
        self.room = FIRST_READ;
    }
}
