//! The head of a client's request.
//!
//! Strict where another reader of the same bytes might see another message: whoever is behind or before us must agree on
//! where this request ends, or a second one can be hidden in it.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};

use super::{
    Fields, Framing, MAX_LINES,
    fields::{Span, content_length},
};

/// Why a head is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It cannot be parsed.
    #[error("the request head is malformed ({0})")]
    Malformed(httparse::Error),
    /// The target is neither a path nor a URL.
    #[error("the request target is neither a path nor a URL")]
    Target,
    /// It is larger than is taken.
    #[error("the request head is larger than is taken here, or has more than {MAX_LINES} lines")]
    TooLarge,
    /// Its length is none, or said twice.
    #[error("the Content-Length header is not one length")]
    Length,
    /// It says in two ways how long the body is.
    #[error("the request has both Content-Length and Transfer-Encoding")]
    TwoFramings,
    /// HTTP/1.0 knows no chunks.
    #[error("the version of HTTP that the request names has no Transfer-Encoding")]
    OldFraming,
    /// The body is encoded in a way that is not known.
    #[error("the Transfer-Encoding is not chunked")]
    Coding,
    /// It must be there once, and name a host.
    #[error("the Host header is missing, there twice, or no host")]
    Host,
    /// Neither 1.0 nor 1.1.
    #[error("the version of HTTP that the request names is not spoken here")]
    Version,
}

/// A request but for its body. Kept and filled again.
#[derive(Debug, Default)]
pub struct RequestHead {
    method: Span,
    target: Span,
    /// The lines.
    pub fields: Fields,
    /// How the body is framed.
    pub framing: Framing,
    /// Of HTTP/1.0.
    pub is_old: bool,
    /// Whether the client is ready to send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits to be told to send the body.
    pub expects_continue: bool,
    /// Whether the client asks to switch to WebSocket.
    pub websocket: bool,
}

impl RequestHead {
    /// Takes the next head out of `input`, which may have no more than `most` bytes. `false`: more bytes are needed.
    ///
    /// # Errors
    /// Past one, nothing that follows on the connection means anything.
    pub fn take(&mut self, input: &mut BytesMut, most: usize) -> Result<bool, HeadError> {
        // Four kilobytes that are not worth clearing for the handful of lines of a usual head.
        let mut lines = [const { MaybeUninit::uninit() }; MAX_LINES];
        let mut parsed = httparse::Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(input, &mut lines) {
            Ok(httparse::Status::Complete(length)) if length <= most => length,
            Ok(httparse::Status::Partial) if input.len() < most => return Ok(false),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(httparse::Error::Version) if names_version(input) => return Err(HeadError::Version),
            Err(error) => return Err(HeadError::Malformed(error)),
        };
        let head = &input[..length];
        self.method = Span::of(parsed.method.unwrap_or_default().as_bytes(), head);
        self.target = Span::of(parsed.path.unwrap_or_default().as_bytes(), head);
        self.is_old = parsed.version == Some(0);
        self.fields.fill(head, parsed.headers);
        input.advance(length);
        self.understand().map(|()| true)
    }

    /// The method.
    pub fn method(&self) -> &[u8] {
        self.fields.part(self.method)
    }

    /// Path and query as they were sent, also out of a URL.
    pub fn path_and_query(&self) -> &[u8] {
        let target = self.target();
        if target.starts_with(b"/") {
            return target;
        }
        let authority = after_scheme(target).unwrap_or_default();
        let end = authority.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(authority.len());
        &authority[end..]
    }

    /// What is asked for, as it was sent.
    pub fn target(&self) -> &[u8] {
        self.fields.part(self.target)
    }

    /// Whether sending it twice is the same as sending it once (RFC 9110, section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method(), b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE")
    }

    fn understand(&mut self) -> Result<(), HeadError> {
        let (target, fields) = (self.fields.part(self.target), &self.fields);
        let known = target.starts_with(b"/") || target == b"*" || after_scheme(target).is_some();
        // To connect to is a host, never a path: an instance could take what follows for a tunnel. A fragment is never sent.
        if known == (self.method() == b"CONNECT") || target.contains(&b'#') {
            return Err(HeadError::Target);
        }
        self.framing = framing(fields, self.is_old)?;
        check_host(fields, self.is_old)?;
        // `Connection` is there in few requests, and these questions are about nothing else.
        let (close, keep, upgrade) = match fields.get(b"connection") {
            None => (false, false, false),
            Some(_) => {
                let lists = |option| fields.lists(b"connection", option);
                (lists(b"close"), lists(b"keep-alive"), lists(b"upgrade"))
            }
        };
        self.keep_alive = !close && (keep || !self.is_old);
        let has_body = !matches!(self.framing, Framing::None | Framing::Length(0));
        self.websocket =
            upgrade && !self.is_old && !has_body && self.method() == b"GET" && fields.lists(b"upgrade", b"websocket");
        self.expects_continue = has_body && !self.is_old && fields.lists(b"expect", b"100-continue");
        Ok(())
    }
}

/// Whether the first line names any version of HTTP.
fn names_version(input: &[u8]) -> bool {
    let line = input.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.windows(6).any(|part| part == b" HTTP/")
}

/// What follows the scheme of a URL.
fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    let end = target.windows(3).position(|part| part == b"://")?;
    let scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    (end > 0 && target[..end].iter().all(scheme)).then_some(&target[end + 3..])
}

/// How the body of a request is framed (RFC 9112, section 6.3).
fn framing(fields: &Fields, is_old: bool) -> Result<Framing, HeadError> {
    let mut lengths = fields.all(b"content-length");
    let (length, second) = (lengths.next(), lengths.next());
    let mut codings = fields.all(b"transfer-encoding");
    match (codings.next(), length) {
        (None, None) => Ok(Framing::None),
        (None, Some(_)) => match content_length(fields) {
            _ if second.is_some() => Err(HeadError::Length),
            Some(Some(length)) => Ok(Framing::Length(length)),
            _ => Err(HeadError::Length),
        },
        (Some(_), Some(_)) => Err(HeadError::TwoFramings),
        (Some(_), None) if is_old => Err(HeadError::OldFraming),
        (Some(coding), None) => {
            if !coding.eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
                return Err(HeadError::Coding);
            }
            Ok(Framing::Chunked)
        }
    }
}

/// Exactly one, which may be empty (RFC 9112, section 3.2).
fn check_host(fields: &Fields, is_old: bool) -> Result<(), HeadError> {
    let mut hosts = fields.all(b"host");
    match (hosts.next(), hosts.next()) {
        (None, _) if is_old => Ok(()),
        (Some(host), None) if host.iter().all(|byte| is_of_host(*byte)) => Ok(()),
        _ => Err(HeadError::Host),
    }
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'/' | b'<' | b'>' | b'?' | b'@' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::{super::MAX_HEAD, *};

    fn take(text: impl AsRef<[u8]>) -> Result<Option<RequestHead>, HeadError> {
        let (mut head, mut input) = (RequestHead::default(), BytesMut::from(text.as_ref()));
        Ok(head.take(&mut input, MAX_HEAD)?.then_some(head))
    }

    /// A whole request with these lines between its first line and `Host`.
    fn with(first: &str, lines: &str) -> Result<RequestHead, HeadError> {
        take(format!("{first}\r\n{lines}Host: h\r\n\r\n")).map(Option::unwrap)
    }

    #[track_caller]
    fn refused(text: impl AsRef<[u8]>, error: HeadError) {
        let text = text.as_ref();
        assert_eq!(take(text).err(), Some(error), "{}", String::from_utf8_lossy(text));
    }

    const POST: &str = "POST / HTTP/1.1";

    #[test]
    fn the_head_says_how_the_body_is_framed() {
        for (lines, framing) in [
            ("", Framing::None),
            ("Content-Length: 0\r\n", Framing::Length(0)),
            ("content-LENGTH:5\r\n", Framing::Length(5)),
            ("Content-Length:  \t 007 \r\n", Framing::Length(7)),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("Transfer-encoding:CHUNKED \r\n", Framing::Chunked),
        ] {
            assert_eq!(with(POST, lines).unwrap().framing, framing, "{lines:?}");
        }
    }

    #[test]
    fn a_body_has_one_end_or_the_request_is_refused() {
        for (lines, error) in [
            ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", HeadError::TwoFramings),
            ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", HeadError::TwoFramings),
            ("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", HeadError::TwoFramings),
            ("Content-Length: 4\r\nContent-Length: 5\r\n", HeadError::Length),
            ("Content-Length: 4\r\nX: y\r\ncontent-length: 4\r\n", HeadError::Length),
            ("Content-Length: 4, 4\r\n", HeadError::Length),
            ("Content-Length: +4\r\n", HeadError::Length),
            ("Content-Length:\r\n", HeadError::Length),
            ("Content-Length: 18446744073709551616\r\n", HeadError::Length),
            ("Transfer-Encoding: xchunked\r\n", HeadError::Coding),
            ("Transfer-Encoding: gzip, chunked\r\n", HeadError::Coding),
            ("Transfer-Encoding: chunked, identity\r\n", HeadError::Coding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadError::Coding),
            ("Transfer-Encoding: \"chunked\"\r\n", HeadError::Coding),
            ("Transfer-Encoding:\r\n", HeadError::Coding),
        ] {
            assert_eq!(with(POST, lines).err(), Some(error), "{lines:?}");
        }
        assert_eq!(with("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n").err(), Some(HeadError::OldFraming));
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "\x16\x03\x01\x00",
            "GET /\r\n\r\n",
            "GET / FTP/1.1\r\nHost: h\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
            "G\0T / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost\t: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: y\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX Y: z\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n: no name\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        ] {
            assert!(matches!(take(text), Err(HeadError::Malformed(_))), "{text:?}");
        }
        refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HeadError::Version);
        refused("GET / HTTP/9.9\r\nHost: h\r\n\r\n", HeadError::Version);
        for target in ["x", "invoke/f", "/a#b", "://h/x"] {
            refused(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), HeadError::Target);
        }
        for target in ["/invoke/f/", "http://h/invoke/f/", "*"] {
            refused(format!("CONNECT {target} HTTP/1.1\r\nHost: h\r\n\r\n"), HeadError::Target);
        }
    }

    #[test]
    fn there_is_one_host() {
        for host in ["h", "h:81", "[::1]:81", "", "a_b.c,d", "%41"] {
            assert!(take(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap().is_some(), "{host}");
        }
        refused("GET / HTTP/1.1\r\n\r\n", HeadError::Host);
        for version in ["1.0", "1.1"] {
            refused(format!("GET / HTTP/{version}\r\nHost: a\r\nX: y\r\nhost: a\r\n\r\n"), HeadError::Host);
            for host in ["a b", "a/b", "u@h", "a?b", "\"h\"", "a\\b", "\u{e9}"] {
                refused(format!("GET / HTTP/{version}\r\nHost: {host}\r\n\r\n"), HeadError::Host);
            }
        }
        assert!(take("GET / HTTP/1.0\r\n\r\n").unwrap().is_some());
    }

    #[test]
    fn a_head_has_its_limits() {
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(MAX_HEAD));
        refused(&long, HeadError::TooLarge);
        refused(format!("{long}\r\n\r\n"), HeadError::TooLarge);
        let usual = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for (most, taken) in [(usual.len(), Ok(true)), (usual.len() - 1, Err(HeadError::TooLarge))] {
            assert_eq!(RequestHead::default().take(&mut usual.into(), most), taken);
        }
        assert_eq!(RequestHead::default().take(&mut usual[..20].into(), 20), Err(HeadError::TooLarge));
        let many = |count| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count));
        refused(many(MAX_LINES), HeadError::TooLarge);
        assert!(take(many(MAX_LINES - 1)).unwrap().is_some());
    }

    #[test]
    fn connections_are_kept_as_the_client_wants() {
        for (version, connection, kept) in [
            ("1.1", "", true),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.1", "Connection: x\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = with(&format!("GET / HTTP/{version}"), connection).unwrap();
            assert_eq!(head.keep_alive, kept, "{version} {connection}");
        }
    }

    #[test]
    fn only_a_body_can_be_waited_for_and_only_a_get_upgraded() {
        let expects = |first: &str, lines: &str| with(first, lines).unwrap().expects_continue;
        assert!(expects(POST, "Content-Length: 5\r\nExpect: 100-Continue\r\n"));
        assert!(!expects(POST, "Expect: 100-continue\r\n"));
        assert!(!expects(POST, "Content-Length: 0\r\nExpect: 100-continue\r\n"));
        assert!(!expects("POST / HTTP/1.0", "Content-Length: 5\r\nExpect: 100-continue\r\n"));
        let upgrades = |first: &str, lines: &str| with(first, lines).unwrap().websocket;
        let get = "GET / HTTP/1.1";
        assert!(upgrades(get, "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"));
        assert!(!upgrades(get, "Upgrade: websocket\r\n"));
        assert!(!upgrades(get, "Connection: upgrade\r\nUpgrade: h2c\r\n"));
        assert!(!upgrades(get, "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n"));
        assert!(!upgrades(POST, "Connection: upgrade\r\nUpgrade: websocket\r\n"));
        assert!(!upgrades("GET / HTTP/1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n"));
    }

    #[test]
    fn the_target_is_a_path_wherever_it_stands() {
        let path = |target: &str| {
            let head = with(&format!("GET {target} HTTP/1.1"), "").unwrap();
            String::from_utf8(head.path_and_query().to_vec()).unwrap()
        };
        for (target, expected) in [
            ("/a/b%20c?q=1", "/a/b%20c?q=1"),
            ("//x/../y?z=://", "//x/../y?z=://"),
            ("/[x]|^{}\"", "/[x]|^{}\""),
            ("http://h/a?b", "/a?b"),
            ("http://h:1?b", "?b"),
            ("http://h", ""),
            ("*", ""),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
        let connect = with("CONNECT h:443 HTTP/1.1", "").unwrap();
        assert_eq!((connect.method(), connect.path_and_query()), (&b"CONNECT"[..], &b""[..]));
    }

    #[test]
    fn heads_one_behind_the_other_are_told_apart_however_they_are_cut() {
        let one = "\r\nGET /a HTTP/1.1\r\nHost: h\r\nX-Y: z\r\n\r\n";
        let two = "BREW /b?c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let wire = format!("{one}{two}");
        for step in 1..wire.len() {
            let (mut head, mut input, mut seen) = (RequestHead::default(), BytesMut::new(), Vec::new());
            for piece in wire.as_bytes().chunks(step) {
                input.extend_from_slice(piece);
                while !input.is_empty() && head.take(&mut input, MAX_HEAD).unwrap() {
                    let names: Vec<_> = head.fields.iter().map(|(name, _)| name.to_vec()).collect();
                    seen.push((head.method().to_vec(), head.target().to_vec(), head.is_old, names));
                }
            }
            let first = (b"GET".to_vec(), b"/a".to_vec(), false, vec![b"Host".to_vec(), b"X-Y".to_vec()]);
            let second = (b"BREW".to_vec(), b"/b?c".to_vec(), true, vec![b"Connection".to_vec()]);
            assert_eq!(seen, [first, second], "by {step}");
        }
    }
}
