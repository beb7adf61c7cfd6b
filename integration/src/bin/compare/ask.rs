//! A minimal HTTP client over a socket, so that the measurement shows the other side.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use hyper::Request;
use integration::{Body, Function, empty};

/// Time limit of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a GET over a new connection and waits for the first byte of the response.
///
/// # Panics
/// When there is no response with status 200.
pub fn first_byte(server: SocketAddr, path: &str) {
    start_of_response(server, path, &head_for(server, path));
}

fn head_for(server: SocketAddr, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")
}

/// Sends a head over a new connection and waits for the first byte of a response with status 200.
fn start_of_response(server: SocketAddr, path: &str, head: &str) -> TcpStream {
    let mut stream = connect(server);
    stream.write_all(head.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap_or_else(|error| panic!("no answer from {server}{path}: {error}"));
    if &start[9..] != b"200" {
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        panic!("{server}{path}: {}{rest}", String::from_utf8_lossy(&start));
    }
    stream
}

/// The request that an instance gets from the daemon for one of [`first_byte`]. Requests by hand have the same headers, since
/// each costs the function some time.
#[derive(Debug, Clone)]
pub struct ForwardedRequest {
    /// The lines of the head behind the first one.
    headers: String,
}

impl ForwardedRequest {
    /// Returns the function that a daemon needs for [`ForwardedRequest::of`].
    pub fn function() -> Function {
        Function::new("forwarded").set("single-use", true)
    }

    /// Asks the function what the daemon sends to it.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn of(daemon: SocketAddr) -> Self {
        let path = "/invoke/forwarded/headers";
        let mut stream = start_of_response(daemon, path, &head_for(daemon, path));
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a head in ASCII");
        let (_, head) = response.split_once("\r\n\r\n").expect("a body");
        let (_, headers) = head.split_once("\r\n").expect("a request line");
        Self { headers: headers.to_owned() }
    }

    /// Sends it to an instance, and waits for the first byte of the response.
    ///
    /// # Panics
    /// When there is no response with status 200.
    pub fn first_byte(&self, instance: SocketAddr, path: &str) {
        start_of_response(instance, path, &format!("GET {path} HTTP/1.1\r\n{}", self.headers));
    }

    /// Returns it for another client.
    ///
    /// # Panics
    /// When it is not valid.
    pub fn request(&self, path: &str) -> Request<Body> {
        let headers = self.headers.lines().filter_map(|line| line.split_once(": "));
        let builder = headers.fold(Request::get(path), |builder, (name, value)| builder.header(name, value));
        builder.body(empty()).expect("a valid request")
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

#[cfg(test)]
mod tests {
    use integration::{Connection, Setup};

    use super::*;

    #[tokio::test]
    async fn requests_by_hand_have_the_headers_of_the_daemon() {
        let daemon = Setup::default().function(ForwardedRequest::function()).function(Function::new("f")).start().await;
        let listen = daemon.listen;
        let forwarded = tokio::task::spawn_blocking(move || ForwardedRequest::of(listen)).await.unwrap();
        for name in ["host: ", "x-request-id: ", "x-forwarded-for: ", "forwarded: "] {
            assert!(forwarded.headers.contains(name), "{}", forwarded.headers);
        }
        let sorted = |head: &str| {
            let mut lines: Vec<_> = head.lines().map(str::to_ascii_lowercase).collect();
            lines.sort();
            lines
        };
        // By another client, so that the instance's connection is its own.
        daemon.get("/invoke/f/pid").await.ok();
        let instance = daemon.instances("f").await[0]["address"].as_str().unwrap().parse().unwrap();
        let mut connection = Connection::open(instance).await.unwrap();
        let seen = connection.send(forwarded.request("/headers")).await.unwrap().ok().text();
        let expected = format!("GET /headers HTTP/1.1\r\n{}", forwarded.headers);
        assert_eq!(sorted(&seen), sorted(&expected));
        let by_hand = tokio::task::spawn_blocking(move || forwarded.first_byte(instance, "/headers"));
        by_hand.await.unwrap();
    }
}
