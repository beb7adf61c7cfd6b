//! Where a body ends, and which of the bytes that have come belong to it.

use bytes::{Buf, BytesMut};

/// Longest line that announces a chunk, line end included: sixteen digits, and extensions that nobody uses.
const MAX_CHUNK_LINE: usize = 1024;
/// Most bytes of trailers, which nobody gets to see.
const MAX_TRAILERS: usize = 8 * 1024;

/// How the bytes of a message body are framed on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection closes; also what comes after a `101`.
    UntilClose,
}

/// A chunked body is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its chunked body is malformed")]
pub struct Malformed;

/// Finds the body in what a connection brings.
#[derive(Debug, Default)]
pub struct BodyReader {
    framing: Framing,
    /// Where the reader is, if the body comes in chunks.
    chunk: Chunk,
}

/// Where in a chunked body the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Chunk {
    /// Before the line that announces a chunk.
    #[default]
    Line,
    /// This many bytes of the chunk are still to come.
    Data(u64),
    /// Before the line end that follows a chunk.
    End,
    /// Behind the last chunk, among trailers, which are dropped. So many bytes of them have come.
    Trailers(usize),
    Done,
}

/// What the reader found at the beginning of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of the body, never none. The caller takes them out of the input before it asks again.
    Data(usize),
    /// The body is complete.
    End,
    /// More input is needed.
    Hungry,
}

impl BodyReader {
    /// Before the first byte of a body.
    pub fn new(framing: Framing) -> Self {
        Self { framing, chunk: Chunk::Line }
    }

    /// The next piece in `input`. Takes what frames the body out of there, but no byte of the body itself.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        match &mut self.framing {
            Framing::None | Framing::Length(0) => Ok(Piece::End),
            Framing::Length(left) => Ok(data(input, left)),
            Framing::UntilClose => Ok(data(input, &mut { u64::MAX })),
            Framing::Chunked => self.next_of_chunks(input),
        }
    }

    /// How the body is framed. Of a length, what is still to come.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    fn next_of_chunks(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match &mut self.chunk {
                Chunk::Line => match chunk_line(input)? {
                    // The same for all of them, however they arrive.
                    Some((length, _)) if length > MAX_CHUNK_LINE => return Err(Malformed),
                    Some((length, size)) => {
                        input.advance(length);
                        self.chunk = if size == 0 { Chunk::Trailers(0) } else { Chunk::Data(size) };
                    }
                    None if input.len() < MAX_CHUNK_LINE => return Ok(Piece::Hungry),
                    None => return Err(Malformed),
                },
                Chunk::Data(0) => self.chunk = Chunk::End,
                Chunk::Data(left) => return Ok(data(input, left)),
                Chunk::End => match &input[..] {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.chunk = Chunk::Line;
                    }
                    [] | [b'\r'] => return Ok(Piece::Hungry),
                    _ => return Err(Malformed),
                },
                Chunk::Trailers(taken) => {
                    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                        return if *taken + input.len() < MAX_TRAILERS { Ok(Piece::Hungry) } else { Err(Malformed) };
                    };
                    let last = matches!(input[..end], [] | [b'\r']);
                    *taken += end + 1;
                    if *taken > MAX_TRAILERS {
                        return Err(Malformed);
                    }
                    input.advance(end + 1);
                    if last {
                        self.chunk = Chunk::Done;
                    }
                }
                Chunk::Done => return Ok(Piece::End),
            }
        }
    }
}

fn data(input: &BytesMut, left: &mut u64) -> Piece {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= here as u64;
    if here == 0 { Piece::Hungry } else { Piece::Data(here) }
}

/// The line that announces a chunk: its length, line end included, and the size of the chunk. `None`: it has not come whole.
///
/// Digits must be there, and nothing but an extension may follow: what one reader takes for the end of a body and another
/// one does not is how requests are smuggled.
fn chunk_line(input: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
    let digits = input.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let size = input[..digits].iter().try_fold(0_u64, |size, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        size.checked_mul(16)?.checked_add(u64::from(digit))
    });
    let size = size.ok_or(Malformed)?;
    let rest = &input[digits..];
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match rest.get(blanks) {
        None => return if digits == 0 && blanks > 0 { Err(Malformed) } else { Ok(None) },
        Some(_) if digits == 0 => return Err(Malformed),
        Some(b'\r' | b';') => {}
        Some(_) => return Err(Malformed),
    }
    let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return Ok(None) };
    match rest[end..] {
        [b'\r', b'\n', ..] => Ok(Some((digits + end + 2, size))),
        [b'\r'] => Ok(None),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests;
