//! Writing to a client: answers, and bodies on their way back.

use core::fmt::Write;

use smoltcp::socket::tcp::Socket;
use unikernel::{http::Body, text::Text};

/// Room that an answer of any kind but an echo takes at most, in bytes.
pub const ANSWER: usize = 512;

/// Most content of an echo at a time, and what a chunk takes beyond its content, the last chunk included.
const STRETCH: usize = 2048;
const CHUNK: usize = 16;

/// What has to be remembered of a request in order to answer it.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// Whether the text itself is wanted: not for HEAD.
    pub with_text: bool,
}

/// A body that cannot be read to its end.
pub struct Broken;

/// Bytes that can be written at once.
pub fn room(socket: &Socket<'_>) -> usize {
    socket.send_capacity() - socket.send_queue()
}

/// Writes a whole answer; takes no more than [`ANSWER`] bytes if status and text are as short as they are here.
pub fn respond(socket: &mut Socket<'_>, status: &str, text: &str, manner: Manner) {
    let mut answer = Text::<ANSWER>::new();
    let (connection, length) = (connection(manner), text.len());
    let text = if manner.with_text { text } else { "" };
    let written = write!(
        answer,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{text}"
    );
    debug_assert!(written.is_ok(), "an answer longer than planned");
    send(socket, answer.as_bytes());
}

/// Tells a client that waits for it to go on with the body.
pub fn ask_for_body(socket: &mut Socket<'_>) {
    send(socket, b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Writes the head of an echo of this body: as long as it, or in chunks if it is.
pub fn begin_echo(socket: &mut Socket<'_>, body: &Body, manner: Manner) {
    let mut head = Text::<ANSWER>::new();
    let _ = write!(
        head,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: {}\r\n",
        connection(manner)
    );
    let _ = match body.length() {
        Some(length) => write!(head, "Content-Length: {length}\r\n\r\n"),
        None => write!(head, "Transfer-Encoding: chunked\r\n\r\n"),
    };
    send(socket, head.as_bytes());
}

/// Reads on in a body and, if it is to be echoed, writes what was read; whether anything could be done.
///
/// # Errors
/// When its chunks are wrong, or the client went before its end.
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

fn connection(manner: Manner) -> &'static str {
    if manner.keep_alive { "keep-alive" } else { "close" }
}

/// Room has been seen to before; if the connection is gone instead, its state says so.
fn send(socket: &mut Socket<'_>, bytes: &[u8]) {
    let _ = socket.send_slice(bytes);
}
