//! What a client's connection is below HTTP: TCP, or TLS over TCP; how it begins, and how it is closed gently.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::tls::Tls;

/// Bytes of an HTTP/2 connection preface that tell it from a request of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2";
/// Before the rest of a preface is looked for again.
const PREFACE_INTERVAL: Duration = Duration::from_millis(10);
/// How long a connection that was answered early may be silent while it is read from.
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// TCP, or TLS over TCP.
pub type Transport = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Returns the TCP socket below.
pub fn socket(transport: &Transport) -> &TcpStream {
    match transport {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}

/// Finds out which protocol the client speaks; whether it is HTTP/2.
pub async fn open(tcp: TcpStream, tls: Option<&Tls>) -> io::Result<(Transport, bool)> {
    if let Some(tls) = tls {
        let stream = tls.accept(tcp).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return Ok((Either::Right(Box::new(stream)), is_http2));
    }
    let mut bytes = [0; PREFACE.len()];
    loop {
        match tcp.peek(&mut bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if bytes[..read] != PREFACE[..read] => return Ok((Either::Left(tcp), false)),
            read if read == PREFACE.len() => return Ok((Either::Left(tcp), true)),
            // What has come stays readable, so there is nothing to be woken by.
            _ => sleep(PREFACE_INTERVAL).await,
        }
    }
}

/// Closes a connection so that its last response is not lost: a reset, which unread bytes cause, may overtake it.
pub async fn linger(mut transport: Transport, last: &[u8]) -> io::Result<()> {
    transport.write_all(last).await?;
    transport.shutdown().await?;
    let mut rest = vec![0; 64 * 1024];
    while timeout(LINGER_SILENCE, transport.read(&mut rest)).await.map_err(|_| io::ErrorKind::TimedOut)?? > 0 {}
    Ok(())
}
