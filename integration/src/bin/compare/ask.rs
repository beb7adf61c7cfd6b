//! The simplest client: a request over a socket, as plain as it gets, so that what is measured is the other side.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks over a new connection and waits for the first byte of the answer; the connection is closed with the answer.
///
/// # Panics
/// When there is no answer of status 200.
pub fn first_byte(server: SocketAddr, path: &str) {
    let mut stream = connect(server);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap_or_else(|error| panic!("no answer from {server}{path}: {error}"));
    if &start[9..] != b"200" {
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        panic!("{server}{path}: {}{rest}", String::from_utf8_lossy(&start));
    }
}

/// Asks so many times over one connection, each time when the answer to the last has come. `body` is how an answer ends.
///
/// # Panics
/// When an answer does not end like that.
pub fn keep_asking(server: SocketAddr, path: &str, times: u64, body: &[u8]) {
    let mut stream = connect(server);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    let mut buffer = [0; 4096];
    for _ in 0..times {
        stream.write_all(request.as_bytes()).unwrap();
        let mut filled = 0;
        while !buffer[..filled].ends_with(body) {
            let count = stream.read(&mut buffer[filled..]).expect("an answer in time");
            assert!(count > 0, "{server}{path}: {}", String::from_utf8_lossy(&buffer[..filled]));
            filled += count;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..filled]));
    }
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap_or_else(|error| panic!("no connection to {server}: {error}"));
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
