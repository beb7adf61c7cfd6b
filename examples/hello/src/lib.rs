//! A function for UniFaaS that uses only the standard library: an HTTP/1.1 server that reports to the daemon when it is
//! ready, and answers every request with a greeting.
//!
//! [`run`] is the function: it listens, calls back, then serves. [`run_program`] answers with the output of a program
//! instead, and [`run_handler`] with what a function of Rust returns. `request.rs` reads the requests, for which other functions use a library. `main.rs` is the program; the daemon
//! links the library, too.

mod program;
mod request;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process, thread,
    time::Duration,
};

pub use program::run_program;

use program::Program;
use request::{HEAD_LIMIT, Request, copy_body, malformed, read_head, read_line};

/// Time limit of the callback.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body that is copied behind its head, in bytes.
const MAX_COPIED: usize = 64 << 10;

/// What requests are answered with.
#[derive(Debug, Clone)]
enum Answer {
    /// This text, and the request line.
    Greeting(String),
    /// The output of a program.
    Program(Program),
    /// What a function returns for method and target.
    Handler(Handler),
}

/// Answers a request by its method and target. Bodies of requests are skipped.
pub type Handler = fn(&str, &str) -> Reply;

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Such as `200 OK`.
    pub status: &'static str,
    /// Further header fields, each with its line end.
    pub headers: String,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

impl Reply {
    fn new(status: &'static str, body: Vec<u8>) -> Self {
        Self { status, headers: String::new(), body: Cow::Owned(body) }
    }
}

/// Listens on `HOST:PORT` (from the environment), makes the ready callback and serves until the process is ended.
///
/// `callback` is a URL of the form `http://HOST:PORT/PATH`. The default is `CALLBACK_URL`; without either there is no
/// callback.
///
/// # Errors
/// When `PORT` is no port, it cannot listen there, or the callback fails: the daemon would never use the instance.
pub fn run(callback: Option<String>) -> io::Result<()> {
    let instance = env::var("INSTANCE_ID").unwrap_or_else(|_| "hello".to_owned());
    listen(callback, &Answer::Greeting(format!("Hello from {instance}, pid {}\n", process::id())))
}

/// Serves like [`run`], and answers with what `handler` returns.
///
/// # Errors
/// As [`run`].
pub fn run_handler(callback: Option<String>, handler: Handler) -> io::Result<()> {
    listen(callback, &Answer::Handler(handler))
}

fn listen(callback: Option<String>, answer: &Answer) -> io::Result<()> {
    let (host, port) = match env::var("PORT") {
        Ok(port) => ("127.0.0.1", port.parse().map_err(|_| malformed(format!("PORT={port} is not a port")))?),
        Err(_) => ("0.0.0.0", 8080),
    };
    let host = env::var("HOST").unwrap_or_else(|_| host.to_owned());
    let listener = TcpListener::bind((host.as_str(), port))
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {host} port {port}: {error}")))?;

    // Connections are queued from here on, so requests may follow the callback at once.
    if let Some(url) = callback.or_else(|| env::var("CALLBACK_URL").ok()) {
        call_back(&url).map_err(|error| io::Error::new(error.kind(), format!("ready callback: {error}")))?;
    }

    loop {
        let started = listener.accept().and_then(|(stream, _)| {
            let answer = answer.clone();
            thread::Builder::new().spawn(move || serve(&stream, &answer))
        });
        if started.is_err() {
            // Out of descriptors or threads: connections have to end first, and spinning would not make them.
            thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// Reports to the daemon that this instance is ready.
fn call_back(url: &str) -> io::Result<()> {
    let rest = url.strip_prefix("http://").ok_or_else(|| malformed("the URL must start with http://"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(CALLBACK_TIMEOUT))?;
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes())?;

    let status = read_line(&mut BufReader::new(stream).take(HEAD_LIMIT))?.unwrap_or_default();
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(malformed(format!("the daemon answered {status:?}"))),
    }
}

/// Serves one connection until either side closes it.
fn serve(stream: &TcpStream, answer: &Answer) {
    let outcome = stream.set_nodelay(true).and_then(|()| converse(BufReader::new(stream), stream, answer));
    if let Err(error) = outcome {
        let _ = writeln!(io::stderr(), "connection ended early: {error}");
    }
}

/// Answers requests until the connection ends.
fn converse(mut reader: impl BufRead, mut writer: impl Write, answer: &Answer) -> io::Result<()> {
    loop {
        match exchange(&mut reader, &mut writer, answer) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    let reply = Reply::new("400 Bad Request", format!("{error}\n").into_bytes());
                    respond(&mut writer, &reply, true, false)?;
                }
                return Err(error);
            }
        }
    }
}

/// Reads and answers one request; returns whether the connection stays open.
fn exchange(reader: &mut impl BufRead, writer: &mut impl Write, answer: &Answer) -> io::Result<bool> {
    let Some(lines) = read_head(reader)? else { return Ok(false) };
    let request = Request::parse(&lines).map_err(malformed)?;
    if request.expects_continue {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    // The body is read to its end because the next request starts after it.
    let reply = match answer {
        Answer::Greeting(greeting) => {
            copy_body(reader, request.body, &mut io::sink())?;
            Reply::new("200 OK", format!("{greeting}{} {}\n", request.method, request.target).into_bytes())
        }
        Answer::Program(program) => {
            let (status, body) = program.run(&request, reader)?;
            Reply::new(status, body)
        }
        Answer::Handler(handler) => {
            copy_body(reader, request.body, &mut io::sink())?;
            handler(request.method, request.target)
        }
    };
    respond(writer, &reply, request.method != "HEAD", request.keep_alive)?;
    Ok(request.keep_alive)
}

fn respond(writer: &mut impl Write, reply: &Reply, with_body: bool, keep_alive: bool) -> io::Result<()> {
    let Reply { status, headers, body } = reply;
    let length = body.len();
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut message = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n{headers}\r\n"
    )
    .into_bytes();
    // A small body goes in the same segment, a large one is not copied.
    let (together, apart) = if length <= MAX_COPIED { (&body[..], &[][..]) } else { (&[][..], &body[..]) };
    message.extend_from_slice(if with_body { together } else { &[] });
    writer.write_all(&message)?;
    if with_body { writer.write_all(apart) } else { Ok(()) }
}
