//! Writes responses and echoed bodies.

use core::fmt::Write;

use smoltcp::socket::tcp::Socket;
use unikernel::{http::Body, text::Text};

/// Maximum size of a response that is not an echo, in bytes.
pub const ANSWER: usize = 512;

/// Maximum content of an echo's chunk, and the overhead of a chunk including the last one, in bytes.
const STRETCH: usize = 2048;
const CHUNK: usize = 16;

/// Properties of a request that its response depends on.
#[derive(Clone, Copy)]
pub struct ResponseOptions {
    /// Whether the connection stays open.
    pub keep_alive: bool,
    /// Whether the response has a body: not for HEAD.
    pub with_text: bool,
}

/// The request body is malformed or incomplete.
pub struct Broken;

/// Returns how many bytes can be written at once.
pub fn room(socket: &Socket<'_>) -> usize {
    socket.send_capacity() - socket.send_queue()
}

/// Writes a complete response, of at most [`ANSWER`] bytes: status and text are short.
pub fn respond(socket: &mut Socket<'_>, status: &str, text: &str, options: ResponseOptions) {
    let mut answer = Text::<ANSWER>::new();
    let (connection, length) = (connection(options), text.len());
    let text = if options.with_text { text } else { "" };
    let written = write!(
        answer,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{text}"
    );
    debug_assert!(written.is_ok(), "an answer longer than planned");
    send(socket, answer.as_bytes());
}

/// Writes the head of a body of so many bytes, after so many microseconds of work.
pub fn begin_result(socket: &mut Socket<'_>, length: u64, microseconds: u64, options: ResponseOptions) {
    let mut head = Text::<ANSWER>::new();
    let _ = write!(
        head,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\
         x-bench-us: {microseconds}\r\nConnection: {}\r\n\r\n",
        connection(options)
    );
    send(socket, head.as_bytes());
}

/// Writes the result of work, with its duration.
pub fn result(socket: &mut Socket<'_>, number: u64, microseconds: u64, options: ResponseOptions) {
    let mut text = Text::<32>::new();
    let _ = writeln!(text, "{number}");
    begin_result(socket, text.as_bytes().len() as u64, microseconds, options);
    send(socket, text.as_bytes());
}

/// Writes more of a body of which so many bytes are left. Returns how many are left then.
pub fn fill(socket: &mut Socket<'_>, left: u64) -> u64 {
    const PIECE: [u8; STRETCH] = [b'.'; STRETCH];
    let length = left.min(STRETCH as u64) as usize;
    left - socket.send_slice(&PIECE[..length]).unwrap_or(0) as u64
}

/// Sends `100 Continue`.
pub fn ask_for_body(socket: &mut Socket<'_>) {
    send(socket, b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Writes the head of an echo, with the length of this body or chunked as it is.
pub fn begin_echo(socket: &mut Socket<'_>, body: &Body, options: ResponseOptions) {
    let mut head = Text::<ANSWER>::new();
    let _ = write!(
        head,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: {}\r\n",
        connection(options)
    );
    let _ = match body.length() {
        Some(length) => write!(head, "Content-Length: {length}\r\n\r\n"),
        None => write!(head, "Transfer-Encoding: chunked\r\n\r\n"),
    };
    send(socket, head.as_bytes());
}

/// Reads more of a body, and writes it back for an echo. Returns whether there was progress.
///
/// # Errors
/// When a chunk is malformed, or the client has left before the end.
pub fn transfer(socket: &mut Socket<'_>, body: &mut Body, echo: bool) -> Result<bool, Broken> {
    let most = if echo { room(socket).saturating_sub(CHUNK).min(STRETCH) } else { STRETCH };
    if most == 0 || !socket.can_recv() {
        return if most == 0 || socket.may_recv() { Ok(false) } else { Err(Broken) };
    }
    let mut content = [0; STRETCH];
    let chunked = body.length().is_none();
    let read = socket.recv(|bytes| match body.next(&bytes[..bytes.len().min(most)]) {
        Ok(piece) => {
            content[..piece.content.len()].copy_from_slice(piece.content);
            (piece.read, Ok(piece.content.len()))
        }
        Err(_) => (0, Err(Broken)),
    });
    let content = &content[..read.map_err(|_| Broken)??];
    if echo && !content.is_empty() {
        if chunked {
            let mut size = Text::<CHUNK>::new();
            let _ = write!(size, "{:x}\r\n", content.len());
            send(socket, size.as_bytes());
        }
        send(socket, content);
        if chunked {
            send(socket, b"\r\n");
        }
    }
    if echo && chunked && body.is_done() {
        send(socket, b"0\r\n\r\n");
    }
    Ok(true)
}

fn connection(options: ResponseOptions) -> &'static str {
    if options.keep_alive { "keep-alive" } else { "close" }
}

/// Writes bytes for which there is room. If the connection has ended, its state shows it.
fn send(socket: &mut Socket<'_>, bytes: &[u8]) {
    let _ = socket.send_slice(bytes);
}
