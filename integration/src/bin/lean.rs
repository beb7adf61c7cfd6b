//! The function that the comparisons run. It does as little as possible, so that the measurement shows the path to it.
//!
//! `lean CALLBACK` listens on `HOST:PORT`, calls back (unless CALLBACK is `none`) and answers `/mib` with 1 MiB and other
//! paths with 12 bytes, after the request body. It has one thread and one epoll. `testfn` is the function for tests.

use std::{
    cell::OnceCell,
    collections::HashMap,
    env,
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Bytes per read, and the longest request head.
const BUFFER: usize = 64 << 10;
const LISTENER: u64 = u64::MAX;

fn main() -> io::Result<()> {
    let host = env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("{host}:{port}"))?;
    if let Some(url) = env::args().nth(1).filter(|url| url != "none") {
        call_back(&url)?;
    }
    serve(&listener)
}

fn call_back(url: &str) -> io::Result<()> {
    let parts = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
    let (authority, path) = parts.ok_or_else(|| invalid("not a callback URL"))?;
    let mut stream = TcpStream::connect(authority)?;
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status.ends_with(b" 200") { Ok(()) } else { Err(invalid("the callback was refused")) }
}

/// Serves connections until the process is ended.
fn serve(listener: &TcpListener) -> io::Result<()> {
    let answers = Answers { short: answer(b"Hello world\n"), long: OnceCell::new() };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    listener.set_nonblocking(true)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut connections: HashMap<RawFd, Connection<'_>> = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            if event.data() == LISTENER {
                let Ok((stream, _)) = listener.accept() else { continue };
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let fd = stream.as_raw_fd();
                epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, fd as u64))?;
                connections.insert(fd, Connection::new(stream));
                continue;
            }
            let fd = event.data() as RawFd;
            let Some(connection) = connections.get_mut(&fd) else { continue };
            let before = connection.wants();
            match connection.proceed(&answers) {
                Ok(()) if connection.wants() == before => {}
                Ok(()) => epoll.modify(&connection.stream, &mut EpollEvent::new(connection.wants(), fd as u64))?,
                // Closing removes it from the epoll.
                Err(_) => drop(connections.remove(&fd)),
            }
        }
    }
}

struct Answers {
    short: Vec<u8>,
    /// Created on first use: its pages would count in the memory of a thousand idle instances.
    long: OnceCell<Vec<u8>>,
}

impl Answers {
    fn get(&self, long: bool) -> &[u8] {
        if long { self.long.get_or_init(|| answer(&vec![b'x'; 1 << 20])) } else { &self.short }
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

struct Connection<'a> {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    state: State<'a>,
}

enum State<'a> {
    Head,
    /// Bytes of the request body that are still to come.
    Body(usize, &'a [u8]),
    /// Bytes that are still to be sent.
    Answer(&'a [u8]),
}

impl<'a> Connection<'a> {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; BUFFER], filled: 0, state: State::Head }
    }

    fn wants(&self) -> EpollFlags {
        match self.state {
            State::Answer(_) => EpollFlags::EPOLLOUT,
            State::Head | State::Body(..) => EpollFlags::EPOLLIN,
        }
    }

    /// Proceeds as far as possible without blocking; an error ends the connection.
    fn proceed(&mut self, answers: &'a Answers) -> io::Result<()> {
        if !matches!(self.state, State::Answer(_)) {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        loop {
            self.state = match self.state {
                State::Head => match head(&self.buffer[..self.filled])? {
                    Some((length, body, long)) => {
                        self.consume(length);
                        State::Body(body, answers.get(long))
                    }
                    None => return Ok(()),
                },
                State::Body(0, answer) => State::Answer(answer),
                State::Body(_, _) if self.filled == 0 => return Ok(()),
                State::Body(left, answer) => {
                    let count = left.min(self.filled);
                    self.consume(count);
                    State::Body(left - count, answer)
                }
                State::Answer([]) => State::Head,
                State::Answer(rest) => match self.stream.write(rest) {
                    Ok(count) => State::Answer(&rest[count..]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                },
            };
        }
    }

    fn consume(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
    }
}

/// Returns the length of the head, the length of the body, and whether the long answer is requested. Returns `None` while
/// the head is incomplete.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, usize, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes).map_err(|_| invalid("not HTTP"))?;
    let httparse::Status::Complete(length) = parsed else {
        return if bytes.len() == BUFFER { Err(invalid("a long head")) } else { Ok(None) };
    };
    let mut body = 0;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default();
            body = text.parse().map_err(|_| invalid("a length that is no number"))?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("only bodies whose length is said are understood"));
        }
    }
    Ok(Some((length, body, request.path == Some("/mib"))))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}
