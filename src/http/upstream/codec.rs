//! HTTP/1.1 towards an instance, as bytes: request heads out, response heads and bodies in.
//!
//! Pure: no socket. A general-purpose client costs more per request than all the rest of the proxy, and hides what a
//! proxy must know: whether a response byte has come, whether a body ended or broke off.

use std::{fmt::Write as _, mem::MaybeUninit};

use actix_http::{
    Method, StatusCode, Version,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest response head, in bytes.
const MAX_HEAD: usize = 128 * 1024;
const MAX_HEADERS: usize = 128;
/// Longest line that announces a chunk: sixteen digits, and extensions that nobody uses.
const MAX_CHUNK_LINE: usize = 1024;

/// Why an instance's answer is no HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// The head cannot be parsed.
    #[error("its response head is malformed ({0})")]
    Head(String),
    /// The head is larger than is taken.
    #[error("its response head is larger than {MAX_HEAD} bytes")]
    HeadTooLarge,
    /// The head says in two ways how long the body is, or in none that is known.
    #[error("its response has no clear length")]
    Length,
    /// A chunk is malformed.
    #[error("its chunked body is malformed")]
    Chunk,
}

/// How the bytes of a message body are framed on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// This many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection closes; also what comes after a `101`.
    UntilClose,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// Whether the connection may serve another request once the body has ended.
    pub keep_alive: bool,
}

/// Begins a request head; the parts of `target` stand in a row. Headers follow with [`put_header`], and [`end_head`] after
/// the last.
pub fn start_head<'a>(out: &mut BytesMut, method: &Method, target: impl IntoIterator<Item = &'a str>) {
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    for part in target {
        out.put_slice(part.as_bytes());
    }
    out.put_slice(b" HTTP/1.1\r\n");
}

/// Adds one header line, whose value is all `parts` in a row.
pub fn put_header<'a>(out: &mut BytesMut, name: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) {
    out.put_slice(name);
    out.put_slice(b": ");
    for part in parts {
        out.put_slice(part);
    }
    out.put_slice(b"\r\n");
}

/// Ends a request head.
pub fn end_head(out: &mut BytesMut) {
    out.put_slice(b"\r\n");
}

/// Announces a chunk of `length` bytes; `\r\n` follows the chunk itself. A length of zero ends the body.
pub fn put_chunk_line(out: &mut BytesMut, length: usize) {
    // A BytesMut takes whatever it is told.
    let _ = write!(out, "{length:x}\r\n");
}

/// Takes the next response head out of `input`, interim ones included. `None`: more bytes are needed.
///
/// `method` is that of the request: it decides whether there is a body.
pub fn take_head(input: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, Nonsense> {
    if input.is_empty() {
        return Ok(None);
    }
    // Four kilobytes that are not worth clearing for the handful of lines of a usual head.
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, input, &mut lines) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() >= MAX_HEAD => return Err(Nonsense::HeadTooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Nonsense::HeadTooLarge),
        Err(error) => return Err(Nonsense::Head(error.to_string())),
    };
    let malformed = || Nonsense::Head("invalid header".to_owned());
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| malformed())?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| malformed())?;
        headers.append(name, value);
    }
    input.advance(length);
    let framing = framing(method, status, &headers)?;
    let keep_alive = framing != Framing::UntilClose && keeps_alive(version, &headers);
    Ok(Some(ResponseHead { status, headers, framing, keep_alive }))
}

/// How the body of a response is framed (RFC 9112, section 6.3).
fn framing(method: &Method, status: StatusCode, headers: &HeaderMap) -> Result<Framing, Nonsense> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Framing::UntilClose);
    }
    let length = content_length(headers)?;
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING);
    let framing = match (encodings.next(), length) {
        // Whoever says both may mean to have the next proxy see another message than we do.
        (Some(_), Some(_)) => return Err(Nonsense::Length),
        (Some(encoding), None) => {
            let chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            if !chunked || encodings.next().is_some() {
                return Err(Nonsense::Length);
            }
            Framing::Chunked
        }
        (None, Some(0)) => Framing::None,
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    };
    let bodiless = *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || status.is_informational();
    Ok(if bodiless { Framing::None } else { framing })
}

/// The declared length. Two that differ are none.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Nonsense> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let digits = value.as_bytes().trim_ascii();
        let clean = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let this = clean.then(|| value.to_str().ok()?.trim().parse().ok()).flatten().ok_or(Nonsense::Length)?;
        if length.is_some_and(|length| length != this) {
            return Err(Nonsense::Length);
        }
        length = Some(this);
    }
    Ok(length)
}

fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |token: &str| {
        let values = headers.get_all(header::CONNECTION).filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case(token))
    };
    match version {
        Version::HTTP_10 => says("keep-alive") && !says("close"),
        _ => !says("close"),
    }
}

/// Takes a response body apart.
#[derive(Debug)]
pub struct BodyReader {
    framing: Framing,
    chunk: Chunk,
}

/// Where in a chunked body the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// Before the line that announces a chunk.
    Line,
    /// This many bytes of the chunk are still to come.
    Data(u64),
    /// Before the line end that follows a chunk.
    End,
    /// Behind the last chunk, among trailers, which are dropped.
    Trailers,
    Done,
}

/// What the reader found in its input.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// The body is complete.
    End,
    /// More input is needed.
    Hungry,
}

impl BodyReader {
    pub fn new(framing: Framing) -> Self {
        Self { framing, chunk: Chunk::Line }
    }

    /// Takes the next piece out of `input`.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Piece, Nonsense> {
        match &mut self.framing {
            Framing::None | Framing::Length(0) => Ok(Piece::End),
            Framing::Length(left) => Ok(take_data(input, left)),
            Framing::UntilClose if input.is_empty() => Ok(Piece::Hungry),
            Framing::UntilClose => Ok(Piece::Data(input.split().freeze())),
            Framing::Chunked => self.take_chunked(input),
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub fn ends_with_connection(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    fn take_chunked(&mut self, input: &mut BytesMut) -> Result<Piece, Nonsense> {
        loop {
            match &mut self.chunk {
                Chunk::Line => match httparse::parse_chunk_size(input) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        input.advance(length);
                        self.chunk = if size == 0 { Chunk::Trailers } else { Chunk::Data(size) };
                    }
                    Ok(httparse::Status::Partial) if input.len() < MAX_CHUNK_LINE => return Ok(Piece::Hungry),
                    _ => return Err(Nonsense::Chunk),
                },
                Chunk::Data(0) => self.chunk = Chunk::End,
                Chunk::Data(left) => return Ok(take_data(input, left)),
                Chunk::End => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.chunk = Chunk::Line;
                    }
                    Some(_) => return Err(Nonsense::Chunk),
                    None => return Ok(Piece::Hungry),
                },
                Chunk::Trailers => match input.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        let line = input.split_to(end + 1);
                        if line.trim_ascii().is_empty() {
                            self.chunk = Chunk::Done;
                        }
                    }
                    None if input.len() < MAX_HEAD => return Ok(Piece::Hungry),
                    None => return Err(Nonsense::Chunk),
                },
                Chunk::Done => return Ok(Piece::End),
            }
        }
    }
}

fn take_data(input: &mut BytesMut, left: &mut u64) -> Piece {
    if input.is_empty() {
        return Piece::Hungry;
    }
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= here as u64;
    Piece::Data(input.split_to(here).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<ResponseHead>, Nonsense> {
        take_head(&mut BytesMut::from(text), &Method::GET)
    }

    #[track_caller]
    fn framed(text: &str, framing: Framing, keep_alive: bool) {
        let head = head(text).unwrap().unwrap();
        assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{text}");
    }

    #[test]
    fn the_head_says_how_long_the_body_is() {
        framed("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true);
        framed("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Framing::None, true);
        framed("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::Chunked, true);
        framed("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false);
        framed("HTTP/1.0 200 OK\r\n\r\n", Framing::UntilClose, false);
        framed("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), false);
        framed("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n", Framing::Length(5), true);
        framed("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close\r\n\r\n", Framing::Length(5), false);
        framed("HTTP/1.1 204 No Content\r\n\r\n", Framing::None, true);
        framed("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Framing::None, true);
        framed("HTTP/1.1 101 Switching Protocols\r\n\r\n", Framing::UntilClose, false);
        framed("HTTP/1.1 100 Continue\r\n\r\n", Framing::None, true);
    }

    #[test]
    fn a_head_request_has_no_body_whatever_its_length() {
        let mut input = BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        let head = take_head(&mut input, &Method::HEAD).unwrap().unwrap();
        assert_eq!(head.framing, Framing::None);
        assert_eq!(head.headers.get("content-length").unwrap(), "5");
    }

    #[test]
    fn heads_that_are_not_clear_are_nonsense() {
        for text in [
            "garbage\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nna me: x\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(MAX_HEAD));
        assert_eq!(head(&endless).unwrap_err(), Nonsense::HeadTooLarge);
        assert!(head("HTTP/1.1 200 OK\r\nx: y\r\n").unwrap().is_none());
    }

    /// Feeds `wire` in pieces of `step` bytes and returns the body, or what was wrong with it.
    fn read(framing: Framing, wire: &[u8], step: usize) -> Result<(Vec<u8>, bool), Nonsense> {
        let (mut reader, mut input, mut body) = (BodyReader::new(framing), BytesMut::new(), Vec::new());
        let mut pieces = wire.chunks(step);
        loop {
            match reader.take(&mut input)? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End => return Ok((body, true)),
                Piece::Hungry => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => return Ok((body, false)),
                },
            }
        }
    }

    #[test]
    fn bodies_are_read_however_they_are_cut() {
        let chunked = b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n";
        for step in 1..chunked.len() {
            assert_eq!(read(Framing::Chunked, chunked, step).unwrap(), (b"abcde".to_vec(), true));
            assert_eq!(read(Framing::Length(5), b"abcde", step).unwrap(), (b"abcde".to_vec(), true));
            assert_eq!(read(Framing::UntilClose, b"abcde", step).unwrap(), (b"abcde".to_vec(), false));
        }
        assert_eq!(read(Framing::Length(6), b"abcde", 2).unwrap(), (b"abcde".to_vec(), false));
        assert_eq!(read(Framing::Chunked, b"3\r\nabc\r\n0\r\n", 4).unwrap(), (b"abc".to_vec(), false));
    }

    #[test]
    fn malformed_chunks_are_nonsense() {
        for wire in [&b"x\r\nabc"[..], b"3\r\nabcde", b"-1\r\n", b"ffffffffffffffffff\r\n"] {
            assert_eq!(read(Framing::Chunked, wire, 64).unwrap_err(), Nonsense::Chunk, "{wire:?}");
        }
        let endless = [&b"1;"[..], &[b'x'; 2 * MAX_CHUNK_LINE]].concat();
        assert_eq!(read(Framing::Chunked, &endless, 100).unwrap_err(), Nonsense::Chunk);
    }
}
