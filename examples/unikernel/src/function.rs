//! The function itself: begin here to write your own.

use core::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{http::Request, text::Text};

/// The response to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// A status, such as `200 OK`, and a text.
    Say(&'static str, &'static str),
    /// A greeting with the guest's address.
    Greet,
    /// The request's own body, streamed.
    Echo,
    /// Whether this guest can connect to an address.
    Probe(SocketAddrV4),
    /// A last response; then the machine is switched off.
    End,
    /// No response: the machine crashes.
    Crash,
}

/// Chooses the response by method and path, before the body is read.
pub fn answer(request: &Request<'_>) -> Answer {
    match (request.method, request.path) {
        ("GET" | "HEAD", "/" | "/hello") => Answer::Greet,
        ("POST" | "PUT", "/echo") => Answer::Echo,
        ("GET", "/connect") => match request.query.strip_prefix("addr=").and_then(|text| text.parse().ok()) {
            Some(server) => Answer::Probe(server),
            None => Answer::Say("400 Bad Request", "usage: /connect?addr=1.2.3.4:80\n"),
        },
        (_, "/exit") => Answer::End,
        (_, "/crash") => Answer::Crash,
        (_, "/" | "/hello" | "/echo" | "/connect") => {
            Answer::Say("405 Method Not Allowed", "this path has no such method\n")
        }
        _ => Answer::Say("404 Not Found", "there is nothing here\n"),
    }
}

/// Writes the text of [`Answer::Greet`].
pub fn greet(text: &mut Text<128>, address: Ipv4Addr) {
    let _ = writeln!(text, "Hello from the unikernel at {address}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(line: &str) -> Answer {
        answer(&Request::parse(format!("{line} HTTP/1.1\r\n\r\n").as_bytes()).unwrap())
    }

    #[test]
    fn path_and_method_choose_the_answer() {
        assert_eq!(to("GET /"), Answer::Greet);
        assert_eq!(to("HEAD /hello?name=x"), Answer::Greet);
        assert_eq!(to("POST /echo"), Answer::Echo);
        assert_eq!(to("GET /connect?addr=10.0.0.1:80"), Answer::Probe("10.0.0.1:80".parse().unwrap()));
        let status = |line| match to(line) {
            Answer::Say(status, _) => status,
            answer => panic!("{line} gives {answer:?}"),
        };
        assert_eq!(status("GET /connect?addr=example.org:80"), "400 Bad Request");
        assert_eq!(status("POST /"), "405 Method Not Allowed");
        assert_eq!(status("GET /hello/"), "404 Not Found");
    }

    #[test]
    fn greeting_has_the_address() {
        let mut text = Text::new();
        greet(&mut text, Ipv4Addr::new(10, 100, 0, 2));
        assert_eq!(text.as_str(), "Hello from the unikernel at 10.100.0.2\n");
    }
}
