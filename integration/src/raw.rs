//! A socket for arbitrary bytes in both directions.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection without an HTTP client.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed it.
    Closed,
    /// The peer reset it.
    Reset,
    /// It was still open at the time limit.
    Open,
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct Head {
    /// The bytes, including the empty line.
    pub raw: Vec<u8>,
    /// The status code.
    pub status: u16,
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Parses a response head; `None` while it is incomplete.
    ///
    /// # Panics
    /// When the bytes are not an HTTP response head.
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let mut headers = [httparse::EMPTY_HEADER; 2048];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return None,
            Err(error) => panic!("not an answer: {error}: {:?}", String::from_utf8_lossy(bytes)),
        };
        Some(Head {
            raw: bytes[..length].to_vec(),
            status: head.code.unwrap_or_default(),
            headers: head.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect(),
        })
    }

    /// Returns every value of a header, in order, ignoring the case of its name.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let same = |pair: &&(String, Vec<u8>)| pair.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_slice()).collect()
    }

    /// Returns the first value of a header, as text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.all(name).first().map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

impl Raw {
    /// Connects to an address.
    ///
    /// # Panics
    /// When the connection is refused.
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.expect("the daemon accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, received: Vec::new() }
    }

    /// Wraps a connected stream.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// Connects and sends a complete request.
    pub async fn request(to: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut raw = Self::connect(to).await;
        raw.send(bytes).await.expect("the daemon takes the request");
        raw
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the peer does not accept them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        timeout(READ_TIMEOUT, self.stream.write_all(bytes.as_ref())).await?
    }

    /// Closes the sending side.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Returns the next head; `None` if the connection ends first.
    pub async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(head) = Head::parse(&self.received) {
                self.received.drain(..head.raw.len());
                return Some(head);
            }
            if self.more(READ_TIMEOUT).await != End::Open {
                return None;
            }
        }
    }

    /// Returns the next head.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn expect_head(&mut self) -> Head {
        self.head().await.expect("an answer")
    }

    /// Returns at least `length` bytes, or fewer if the connection ends first.
    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length && self.more(READ_TIMEOUT).await == End::Open {}
        self.received.drain(..length.min(self.received.len())).collect()
    }

    /// Returns all bytes until the connection ends or is silent for `limit`, and how it ended.
    pub async fn rest(&mut self, limit: Duration) -> (Vec<u8>, End) {
        loop {
            let before = self.received.len();
            let end = self.more(limit).await;
            if end != End::Open || self.received.len() == before {
                return (std::mem::take(&mut self.received), end);
            }
        }
    }

    async fn more(&mut self, limit: Duration) -> End {
        match timeout(limit, self.stream.read_buf(&mut self.received)).await {
            Err(_) => {
                let received = String::from_utf8_lossy(&self.received);
                assert!(limit < READ_TIMEOUT, "nothing came for {limit:?} after {received:?}");
                End::Open
            }
            Ok(Ok(0)) => End::Closed,
            Ok(Ok(_)) => End::Open,
            Ok(Err(_)) => End::Reset,
        }
    }
}
