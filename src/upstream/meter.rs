//! The socket below hyper, with TLS between nodes. It counts bytes and keeps what hyper does not tell: whether a request was read by the
//! instance, and what broke the connection.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use nix::libc;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::either::Either;

use super::{
    interim::{InterimQueue, Next, may_be_interim, take_interim},
    remote::NodeStream,
    tcp_info::bytes_acked,
};

/// `tcpi_bytes_acked` counts the SYN as a byte.
const SYN: u64 = 1;
/// A request that every server takes in one read.
const SMALL_REQUEST: u64 = 1024;

/// The counts of one connection. Only its task writes them, except for the two of `begin`. Sent bytes are those of TCP,
/// received ones those of HTTP.
#[derive(Debug)]
pub struct Meter {
    /// Bytes that the kernel took.
    written: AtomicU64,
    received: AtomicU64,
    written_before: AtomicU64,
    received_before: AtomicU64,
    /// The final response to the request has not begun.
    awaits_response: AtomicBool,
    pub interim: InterimQueue,
    /// Sent bytes that the instance's TCP had acknowledged when the connection ended.
    acked_at_end: AtomicU64,
    /// It ended with a FIN, not with a reset.
    has_fin: AtomicBool,
    /// The last read found nothing.
    read_blocked: AtomicBool,
    /// What a write failed with.
    write_error: AtomicI32,
    /// The network does not carry what is sent.
    is_cut: AtomicBool,
}

impl Meter {
    fn new() -> Self {
        Self {
            written: AtomicU64::new(0),
            received: AtomicU64::new(0),
            written_before: AtomicU64::new(0),
            received_before: AtomicU64::new(0),
            awaits_response: AtomicBool::new(false),
            interim: InterimQueue::default(),
            acked_at_end: AtomicU64::new(u64::MAX),
            has_fin: AtomicBool::new(false),
            read_blocked: AtomicBool::new(false),
            write_error: AtomicI32::new(0),
            is_cut: AtomicBool::new(false),
        }
    }

    /// Marks where the next request begins.
    pub fn begin(&self) {
        self.written_before.store(self.written.load(Relaxed), Relaxed);
        self.received_before.store(self.received.load(Relaxed), Relaxed);
        self.awaits_response.store(true, Relaxed);
    }

    /// Whether what comes may be an interim response. Before the request was sent it is none.
    pub fn awaits_response(&self) -> bool {
        self.awaits_response.load(Relaxed) && self.written.load(Relaxed) != self.written_before.load(Relaxed)
    }

    /// Returns whether any byte of the response has come.
    pub fn is_heard(&self) -> bool {
        self.received.load(Relaxed) != self.received_before.load(Relaxed)
    }

    /// Returns whether the instance read nothing of the request.
    ///
    /// That is certain if the kernel never took a byte, or if the instance's FIN acknowledged none: a FIN acknowledges
    /// everything that its sender had received. A reset discards the acknowledgement of what was read shortly before. But a
    /// server that closes gets a reset sent only while bytes are unread, and a server that reads at all reads a small request
    /// whole.
    pub fn is_unread(&self) -> bool {
        let before = self.written_before.load(Relaxed);
        let request = self.written.load(Relaxed) - before;
        let is_unacked = self.acked_at_end.load(Relaxed) <= before;
        request == 0 || (is_unacked && (self.has_fin.load(Relaxed) || request <= SMALL_REQUEST))
    }

    /// Returns the bytes received so far if the connection waits for more.
    pub fn silent_at(&self) -> Option<u64> {
        self.read_blocked.load(Relaxed).then(|| self.received.load(Relaxed))
    }

    /// Notes that the network does not carry what is sent.
    pub fn set_cut(&self) {
        self.is_cut.store(true, Relaxed);
    }

    /// Returns whether the network did not carry what was sent.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    /// Returns whether a write has failed.
    pub fn is_write_broken(&self) -> bool {
        self.write_error.load(Relaxed) != 0
    }

    /// Returns what a write failed with.
    pub fn write_error(&self) -> Option<io::Error> {
        self.is_write_broken().then(|| io::Error::from_raw_os_error(self.write_error.load(Relaxed)))
    }
}

/// Reads of up to 128 KiB in one turn of a connection's task.
const MAX_READS_PER_POLL: u32 = 2;
/// Interim responses that are parsed in one turn.
const MAX_INTERIM_PER_POLL: usize = 32;

/// A TCP connection with a [`Meter`] of what is sent on it.
#[derive(Debug)]
pub struct MeteredTcp {
    pub tcp: TcpStream,
    pub meter: Arc<Meter>,
}

/// A connection with a [`Meter`].
#[derive(Debug)]
pub struct MeteredStream {
    stream: NodeStream<MeteredTcp>,
    /// Reads in a row that found something.
    reads: u32,
    /// The beginning of an interim response, or what was read behind one.
    held: BytesMut,
    meter: Arc<Meter>,
}

impl MeteredTcp {
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, meter: Arc::new(Meter::new()) }
    }

    /// Counts a write. A failed one seems to succeed, as the response may be there already and hyper would not read it.
    fn count(&self, result: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        let meter = &self.meter;
        Poll::Ready(Ok(match ready!(result) {
            Ok(written) => {
                meter.written.store(meter.written.load(Relaxed) + written as u64, Relaxed);
                written
            }
            Err(error) => {
                meter.write_error.store(error.raw_os_error().unwrap_or(libc::EPIPE), Relaxed);
                length
            }
        }))
    }
}

impl MeteredStream {
    pub fn new(stream: NodeStream<MeteredTcp>) -> Self {
        let meter = socket(&stream).meter.clone();
        Self { stream, reads: 0, held: BytesMut::new(), meter }
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.reads >= MAX_READS_PER_POLL {
            // hyper would read on before the worker's other connections have a turn.
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.reads = if result.is_pending() { 0 } else { self.reads + 1 };
        let meter = &self.meter;
        meter.read_blocked.store(result.is_pending(), Relaxed);
        let result = ready!(result);
        match buf.filled().len() - before {
            0 => {
                let acked = bytes_acked(&socket(&self.stream).tcp).map_or(u64::MAX, |acked| acked.saturating_sub(SYN));
                meter.acked_at_end.store(acked, Relaxed);
                meter.has_fin.store(result.is_ok(), Relaxed);
            }
            length => meter.received.store(meter.received.load(Relaxed) + length as u64, Relaxed),
        }
        Poll::Ready(result)
    }

    /// Queues interim responses, until there is something else.
    #[cold]
    fn poll_behind_interim(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        for _ in 0..MAX_INTERIM_PER_POLL {
            match take_interim(&mut self.held) {
                Next::Interim(status, headers) => self.meter.interim.push(status, headers),
                Next::Incomplete => {
                    let before = buf.filled().len();
                    ready!(self.poll_socket(cx, buf))?;
                    let is_end = buf.filled().len() == before;
                    self.held.extend_from_slice(&buf.filled()[before..]);
                    buf.set_filled(before);
                    if is_end {
                        return self.hand_on(buf);
                    }
                }
                Next::Final => return self.hand_on(buf),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.meter.awaits_response.store(false, Relaxed);
        let length = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// Returns the socket of a connection.
fn socket(stream: &NodeStream<MeteredTcp>) -> &MeteredTcp {
    match stream {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}

impl AsyncRead for MeteredTcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let awaits_response = this.meter.awaits_response();
        if this.held.is_empty() {
            let before = buf.filled().len();
            ready!(this.poll_socket(cx, buf))?;
            if !awaits_response {
                return Poll::Ready(Ok(()));
            }
            if !may_be_interim(&buf.filled()[before..]) {
                this.meter.awaits_response.store(false, Relaxed);
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(&buf.filled()[before..]);
            buf.set_filled(before);
        }
        if awaits_response {
            return this.poll_behind_interim(cx, buf);
        }
        this.hand_on(buf)
    }
}

impl AsyncWrite for MeteredTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.meter.is_write_broken() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.count(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = || bufs.iter().map(|buf| buf.len()).sum();
        if self.meter.is_write_broken() {
            return Poll::Ready(Ok(length()));
        }
        let result = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.count(result, length())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
