//! What this function does: the place to begin when you make it your own.

use core::{fmt::Write, net::Ipv4Addr, net::SocketAddrV4};

use unikernel::{http::Request, text::Text};

use crate::power;

/// What a request is answered with.
#[derive(Clone, Copy)]
pub enum Answer {
    /// A status, such as `200 OK`, and a text.
    Say(&'static str, &'static str),
    /// Who we are.
    Greet,
    /// The request's own body.
    Echo,
    /// Whether this guest can connect to an address.
    Probe(SocketAddrV4),
    /// A farewell; then the machine is switched off.
    End,
}

/// Decides by method and path. The body, if any, is still to come.
pub fn answer(request: &Request<'_>) -> Answer {
    let reads = matches!(request.method, "GET" | "HEAD");
    match (request.path, request.method) {
        ("/" | "/hello", _) if reads => Answer::Greet,
        ("/echo", "POST" | "PUT") => Answer::Echo,
        ("/connect", "GET") => match request.query.strip_prefix("addr=").and_then(|text| text.parse().ok()) {
            Some(server) => Answer::Probe(server),
            None => Answer::Say("400 Bad Request", "usage: /connect?addr=1.2.3.4:80\n"),
        },
        ("/exit", _) => Answer::End,
        ("/crash", _) => power::triple_fault(),
        ("/" | "/hello" | "/echo" | "/connect", _) => {
            Answer::Say("405 Method Not Allowed", "this path has no such method\n")
        }
        _ => Answer::Say("404 Not Found", "there is nothing here\n"),
    }
}

/// The text of [`Answer::Greet`].
pub fn greet(text: &mut Text<128>, address: Ipv4Addr) {
    let _ = writeln!(text, "Hello from the unikernel at {address}");
}
