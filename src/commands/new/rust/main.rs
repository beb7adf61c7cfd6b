//! A function: `handle` answers requests; the rest is an HTTP/1.1 server that tells the daemon when it is ready.
//! It needs only the standard library. For more than a start, use a crate for HTTP.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

/// Returns the status and the text of the answer.
fn handle(method: &str, path: &str, body: &[u8]) -> (&'static str, String) {
    println!("{method} {path}"); // `unifaas logs` shows what is printed
    ("200 OK", format!("Hello from {name}: {method} {path}, {} bytes\n", body.len()))
}

fn main() -> io::Result<()> {
    let host = env::var("HOST").unwrap_or_else(|_| "0.0.0.0".to_owned());
    let port = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind((host.as_str(), port))?;
    if let Some(url) = env::args().nth(1).or_else(|| env::var("CALLBACK_URL").ok()) {
        call_back(&url)?;
    }
    for stream in listener.incoming().flatten() {
        thread::spawn(move || serve(&stream));
    }
    Ok(())
}

/// Tells the daemon that this instance is ready.
fn call_back(url: &str) -> io::Result<()> {
    let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap_or((url, ""));
    let mut stream = TcpStream::connect(authority)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Answers the requests of one connection.
fn serve(mut stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    while let Some((method, path, body)) = read(&mut reader) {
        let (status, text) = handle(&method, &path, &body);
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", text.len());
        let shown = if method == "HEAD" { "" } else { &text };
        if stream.write_all((head + shown).as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads a request: method, path and body. A body of unknown length ends the connection.
fn read(reader: &mut impl BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let (method, path) = (method.to_owned(), rest.split(' ').next()?.to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
            Some((name, _)) if name.eq_ignore_ascii_case("transfer-encoding") => return None,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, body))
}
