//! Parses HTTP/1.1 incrementally: request heads here, bodies in `body.rs`. Ambiguous requests are refused, to prevent
//! request smuggling.

mod body;

pub use body::{Body, Piece};

/// Why a request gets a 400 response.
pub type Malformed = &'static str;

/// The parsed head of a request.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The target without its query.
    pub path: &'a str,
    /// The query, without the question mark.
    pub query: &'a str,
    /// Whether the connection stays open.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The body.
    pub body: Body,
}

/// Finds the end of a head that arrives in pieces.
#[derive(Debug)]
pub struct HeadEnd {
    /// There was a line that is not empty.
    begun: bool,
    /// The current line is not empty, carriage returns aside.
    written: bool,
}

impl HeadEnd {
    /// Returns the state before the first byte.
    pub const fn new() -> Self {
        Self { begun: false, written: false }
    }

    /// Returns how many of these bytes belong to the head, and whether it ends there. Empty lines before it are part of it.
    pub fn find(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.begun && !self.written => return (index + 1, true),
                b'\n' => self.written = false,
                b'\r' => {}
                _ => (self.begun, self.written) = (true, true),
            }
        }
        (bytes.len(), false)
    }
}

impl Default for HeadEnd {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Request<'a> {
    /// Parses a complete head.
    ///
    /// # Errors
    /// When it is not HTTP/1.1 or 1.0, or the end of the request is ambiguous.
    pub fn parse(head: &'a [u8]) -> Result<Self, Malformed> {
        let head = core::str::from_utf8(head).map_err(|_| "the head is not text")?;
        let mut lines =
            head.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).skip_while(|line| line.is_empty());
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("the request line is not METHOD TARGET VERSION");
        };
        if method.is_empty() || target.is_empty() || !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
            return Err("not a request of HTTP/1.1 or HTTP/1.0");
        }
        let current = version == "HTTP/1.1";

        let (mut keep_alive, mut expects_continue, mut length, mut chunked) = (current, false, None, false);
        for field in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = field.split_once(':').ok_or("a header field without a colon")?;
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_whitespace()) {
                return Err("a header field with a blank in its name");
            }
            let (value, is) = (value.trim_ascii(), |wanted: &str| name.eq_ignore_ascii_case(wanted));
            if is("content-length") {
                let new = number(value, 10).ok_or("Content-Length is not a number")?;
                if length.is_some_and(|old| old != new) {
                    return Err("two different lengths");
                }
                length = Some(new);
            } else if is("transfer-encoding") {
                if chunked || !current || !value.eq_ignore_ascii_case("chunked") {
                    return Err("a transfer encoding other than chunked");
                }
                chunked = true;
            } else if is("connection") {
                let says = |token| value.split(',').any(|word| word.trim_ascii().eq_ignore_ascii_case(token));
                keep_alive = !says("close") && (keep_alive || says("keep-alive"));
            } else if is("expect") {
                expects_continue = current && value.eq_ignore_ascii_case("100-continue");
            }
        }

        let body = match (length, chunked) {
            (Some(_), true) => return Err("both Content-Length and Transfer-Encoding"),
            (None, true) => Body::chunked(),
            (length, false) => Body::of_length(length.unwrap_or(0)),
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Self { method, path, query, keep_alive, expects_continue, body })
    }
}

/// Parses a number of digits only; the standard library accepts a sign.
fn number(text: &str, radix: u32) -> Option<u64> {
    text.bytes().all(|digit| char::from(digit).is_digit(radix)).then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Request<'_>, Malformed> {
        Request::parse(head.as_bytes())
    }

    #[test]
    fn finds_end_of_head_split_at_any_byte() {
        let head = b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next";
        let end = head.len() - "GET /next".len();
        assert_eq!(HeadEnd::new().find(head), (end, true));
        for cut in 1..end {
            let mut finder = HeadEnd::new();
            assert_eq!(finder.find(&head[..cut]), (cut, false));
            assert_eq!(finder.find(&head[cut..]), (end - cut, true));
        }
    }

    #[test]
    fn bare_newlines_end_a_head() {
        assert_eq!(HeadEnd::new().find(b"GET / HTTP/1.1\n\nrest"), (16, true));
    }

    #[test]
    fn parses_request_with_query_and_body() {
        let request = parse("POST /echo?a=b HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 12\r\nExpect: 100-continue\r\n\r\n");
        let expected = Request {
            method: "POST",
            path: "/echo",
            query: "a=b",
            keep_alive: true,
            expects_continue: true,
            body: Body::of_length(12),
        };
        assert_eq!(request, Ok(expected));
    }

    #[test]
    fn version_and_client_decide_about_keep_alive() {
        let stays = |head| parse(head).unwrap().keep_alive;
        assert!(stays("GET / HTTP/1.1\r\n\r\n"));
        assert!(!stays("GET / HTTP/1.1\r\nConnection: te, Close\r\n\r\n"));
        assert!(!stays("GET / HTTP/1.0\r\n\r\n"));
        assert!(stays("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn refuses_ambiguous_requests() {
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: +1\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length : 1\r\n",
            "no colon\r\n",
        ] {
            assert!(parse(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).is_err(), "{fields}");
        }
        assert!(parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn refuses_malformed_requests() {
        for line in ["", "GET /", "GET / HTTP/2", "GET / x HTTP/1.1", " / HTTP/1.1"] {
            assert!(parse(&format!("{line}\r\n\r\n")).is_err(), "{line}");
        }
        assert!(Request::parse(b"GET /\xff HTTP/1.1\r\n\r\n").is_err());
    }
}
