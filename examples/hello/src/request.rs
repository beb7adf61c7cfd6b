//! Reads HTTP/1.1 requests: the head, and the body as bytes. Strict where two parsers could disagree, because
//! request smuggling relies on that.

use std::io::{self, BufRead, Read, Write};

/// Largest size of a request head, and of the trailers of a chunked body, in bytes.
pub const HEAD_LIMIT: u64 = 16 * 1024;

/// The parts of a request head that this server needs.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub body: Body,
}

/// The framing of a request body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Body {
    /// A number of bytes.
    Length(u64),
    /// Chunks, up to the last one and its trailers.
    Chunked,
}

impl<'a> Request<'a> {
    /// Parses the request line and the header fields, given without line ends.
    pub fn parse(lines: &'a [String]) -> Result<Self, &'static str> {
        let (first, fields) = lines.split_first().ok_or("no request line")?;
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("the request line is not METHOD TARGET VERSION");
        };
        if method.is_empty() || target.is_empty() || !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
            return Err("not a request of HTTP/1.1 or HTTP/1.0");
        }

        let mut request = Request {
            method,
            target,
            keep_alive: version == "HTTP/1.1",
            expects_continue: false,
            body: Body::Length(0),
        };
        let (mut length, mut chunked) = (None, false);
        for field in fields {
            let (name, value) = field.split_once(':').ok_or("a header field without a colon")?;
            let value = value.trim();
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err("a header field with a blank in its name");
            }
            match name.to_ascii_lowercase().as_str() {
                "connection" if has_token(value, "close") => request.keep_alive = false,
                "expect" if value.eq_ignore_ascii_case("100-continue") => request.expects_continue = true,
                "content-length" => {
                    let new = number(value, 10).ok_or("Content-Length is not a number")?;
                    if length.is_some_and(|old| old != new) {
                        return Err("two different lengths");
                    }
                    length = Some(new);
                }
                "transfer-encoding" if !chunked && value.eq_ignore_ascii_case("chunked") => chunked = true,
                "transfer-encoding" => return Err("a transfer encoding other than chunked"),
                _ => {}
            }
        }
        request.body = match (length, chunked) {
            (Some(_), true) => return Err("both Content-Length and Transfer-Encoding"),
            (None, true) => Body::Chunked,
            (length, false) => Body::Length(length.unwrap_or(0)),
        };
        Ok(request)
    }
}

/// Reads the lines of a head; `None` when the client has closed the connection.
pub fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut reader = reader.take(HEAD_LIMIT);
    let mut lines = Vec::new();
    loop {
        match read_line(&mut reader)? {
            Some(line) if !line.is_empty() => lines.push(line),
            // Some clients send an extra empty line after a body; it does not belong to the next head.
            Some(_) if lines.is_empty() => {}
            Some(_) => return Ok(Some(lines)),
            None if lines.is_empty() => return Ok(None),
            None => return Err(malformed("the head is too long or broken off")),
        }
    }
}

/// Reads a request body to its end, and writes it to `sink`.
pub fn copy_body(reader: &mut impl BufRead, body: Body, sink: &mut impl Write) -> io::Result<()> {
    match body {
        Body::Length(length) => copy(reader, length, sink),
        Body::Chunked => loop {
            let line = read_line(&mut reader.take(HEAD_LIMIT))?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = number(size, 16).ok_or_else(|| malformed("a chunk size is not a number"))?;
            if size == 0 {
                let mut trailers = reader.take(HEAD_LIMIT);
                while !read_line(&mut trailers)?.ok_or(io::ErrorKind::UnexpectedEof)?.is_empty() {}
                return Ok(());
            }
            copy(reader, size, sink)?;
            if read_line(&mut reader.take(2))?.is_none_or(|rest| !rest.is_empty()) {
                return Err(malformed("a chunk is longer than it said"));
            }
        },
    }
}

fn copy(reader: &mut impl BufRead, length: u64, sink: &mut impl Write) -> io::Result<()> {
    match io::copy(&mut reader.take(length), sink)? == length {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads a line, without its end; `None` at the end of the stream. The caller bounds its length with `take`.
pub fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\n").ok_or_else(|| malformed("a line is too long or broken off"))?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some(String::from_utf8_lossy(line).into_owned()))
}

/// Parses digits only: `parse` and `from_str_radix` would also accept a sign.
fn number(text: &str, radix: u32) -> Option<u64> {
    text.chars().all(|digit| digit.is_digit(radix)).then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

fn has_token(list: &str, token: &str) -> bool {
    list.split(',').any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Returns an error that is answered with 400.
pub fn malformed(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
