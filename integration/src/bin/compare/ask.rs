//! A minimal HTTP client over a socket, so that the measurement shows the other side.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Time limit of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a GET over a new connection and waits for the first byte of the response.
///
/// # Panics
/// When there is no response with status 200.
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

/// Sends `times` requests over one connection, one after the other. `body` is the end of each response.
///
/// # Panics
/// When a response does not end with `body`.
pub fn send_in_sequence(server: SocketAddr, path: &str, times: u64, body: &[u8]) {
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
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).unwrap();
    stream
}
