//! One body on its way from one connection to the other.
//!
//! Nothing is spawned and nothing is buffered beyond what one read brought: the next one waits until that has been sent, so
//! the slower end sets the pace. What came is sent as soon as nothing more comes with it, so events arrive one by one. Large
//! pieces are sent from where they were read to; small ones are copied, since that costs less than one more part of a write,
//! and share one write with the head before them.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Buf;

use super::{
    socket::Socket,
    wire::{BodyReader, Framing, Malformed, Piece, put_chunk_line},
};

/// Largest piece that is copied, in bytes.
const COPIED: usize = 4 * 1024;
/// Bytes that are gathered before they are sent even though more is there.
const GATHERED: usize = 16 * 1024;

/// Pieces that are moved before somebody else has a turn: a body may come in chunks of a byte.
const TURN: usize = 1024;

/// A body that moves.
#[derive(Debug, Default)]
pub struct Transfer {
    reader: BodyReader,
    /// Whether it is sent in chunks.
    chunked: bool,
    /// The largest it may be, in bytes.
    limit: Option<u64>,
    taken: u64,
}

/// Why a body did not arrive.
#[derive(Debug)]
pub enum Stopped {
    Malformed(Malformed),
    TooLarge {
        limit: u64,
    },
    /// Where it comes from broke off. `None`: in an orderly way, but too early.
    Source(Option<io::Error>),
    /// Where it goes to takes no more.
    Sink(io::Error),
}

impl Transfer {
    /// A body that comes framed like this, and is sent in chunks or as it is.
    pub fn new(framing: Framing, chunked: bool) -> Self {
        Self { reader: BodyReader::new(framing), chunked, limit: None, taken: 0 }
    }

    /// From now on it may be no larger than that.
    pub fn limit(&mut self, limit: Option<u64>) {
        self.limit = limit;
    }

    /// Bytes of it that have been taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How it comes.
    pub fn framing(&self) -> Framing {
        self.reader.framing()
    }

    /// Moves what there is. Ready once the last byte has left `from` for the output of `to`.
    pub fn poll(&mut self, cx: &mut Context<'_>, from: &mut Socket, to: &mut Socket) -> Poll<Result<(), Stopped>> {
        for _ in 0..TURN {
            if to.output.is_in_parts() || to.output.head.len() >= GATHERED {
                ready!(to.poll_flush(cx, &mut from.input)).map_err(Stopped::Sink)?;
            }
            match self.reader.next(&mut from.input).map_err(Stopped::Malformed)? {
                Piece::Data(length) => self.take(length, from, to)?,
                Piece::End => return Poll::Ready(self.end(to)),
                Piece::Hungry => match from.poll_read(cx) {
                    Poll::Ready(Ok(0)) if self.reader.framing() == Framing::UntilClose => {
                        return Poll::Ready(self.end(to));
                    }
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Stopped::Source(None))),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Stopped::Source(Some(error)))),
                    Poll::Pending => {
                        ready!(to.poll_flush(cx, &mut from.input)).map_err(Stopped::Sink)?;
                        return Poll::Pending;
                    }
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes the rest out of `from` for nobody. Ready once it has ended; an error if it does not end within `most` bytes.
    pub fn poll_skip(&mut self, cx: &mut Context<'_>, from: &mut Socket, most: u64) -> Poll<Result<(), Stopped>> {
        for _ in 0..TURN {
            match self.reader.next(&mut from.input).map_err(Stopped::Malformed)? {
                Piece::End => return Poll::Ready(Ok(())),
                Piece::Data(length) => {
                    from.input.advance(length);
                    self.taken += length as u64;
                    if self.taken > most {
                        return Poll::Ready(Err(Stopped::TooLarge { limit: most }));
                    }
                }
                Piece::Hungry => match ready!(from.poll_read(cx)) {
                    Ok(0) => return Poll::Ready(Err(Stopped::Source(None))),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Err(Stopped::Source(Some(error)))),
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(&mut self, length: usize, from: &mut Socket, to: &mut Socket) -> Result<(), Stopped> {
        self.taken += length as u64;
        if let Some(limit) = self.limit
            && self.taken > limit
        {
            return Err(Stopped::TooLarge { limit });
        }
        let output = &mut to.output;
        if self.chunked {
            put_chunk_line(&mut output.head, length);
        }
        let line_end: &[u8] = if self.chunked { b"\r\n" } else { b"" };
        if length <= COPIED {
            output.head.extend_from_slice(&from.input[..length]);
            output.head.extend_from_slice(line_end);
            from.input.advance(length);
        } else {
            output.borrowed = length;
            output.tail = line_end;
        }
        Ok(())
    }

    fn end(&self, to: &mut Socket) -> Result<(), Stopped> {
        if self.chunked {
            to.output.head.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
