//! One attempt to reach an instance.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use unifaas_actors::sandbox::Route;

use crate::net;

/// The longest time for a connection, and for a response.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest status line that is read.
const MAX_STATUS_LINE: usize = 1024;

/// Why an attempt has not found an instance ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing listens there.
    Refused,
    /// The connection was not answered in time.
    Unanswered,
    /// The connection failed with another error.
    Failed(String),
    /// The response has this status.
    Status(u16),
    /// No status came in time.
    Silent,
    /// The connection was closed without a status.
    Closed,
    /// The response is not HTTP.
    NotHttp,
}

/// Opens a connection.
///
/// # Errors
/// Says why there is none.
pub async fn connect(route: &Route) -> Result<TcpStream, Seen> {
    let opened = time::timeout(ATTEMPT_TIMEOUT, net::connect_first(route)).await;
    let failed = match opened {
        // A connection to a free local port can get that same port and connect to itself.
        Ok(Ok(stream)) if stream.local_addr().ok() == Some(route.address) => return Err(Seen::Refused),
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => return Err(Seen::Unanswered),
    };
    Err(match failed.kind() {
        io::ErrorKind::ConnectionRefused => Seen::Refused,
        _ => Seen::Failed(failed.to_string()),
    })
}

/// Sends a GET and returns the status of the response.
///
/// # Errors
/// Says why there is none.
pub async fn get(mut stream: TcpStream, address: SocketAddr, path: &str) -> Result<u16, Seen> {
    exchange(&mut stream, &request("GET", address, path, "")).await
}

/// Sends a POST with a body of JSON, and returns the status of the response.
///
/// # Errors
/// Says why there is none.
pub async fn post(mut stream: TcpStream, address: SocketAddr, path: &str, body: &str) -> Result<u16, Seen> {
    let length = body.len();
    let fields = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
    exchange(&mut stream, &(request("POST", address, path, &fields) + body)).await
}

fn request(method: &str, address: SocketAddr, path: &str, fields: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: unifaas\r\nAccept: */*\r\n{fields}Connection: close\r\n\r\n"
    )
}

async fn exchange(stream: &mut TcpStream, request: &str) -> Result<u16, Seen> {
    let exchange = async {
        stream.write_all(request.as_bytes()).await.map_err(|_| Seen::Closed)?;
        let mut head = [0; MAX_STATUS_LINE];
        let mut filled = 0;
        loop {
            match stream.read(&mut head[filled..]).await {
                Ok(0) if filled < MAX_STATUS_LINE => return Err(Seen::Closed),
                Ok(0) => return Err(Seen::NotHttp),
                Ok(count) => filled += count,
                Err(_) => return Err(Seen::Closed),
            }
            match status(&head[..filled]) {
                Ok(Some(code)) => return Ok(code),
                Ok(None) => {}
                Err(_) => return Err(Seen::NotHttp),
            }
        }
    };
    time::timeout(ATTEMPT_TIMEOUT, exchange).await.unwrap_or(Err(Seen::Silent))
}

/// Returns the status code once its line is complete. Ignores everything after that line.
fn status(head: &[u8]) -> Result<Option<u16>, httparse::Error> {
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let mut response = httparse::Response::new(&mut []);
    response.parse(&head[..=end])?;
    Ok(response.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_once_its_line_is_complete() {
        assert_eq!(status(b"HTTP/1.1 20"), Ok(None));
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nx"), Ok(Some(200)));
        assert!(status(b"SSH-2.0-OpenSSH\r\n").is_err());
    }
}
