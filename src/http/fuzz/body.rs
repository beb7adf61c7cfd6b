//! Bodies: the same bytes however they arrive, and what is written in chunks is read as what it was.

use bytes::{Buf, BytesMut};

use crate::{
    fuzz::in_pieces,
    http::wire::{BodyReader, Framing, Piece, put_chunk_line},
};

/// What has been found of a body.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    body: Vec<u8>,
    end: End,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    /// There is more to come.
    #[default]
    Open,
    /// So many bytes follow the body.
    Followed(usize),
    Malformed,
}

/// The bytes as chunks, as a body of a length, and as what is to be sent in chunks.
pub fn body(data: &[u8]) {
    let Some((wire, pieces)) = in_pieces(data) else { return };
    let pieces: Vec<&[u8]> = pieces.collect();
    let found = read(Framing::Chunked, &[wire]);
    assert_eq!(found, read(Framing::Chunked, &pieces));
    assert_eq!(found, plain_chunks(wire));

    let length = usize::from(data[0]).min(wire.len());
    let expected = Found { body: wire[..length].to_vec(), end: End::Followed(wire.len() - length) };
    assert_eq!(read(Framing::Length(length as u64), &pieces), expected);
    assert_eq!(read(Framing::UntilClose, &pieces), Found { body: wire.to_vec(), end: End::Open });
    assert_eq!(read(Framing::None, &[wire]), Found { body: vec![], end: End::Followed(wire.len()) });

    let mut chunked = Vec::new();
    for piece in &pieces {
        put_chunk_line(&mut chunked, piece.len());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\nnext");
    let expected = Found { body: wire.to_vec(), end: End::Followed(4) };
    assert_eq!(read(Framing::Chunked, &[&chunked]), expected);
    assert_eq!(plain_chunks(&chunked), expected);
}

fn read(framing: Framing, pieces: &[&[u8]]) -> Found {
    let (mut reader, mut input, mut body) = (BodyReader::new(framing), BytesMut::new(), Vec::new());
    let mut end = End::Open;
    for (index, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        while end == End::Open {
            match reader.next(&mut input) {
                Ok(Piece::Data(length)) => {
                    assert!(length > 0);
                    body.extend_from_slice(&input[..length]);
                    input.advance(length);
                }
                Ok(Piece::Hungry) => break,
                Ok(Piece::End) => {
                    let rest: usize = pieces[index + 1..].iter().map(|piece| piece.len()).sum();
                    end = End::Followed(input.len() + rest);
                }
                Err(_) => end = End::Malformed,
            }
        }
    }
    // Without a byte, nobody asks.
    if pieces.is_empty() && reader.next(&mut input) == Ok(Piece::End) {
        end = End::Followed(0);
    }
    Found { body, end }
}

/// Longest line that announces a chunk.
const LONGEST_LINE: usize = 1024;

/// Chunks, read with all bytes at hand.
fn plain_chunks(mut rest: &[u8]) -> Found {
    let mut body = Vec::new();
    let end = loop {
        let line = match line(rest) {
            Ok(Some(line)) => line,
            Ok(None) => break End::Open,
            Err(()) => break End::Malformed,
        };
        rest = &rest[line.length..];
        if line.size == 0 {
            break trailers(rest);
        }
        let here = usize::try_from(line.size).unwrap_or(usize::MAX).min(rest.len());
        body.extend_from_slice(&rest[..here]);
        rest = &rest[here..];
        if (here as u64) < line.size || matches!(rest, [] | [b'\r']) {
            break End::Open;
        }
        match rest.strip_prefix(b"\r\n") {
            Some(behind) => rest = behind,
            None => break End::Malformed,
        }
    };
    Found { body, end }
}

struct Line {
    length: usize,
    size: u64,
}

/// `HEX [blanks] [; anything] CR LF`. Refused as soon as it cannot become one.
fn line(rest: &[u8]) -> Result<Option<Line>, ()> {
    if rest.is_empty() {
        return Ok(None);
    }
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let announced = rest[..end.unwrap_or(rest.len())].split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = match announced.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')) {
        Some(last) if announced[..=last].iter().all(u8::is_ascii_hexdigit) => &announced[..=last],
        _ => return Err(()),
    };
    let size = str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(())?;
    match end {
        None if rest.len() < LONGEST_LINE => Ok(None),
        Some(end) if end + 2 <= LONGEST_LINE => match rest[end..] {
            [b'\r', b'\n', ..] => Ok(Some(Line { length: end + 2, size })),
            [b'\r'] => Ok(None),
            _ => Err(()),
        },
        _ => Err(()),
    }
}

/// Lines up to an empty one.
fn trailers(mut rest: &[u8]) -> End {
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() || line == b"\r" {
            return End::Followed(rest.len());
        }
    }
    End::Open
}
