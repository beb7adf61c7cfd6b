//! HTTP/1.1 from bytes that arrive in pieces: request heads here, bodies in `body.rs`. Strict where two readers could
//! disagree, because that is how requests are smuggled.

mod body;

pub use body::{Body, Piece};

/// Why a request is answered with 400.
pub type Malformed = &'static str;

/// What the server needs to know of a request head.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    /// In capitals, as it came.
    pub method: &'a str,
    /// The target, without what follows the question mark.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: &'a str,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for a word before it sends the body.
    pub expects_continue: bool,
    /// The body that follows.
    pub body: Body,
}

/// Finds the end of a head, however many pieces it comes in.
#[derive(Debug)]
pub struct HeadEnd {
    /// There has been a line that is not empty.
    begun: bool,
    /// There is something on this line, carriage returns aside.
    written: bool,
}

impl HeadEnd {
    /// For a head of which nothing has come yet.
    pub const fn new() -> Self {
        Self { begun: false, written: false }
    }

    /// How many of these bytes belong to the head, and whether it ends there. Empty lines before it count as its part.
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
    /// Understands a whole head.
    ///
    /// # Errors
    /// When it is not one of HTTP/1.1 or 1.0, or leaves in doubt where the request ends.
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

/// A number of digits only: what the standard library parses may have a sign.
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
    fn the_end_of_a_head_is_found_whatever_pieces_it_comes_in() {
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
    fn bare_newlines_end_a_head_too() {
        assert_eq!(HeadEnd::new().find(b"GET / HTTP/1.1\n\nrest"), (16, true));
    }

    #[test]
    fn a_request_is_read_with_its_query_and_body() {
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
    fn connections_stay_open_as_the_version_and_the_client_say() {
        let stays = |head| parse(head).unwrap().keep_alive;
        assert!(stays("GET / HTTP/1.1\r\n\r\n"));
        assert!(!stays("GET / HTTP/1.1\r\nConnection: te, Close\r\n\r\n"));
        assert!(!stays("GET / HTTP/1.0\r\n\r\n"));
        assert!(stays("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
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
    fn what_is_not_a_request_is_refused() {
        for line in ["", "GET /", "GET / HTTP/2", "GET / x HTTP/1.1", " / HTTP/1.1"] {
            assert!(parse(&format!("{line}\r\n\r\n")).is_err(), "{line}");
        }
        assert!(Request::parse(b"GET /\xff HTTP/1.1\r\n\r\n").is_err());
    }
}
