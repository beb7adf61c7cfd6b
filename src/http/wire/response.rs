//! The head of an instance's response.
//!
//! A general-purpose client costs more per request than all the rest of the proxy, and hides what a proxy must know:
//! whether a response byte has come, whether a body ended or broke off.

use std::mem::MaybeUninit;

use actix_http::StatusCode;
use bytes::{Buf, BytesMut};

use super::{
    Fields, Framing, MAX_HEAD, MAX_LINES, Malformed,
    fields::{Span, content_length},
};

/// Why an instance's answer is no HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// The head cannot be parsed.
    #[error("its response head is malformed ({0})")]
    Head(httparse::Error),
    /// The status is none.
    #[error("its response has no status")]
    Status,
    /// A `101` that was not asked for.
    #[error("its response switches to another protocol, which nobody asked for")]
    UnaskedUpgrade,
    /// The head is larger than is taken.
    #[error("its response head is larger than {MAX_HEAD} bytes or {MAX_LINES} lines")]
    HeadTooLarge,
    /// The head says in two ways how long the body is, or in none that is known.
    #[error("its response has no clear length")]
    Length,
    /// A chunk is malformed.
    #[error(transparent)]
    Chunk(#[from] Malformed),
}

/// A response but for its body. Kept and filled again.
#[derive(Debug, Default)]
pub struct ResponseHead {
    pub status: StatusCode,
    reason: Span,
    /// The lines.
    pub fields: Fields,
    pub framing: Framing,
    /// What `Content-Length` says, whether or not there is a body.
    pub length: Option<u64>,
    /// Whether the connection may serve another request once the body has ended.
    pub keep_alive: bool,
}

impl ResponseHead {
    /// Takes the next head out of `input`, interim ones included. `false`: more bytes are needed.
    ///
    /// `to_head`: the request was a `HEAD`, so there is no body whatever its length.
    pub fn take(&mut self, input: &mut BytesMut, to_head: bool) -> Result<bool, Nonsense> {
        // Four kilobytes that are not worth clearing for the handful of lines of a usual head.
        let mut lines = [const { MaybeUninit::uninit() }; MAX_LINES];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut parsed, input, &mut lines) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(false),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Nonsense::HeadTooLarge),
            Err(error) => return Err(Nonsense::Head(error)),
        };
        let head = &input[..length];
        self.status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| Nonsense::Status)?;
        self.reason = Span::of(parsed.reason.unwrap_or_default().as_bytes(), head);
        let is_old = parsed.version == Some(0);
        self.fields.fill(head, parsed.headers);
        input.advance(length);
        self.length = content_length(&self.fields).ok_or(Nonsense::Length)?;
        self.framing = self.framing(to_head)?;
        self.keep_alive = self.framing != Framing::UntilClose && self.keeps_alive(is_old);
        Ok(true)
    }

    /// What is said behind the status.
    pub fn reason(&self) -> &[u8] {
        self.fields.part(self.reason)
    }

    /// Whether such a response has no body by its status alone.
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || self.status.is_informational()
    }

    /// How the body is framed (RFC 9112, section 6.3).
    fn framing(&self, to_head: bool) -> Result<Framing, Nonsense> {
        if self.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Framing::UntilClose);
        }
        let mut codings = self.fields.all(b"transfer-encoding");
        let framing = match (codings.next(), self.length) {
            // Whoever says both may mean to have the next proxy see another message than we do.
            (Some(_), Some(_)) => return Err(Nonsense::Length),
            (Some(coding), None) => {
                if !coding.trim_ascii().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
                    return Err(Nonsense::Length);
                }
                Framing::Chunked
            }
            (None, Some(0)) => Framing::None,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::UntilClose,
        };
        Ok(if to_head || self.is_bodiless() { Framing::None } else { framing })
    }

    fn keeps_alive(&self, is_old: bool) -> bool {
        let says = |option| self.fields.lists(b"connection", option);
        !says(b"close") && (!is_old || says(b"keep-alive"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: impl AsRef<[u8]>) -> Result<Option<ResponseHead>, Nonsense> {
        let mut head = ResponseHead::default();
        Ok(head.take(&mut BytesMut::from(text.as_ref()), false)?.then_some(head))
    }

    #[track_caller]
    fn framed(text: &str, framing: Framing, keep_alive: bool) {
        let head = head(text).unwrap().unwrap();
        assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{text}");
    }

    #[test]
    fn the_head_says_how_long_the_body_is() {
        framed("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true);
        framed("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true);
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
        let (mut head, mut input) = (ResponseHead::default(), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".into());
        assert!(head.take(&mut input, true).unwrap());
        assert_eq!((head.framing, head.length), (Framing::None, Some(5)));
    }

    #[test]
    fn the_reason_is_kept_as_it_was_said() {
        for (line, reason) in [
            ("HTTP/1.1 200 OK", "OK"),
            ("HTTP/1.1 418 I'm a \t teapot", "I'm a \t teapot"),
            ("HTTP/1.1 599", ""),
            ("HTTP/1.1 599 ", ""),
            ("HTTP/1.1 200 \u{e9}", ""),
        ] {
            let head = head(format!("{line}\r\nx: y\r\n\r\n")).unwrap().unwrap();
            assert_eq!(String::from_utf8_lossy(head.reason()), reason);
            assert_eq!(head.fields.get(b"x"), Some(&b"y"[..]));
        }
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
            "HTTP/1.1 099 OK\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(MAX_HEAD));
        assert_eq!(head(&endless).unwrap_err(), Nonsense::HeadTooLarge);
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_LINES + 1));
        assert_eq!(head(&many).unwrap_err(), Nonsense::HeadTooLarge);
        assert!(head("HTTP/1.1 200 OK\r\nx: y\r\n").unwrap().is_none());
    }
}
