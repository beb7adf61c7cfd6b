//! A socket that notes when the bytes of an exchange pass.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::clock;

/// Times of the exchange in progress; 0: not yet.
#[derive(Debug, Default)]
pub struct Stamps {
    first_write: AtomicU64,
    first_read: AtomicU64,
    last_read: AtomicU64,
}

impl Stamps {
    /// Begins a new exchange.
    pub fn arm(&self) {
        for stamp in [&self.first_write, &self.first_read, &self.last_read] {
            stamp.store(0, Relaxed);
        }
    }

    /// Returns the times of the first write, the first read and the last read.
    pub fn read(&self) -> (u64, u64, u64) {
        (self.first_write.load(Relaxed), self.first_read.load(Relaxed), self.last_read.load(Relaxed))
    }
}

/// A TCP connection with its stamps.
#[derive(Debug)]
pub struct StampedStream {
    stream: TcpStream,
    stamps: Arc<Stamps>,
}

impl StampedStream {
    pub fn new(stream: TcpStream, stamps: Arc<Stamps>) -> Self {
        Self { stream, stamps }
    }

    /// Notes the time before a write, if it is the first one.
    fn note_write(&self) {
        if self.stamps.first_write.load(Relaxed) == 0 {
            self.stamps.first_write.store(clock::now(), Relaxed);
        }
    }
}

impl AsyncRead for StampedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if result.is_ready() && buffer.filled().len() > before {
            let now = clock::now();
            if self.stamps.first_read.load(Relaxed) == 0 {
                self.stamps.first_read.store(now, Relaxed);
            }
            self.stamps.last_read.store(now, Relaxed);
        }
        result
    }
}

impl AsyncWrite for StampedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
