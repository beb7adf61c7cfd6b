//! Reads requests from a connection: heads with every byte kept, bodies as they arrive.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A request without its body.
pub(crate) struct Request {
    /// The head as received, including the empty line.
    pub raw: Bytes,
    pub method: String,
    pub target: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Request {
    /// Returns the target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns a number from the query.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.text(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// Returns a value from the query, undecoded.
    pub fn text(&self, name: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Returns the first header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    fn says(&self, name: &str, token: &str) -> bool {
        self.header(name).is_some_and(|value| String::from_utf8_lossy(value).to_ascii_lowercase().contains(token))
    }

    /// Returns the declared length of the body.
    pub fn declared_length(&self) -> Option<u64> {
        std::str::from_utf8(self.header("content-length")?).ok()?.parse().ok()
    }

    /// Returns whether the client waits for `100 Continue`.
    pub fn expects_continue(&self) -> bool {
        self.says("expect", "100-continue")
    }

    /// Returns whether the connection ends after this request.
    pub fn closes(&self) -> bool {
        self.says("connection", "close")
    }
}

/// The unread rest of the current request's body.
enum Rest {
    Nothing,
    Bytes(u64),
    /// Bytes left in the current chunk, including its line end once it was started.
    Chunks {
        left: u64,
        first: bool,
    },
}

/// A client connection.
pub(crate) struct Connection {
    pub stream: TcpStream,
    buffer: BytesMut,
    rest: Rest,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(64 << 10), rest: Rest::Nothing }
    }

    /// Returns the next request; `None` when the client has closed the connection.
    pub async fn request(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some(request) = parse(&self.buffer)? {
                let _ = self.buffer.split_to(request.raw.len());
                self.rest = if request.says("transfer-encoding", "chunked") {
                    Rest::Chunks { left: 0, first: true }
                } else {
                    request.declared_length().map_or(Rest::Nothing, Rest::Bytes)
                };
                return Ok(Some(request));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Returns the next part of the body; `None` at its end.
    pub async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        match self.rest {
            Rest::Nothing | Rest::Bytes(0) => Ok(None),
            Rest::Bytes(left) => {
                let piece = self.at_most(left).await?;
                self.rest = Rest::Bytes(left - piece.len() as u64);
                Ok(Some(piece))
            }
            Rest::Chunks { left: 0, first } => {
                if !first {
                    self.line().await?;
                }
                let line = self.line().await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let left = u64::from_str_radix(size, 16).map_err(|_| invalid("a chunk's size is no number"))?;
                if left > 0 {
                    let piece = self.at_most(left).await?;
                    self.rest = Rest::Chunks { left: left - piece.len() as u64, first: false };
                    return Ok(Some(piece));
                }
                while !self.line().await?.is_empty() {}
                self.rest = Rest::Nothing;
                Ok(None)
            }
            Rest::Chunks { left, .. } => {
                let piece = self.at_most(left).await?;
                self.rest = Rest::Chunks { left: left - piece.len() as u64, first: false };
                Ok(Some(piece))
            }
        }
    }

    /// Reads the body to its end and returns its length.
    pub async fn drain(&mut self) -> io::Result<u64> {
        let mut total = 0;
        while let Some(piece) = self.piece().await? {
            total += piece.len() as u64;
        }
        Ok(total)
    }

    /// Sends bytes unchanged.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Returns the connection and the bytes that were read beyond the request.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer.to_vec())
    }

    async fn at_most(&mut self, most: u64) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.more().await?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(self.buffer.split_to(self.buffer.len().min(most)).freeze())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        self.buffer.reserve(64 << 10);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn parse(buffer: &[u8]) -> io::Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer).map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    Ok(Some(Request {
        raw: Bytes::copy_from_slice(&buffer[..length]),
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        headers: head.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect(),
    }))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
