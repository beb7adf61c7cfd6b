//! A socket for what no HTTP client would send, and for seeing what came back, byte by byte.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that sends what it is told to send.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed it.
    Closed,
    /// The peer reset it.
    Reset,
    /// It was still open when the wait was over.
    Open,
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The bytes, the empty line included.
    pub raw: Vec<u8>,
    /// The status code.
    pub status: u16,
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Reads a head; `None` while it is incomplete.
    ///
    /// # Panics
    /// When the bytes are not the head of an HTTP answer.
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

    /// Every value of a header, in order, whatever the case of its name.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let same = |pair: &&(String, Vec<u8>)| pair.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_slice()).collect()
    }

    /// The first value of a header, as text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.all(name).first().map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.expect("the daemon accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, received: Vec::new() }
    }

    /// Takes over a connected stream.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// Connects and sends a whole request.
    pub async fn request(to: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut raw = Self::connect(to).await;
        raw.send(bytes).await.expect("the daemon takes the request");
        raw
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the peer does not take them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await?
    }

    /// Tells the peer that nothing more will be sent.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next head; `None` when the connection ends before there is one.
    pub async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(head) = Head::parse(&self.received) {
                self.received.drain(..head.raw.len());
                return Some(head);
            }
            if self.more(PATIENCE).await != End::Open {
                return None;
            }
        }
    }

    /// The next head, which must come.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn expect_head(&mut self) -> Head {
        self.head().await.expect("an answer")
    }

    /// At least `length` further bytes, or fewer when the connection ends first.
    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length && self.more(PATIENCE).await == End::Open {}
        self.received.drain(..length.min(self.received.len())).collect()
    }

    /// Everything to the end of the connection, and which end that was.
    pub async fn rest(&mut self, patience: Duration) -> (Vec<u8>, End) {
        loop {
            let before = self.received.len();
            let end = self.more(patience).await;
            if end != End::Open || self.received.len() == before {
                return (std::mem::take(&mut self.received), end);
            }
        }
    }

    async fn more(&mut self, patience: Duration) -> End {
        match timeout(patience, self.stream.read_buf(&mut self.received)).await {
            Err(_) => {
                assert!(patience < PATIENCE, "nothing came for {patience:?}");
                End::Open
            }
            Ok(Ok(0)) => End::Closed,
            Ok(Ok(_)) => End::Open,
            Ok(Err(_)) => End::Reset,
        }
    }
}
