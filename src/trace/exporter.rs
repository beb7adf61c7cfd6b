//! Sends spans to a collector, in batches on a thread of its own. No request waits for it: spans that find the queue full, or
//! that the collector does not take, are lost and counted.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{client::conn::http1, header};
use hyper_util::rt::TokioIo;
use slog::{Logger, warn};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{OtlpEndpoint, Span, otlp};
use crate::log::LogThrottle;

/// Spans that may wait.
const QUEUE_LENGTH: usize = 2048;
/// Spans of a batch, and how long the first one waits for others.
const MAX_BATCH: usize = 512;
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long a collector may take for a batch; at the end of the daemon, for all that is left.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// The queue to the exporting thread.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Sender<Span>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Its end tells the thread to end.
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl Exporter {
    /// Starts the thread.
    pub fn start(endpoint: OtlpEndpoint, log: Logger) -> io::Result<Self> {
        let (queue, spans) = mpsc::channel(QUEUE_LENGTH);
        let (stop, stopped) = oneshot::channel();
        let lost = Arc::<AtomicU64>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let sending = Sending { endpoint, host, lost: lost.clone(), log, throttle: LogThrottle::default() };
        let work = move || {
            runtime.block_on(sending.run(spans, stopped));
            // Does not wait for a name that is being looked up.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("otlp".to_owned()).spawn(work)?;
        Ok(Self { queue, lost, thread: Mutex::new(Some(thread)), stop: Mutex::new(Some(stop)) })
    }

    /// Queues the spans of a request: all, or none if there is no room.
    pub fn queue(&self, spans: Vec<Span>) {
        match self.queue.try_reserve_many(spans.len()) {
            Ok(room) => room.zip(spans).for_each(|(permit, span)| permit.send(span)),
            Err(_) => drop(self.lost.fetch_add(spans.len() as u64, Relaxed)),
        }
    }

    /// Returns how many spans were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Sends what is queued, for a short time at most, and ends the thread.
    pub fn shut_down(&self) {
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It has said so if it panicked.
            let _ = thread.join();
        }
    }
}

struct Sending {
    endpoint: OtlpEndpoint,
    host: String,
    lost: Arc<AtomicU64>,
    log: Logger,
    throttle: LogThrottle,
}

impl Sending {
    async fn run(self, mut spans: mpsc::Receiver<Span>, mut stopped: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = gather(&mut spans, &mut batch) => {}
                _ = &mut stopped => break,
            }
            if batch.is_empty() {
                return;
            }
            let count = batch.len();
            tokio::select! {
                () = self.send(std::mem::take(&mut batch), EXPORT_TIMEOUT) => {}
                _ = &mut stopped => {
                    self.lost.fetch_add(count as u64, Relaxed);
                    break;
                }
            }
        }
        spans.close();
        let deadline = Instant::now() + LAST_EXPORT_TIMEOUT;
        while spans.recv_many(&mut batch, MAX_BATCH).await > 0 || !batch.is_empty() {
            self.send(std::mem::take(&mut batch), deadline.saturating_duration_since(Instant::now())).await;
        }
    }

    async fn send(&self, spans: Vec<Span>, limit: Duration) {
        let count = spans.len();
        let body = otlp::encode(spans, &self.host);
        let error = match timeout(limit, self.post(body)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        self.lost.fetch_add(count as u64, Relaxed);
        if self.throttle.due().is_some() {
            warn!(self.log, "the collector has not taken spans"; "endpoint" => %self.endpoint, "error" => error,
                "lost" => self.lost.load(Relaxed));
        }
    }

    async fn post(&self, body: Vec<u8>) -> io::Result<()> {
        let stream = TcpStream::connect(&self.endpoint.authority).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = hyper::Request::post(&self.endpoint.path)
            .header(header::HOST, &self.endpoint.authority)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, concat!("unifaas/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(io::Error::other)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = answer.status();
            // Read, so that the collector has sent it all.
            let _ = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            if status.is_success() { Ok(()) } else { Err(io::Error::other(format!("it answered {status}"))) }
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The answer may be there.
            _ = connection => answer.await,
        }
    }
}

/// Waits for spans, and for some time for more of them. Without any, no more will come.
async fn gather(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    spans.recv_many(batch, MAX_BATCH).await;
    let deadline = Instant::now() + BATCH_DELAY;
    while (1..MAX_BATCH).contains(&batch.len()) {
        let room = MAX_BATCH - batch.len();
        match timeout_at(deadline, spans.recv_many(batch, room)).await {
            Ok(more) if more > 0 => {}
            _ => return,
        }
    }
}
