//! A function for UniFaaS that uses only the standard library: an HTTP/1.1 server that reports to the daemon when it is
//! ready, and answers every request with a greeting.
//!
//! [`run`] is the function: it listens, calls back, then serves. `request.rs` reads the requests, for which other functions
//! use a library. `main.rs` is the program; the daemon links the library, too.

mod request;
#[cfg(test)]
mod tests;

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process, thread,
    time::Duration,
};

use request::{HEAD_LIMIT, Request, drain, malformed, read_head, read_line};

/// Time limit of the callback.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Listens on `HOST:PORT` (from the environment), makes the ready callback and serves until the process is ended.
///
/// `callback` is a URL of the form `http://HOST:PORT/PATH`. The default is `CALLBACK_URL`; without either there is no
/// callback.
///
/// # Errors
/// When `PORT` is no port, it cannot listen there, or the callback fails: the daemon would never use the instance.
pub fn run(callback: Option<String>) -> io::Result<()> {
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

    let instance = env::var("INSTANCE_ID").unwrap_or_else(|_| "hello".to_owned());
    let greeting = format!("Hello from {instance}, pid {}\n", process::id());
    loop {
        let started = listener.accept().and_then(|(stream, _)| {
            let greeting = greeting.clone();
            thread::Builder::new().spawn(move || serve(&stream, &greeting))
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
fn serve(stream: &TcpStream, greeting: &str) {
    let outcome = stream.set_nodelay(true).and_then(|()| converse(BufReader::new(stream), stream, greeting));
    if let Err(error) = outcome {
        let _ = writeln!(io::stderr(), "connection ended early: {error}");
    }
}

/// Answers requests until the connection ends.
fn converse(mut reader: impl BufRead, mut writer: impl Write, greeting: &str) -> io::Result<()> {
    loop {
        match exchange(&mut reader, &mut writer, greeting) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    respond(&mut writer, "400 Bad Request", &format!("{error}\n"), true, false)?;
                }
                return Err(error);
            }
        }
    }
}

/// Reads and answers one request; returns whether the connection stays open.
fn exchange(reader: &mut impl BufRead, writer: &mut impl Write, greeting: &str) -> io::Result<bool> {
    let Some(lines) = read_head(reader)? else { return Ok(false) };
    let request = Request::parse(&lines).map_err(malformed)?;
    if request.expects_continue {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    // The body is read to its end because the next request starts after it.
    drain(reader, request.body)?;
    let text = format!("{greeting}{} {}\n", request.method, request.target);
    respond(writer, "200 OK", &text, request.method != "HEAD", request.keep_alive)?;
    Ok(request.keep_alive)
}

fn respond(writer: &mut impl Write, status: &str, text: &str, with_body: bool, keep_alive: bool) -> io::Result<()> {
    let length = text.len();
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut message = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n"
    );
    if with_body {
        message.push_str(text);
    }
    writer.write_all(message.as_bytes())
}
