//! Parses request bodies: their content, and their end.

use super::Malformed;

/// Maximum length of a chunk-size line, and of all trailers, in bytes.
const LINE_LIMIT: u16 = 1024;

/// The rest of a request body.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    framing: Framing,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length,
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Content, with the number of bytes that are left.
    Content(u64),
    /// The end of the line behind a chunk.
    ChunkEnd,
    /// The chunk-size line: the size read so far, and whether its digits have ended.
    Size {
        size: u64,
        digits: u8,
        extension: bool,
        read: u16,
    },
    /// Trailers: their number of bytes so far, and whether the line is not empty.
    Trailers {
        empty: bool,
        read: u16,
    },
    Done,
}

const SIZE: State = State::Size { size: 0, digits: 0, extension: false, read: 0 };

/// The result of [`Body::next`].
#[derive(Debug, PartialEq)]
pub struct Piece<'a> {
    /// Number of consumed bytes of the input.
    pub read: usize,
    /// Content among them, possibly empty.
    pub content: &'a [u8],
}

impl Body {
    /// Returns a body of so many bytes.
    pub const fn of_length(length: u64) -> Self {
        Self { framing: Framing::Length, state: if length == 0 { State::Done } else { State::Content(length) } }
    }

    /// Returns a chunked body.
    pub const fn chunked() -> Self {
        Self { framing: Framing::Chunked, state: SIZE }
    }

    /// Returns whether it has been read to its end.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns its length, before anything of it has been read. `None` if it is chunked.
    pub fn length(&self) -> Option<u64> {
        match (self.framing, self.state) {
            (Framing::Chunked, _) => None,
            (Framing::Length, State::Content(length)) => Some(length),
            (Framing::Length, _) => Some(0),
        }
    }

    /// Parses up to the end of the next piece of content, or of the input.
    ///
    /// # Errors
    /// When the chunked encoding is malformed; then the beginning of the next request is unknown.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<Piece<'a>, Malformed> {
        for (index, &byte) in input.iter().enumerate() {
            match self.state {
                State::Content(left) => {
                    let rest = &input[index..];
                    let content = &rest[..rest.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                    self.state = match (left - content.len() as u64, self.framing) {
                        (0, Framing::Length) => State::Done,
                        (0, Framing::Chunked) => State::ChunkEnd,
                        (left, _) => State::Content(left),
                    };
                    return Ok(Piece { read: index + content.len(), content });
                }
                State::Done => return Ok(Piece { read: index, content: &[] }),
                _ => self.state = self.state.framing_byte(byte)?,
            }
        }
        Ok(Piece { read: input.len(), content: &[] })
    }
}

impl State {
    /// Parses a byte that is not content.
    fn framing_byte(self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::ChunkEnd, b'\r') => self,
            (Self::ChunkEnd, b'\n') => SIZE,
            (Self::ChunkEnd, _) => return Err("a chunk is longer than it said"),

            (Self::Size { read: LINE_LIMIT, .. }, _) => return Err("the line of a chunk's size is too long"),
            (Self::Size { digits: 0, .. }, b'\n' | b'\r' | b';' | b' ') => return Err("a chunk without a size"),
            (Self::Size { size: 0, .. }, b'\n') => Self::Trailers { empty: true, read: 0 },
            (Self::Size { size, .. }, b'\n') => Self::Content(size),
            (Self::Size { size, digits, read, .. }, b'\r' | b';' | b' ' | b'\t') => {
                Self::Size { size, digits, extension: true, read: read + 1 }
            }
            (Self::Size { size, digits, extension: true, read }, _) => {
                Self::Size { size, digits, extension: true, read: read + 1 }
            }
            (Self::Size { size, digits, extension: false, read }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or("a chunk size is not a number")?;
                if digits == 15 {
                    return Err("a chunk size is too large");
                }
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1, extension: false, read: read + 1 }
            }

            (Self::Trailers { read: LINE_LIMIT, .. }, _) => return Err("the trailers are too long"),
            (Self::Trailers { empty: true, .. }, b'\n') => Self::Done,
            (Self::Trailers { read, .. }, b'\n') => Self::Trailers { empty: true, read: read + 1 },
            (Self::Trailers { empty, read }, b'\r') => Self::Trailers { empty, read: read + 1 },
            (Self::Trailers { read, .. }, _) => Self::Trailers { empty: false, read: read + 1 },

            (Self::Content(_) | Self::Done, _) => self,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses the input in pieces of `step` bytes. Returns the content, and how much was consumed.
    fn read(mut body: Body, input: &[u8], step: usize) -> Result<(Vec<u8>, usize), Malformed> {
        let (mut content, mut at) = (Vec::new(), 0);
        while !body.is_done() && at < input.len() {
            let piece = body.next(&input[at..input.len().min(at + step)])?;
            content.extend_from_slice(piece.content);
            at += piece.read;
        }
        Ok((content, at))
    }

    #[test]
    fn body_ends_after_its_length() {
        assert_eq!(read(Body::of_length(5), b"helloGET", 3), Ok((b"hello".to_vec(), 5)));
        assert!(Body::of_length(0).is_done());
    }

    #[test]
    fn reads_chunks_split_at_any_byte() {
        let input = b"5;x=y\r\nhello\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET";
        for step in 1..=input.len() {
            let (content, at) = read(Body::chunked(), input, step).unwrap();
            assert_eq!((content.as_slice(), &input[at..]), (&b"hello0123456789"[..], &b"GET"[..]), "steps of {step}");
        }
    }

    #[test]
    fn refuses_malformed_chunks() {
        for input in ["\r\n", "x\r\n", "-1\r\n", "1\r\nab", "1 \nabc", "ffffffffffffffff\r\n", ";x\r\n"] {
            assert!(read(Body::chunked(), input.as_bytes(), 3).is_err(), "{input:?}");
        }
        let endless = [b"1;".as_slice(), &[b'x'; 2000]].concat();
        assert!(read(Body::chunked(), &endless, 100).is_err());
        let trailers = [b"0\r\n".as_slice(), &[b'x'; 2000]].concat();
        assert!(read(Body::chunked(), &trailers, 100).is_err());
    }
}
