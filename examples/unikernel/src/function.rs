//! The function itself: begin here to write your own.

use core::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{http::Request, text::Text, work::Work};

const MIB: u64 = 1 << 20;
/// The most that requests may ask for: additions, MiB of a body, microseconds.
const MAX_N: u64 = 100_000_000_000;
const MAX_MIB: u64 = 4096;
const MAX_MICROSECONDS: u64 = 60_000_000;

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
    /// Work, with its duration.
    Work(Work),
    /// A body of so many bytes.
    Content(u64),
    /// A last response; then the machine is switched off.
    End,
    /// No response: the machine crashes.
    Crash,
}

/// Chooses the response by method and path, before the body is read. `memory` is how many bytes there are for work.
pub fn answer(request: &Request<'_>, memory: usize) -> Answer {
    let number = |key, default, most| number(request.query, key, default, most);
    match (request.method, request.path) {
        ("GET" | "HEAD", "/" | "/hello") => Answer::Greet,
        ("POST" | "PUT", "/echo") => Answer::Echo,
        ("GET", "/connect") => match request.query.strip_prefix("addr=").and_then(|text| text.parse().ok()) {
            Some(server) => Answer::Probe(server),
            None => Answer::Say("400 Bad Request", "usage: /connect?addr=1.2.3.4:80\n"),
        },
        ("GET", "/fib") => or_usage(number("n", 1_000_000_000, MAX_N), |n| Answer::Work(Work::fib(n))),
        ("GET", "/alloc") => or_usage(number("mib", 50, MAX_MIB), |mib| match (mib * MIB) as usize {
            bytes if bytes <= memory => Answer::Work(Work::touch(bytes)),
            _ => Answer::Say("404 Not Found", "memory= on the command line leaves less\n"),
        }),
        ("GET", "/burn") => {
            or_usage(number("us", 10_000, MAX_MICROSECONDS), |microseconds| Answer::Work(Work::Burn { microseconds }))
        }
        ("GET", "/static") => or_usage(number("mib", 50, MAX_MIB), |mib| Answer::Content(mib * MIB)),
        ("GET", "/fft" | "/matrix") => Answer::Say("404 Not Found", "this guest has no floating point\n"),
        ("GET", "/read" | "/unzip") => Answer::Say("404 Not Found", "this guest has no disk\n"),
        (_, "/exit") => Answer::End,
        (_, "/crash") => Answer::Crash,
        (_, "/" | "/hello" | "/echo" | "/connect" | "/fib" | "/alloc" | "/burn" | "/static") => {
            Answer::Say("405 Method Not Allowed", "this path has no such method\n")
        }
        _ => Answer::Say("404 Not Found", "there is nothing here\n"),
    }
}

/// Returns the number of a key in a query, or the default if there is no query.
fn number(query: &str, key: &str, default: u64, most: u64) -> Option<u64> {
    let number =
        if query.is_empty() { Some(default) } else { query.strip_prefix(key)?.strip_prefix('=')?.parse().ok() };
    number.filter(|number| *number <= most)
}

fn or_usage(number: Option<u64>, answer: impl Fn(u64) -> Answer) -> Answer {
    number.map_or(Answer::Say("400 Bad Request", "the query is not KEY=NUMBER, or the number is too large\n"), answer)
}

/// Writes the text of [`Answer::Greet`].
pub fn greet(text: &mut Text<128>, address: Ipv4Addr) {
    let _ = writeln!(text, "Hello from the unikernel at {address}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(line: &str) -> Answer {
        answer(&Request::parse(format!("{line} HTTP/1.1\r\n\r\n").as_bytes()).unwrap(), 64 << 20)
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
    fn work_has_the_size_that_was_asked_for() {
        assert_eq!(to("GET /fib?n=10"), Answer::Work(Work::fib(10)));
        assert_eq!(to("GET /fib"), Answer::Work(Work::fib(1_000_000_000)));
        assert_eq!(to("GET /alloc?mib=64"), Answer::Work(Work::touch(64 << 20)));
        assert_eq!(to("GET /burn?us=7"), Answer::Work(Work::Burn { microseconds: 7 }));
        assert_eq!(to("GET /static?mib=2"), Answer::Content(2 << 20));
        for line in ["GET /alloc?mib=65", "GET /read", "GET /fft?n=8"] {
            assert!(matches!(to(line), Answer::Say("404 Not Found", _)), "{line}");
        }
        for line in ["GET /fib?n=x", "GET /fib?m=1", "GET /static?mib=9999"] {
            assert!(matches!(to(line), Answer::Say("400 Bad Request", _)), "{line}");
        }
    }

    #[test]
    fn greeting_has_the_address() {
        let mut text = Text::new();
        greet(&mut text, Ipv4Addr::new(10, 100, 0, 2));
        assert_eq!(text.as_str(), "Hello from the unikernel at 10.100.0.2\n");
    }
}
