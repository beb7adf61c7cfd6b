//! Attacks of a function on the daemon and on the host.
//!
//! Every attack that could harm the host stops by itself if the daemon does not stop it.

use std::{
    fs::File,
    io::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::{ForkResult, alarm, fork},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::wire::{Connection, Request};

/// Time after which an endless attack stops.
const LIMIT: Duration = Duration::from_secs(20);
/// Process limit of this user, other tests included. The daemon's own limit is far below.
const MOST_PROCESSES: u64 = 2000;
/// Size limit of a file that grows.
const MOST_MIB: u64 = 256;

/// Responses without end.
pub(crate) enum Endless {
    /// A body in chunks.
    Body,
    /// Header fields.
    Head,
    /// Interim responses.
    Interim,
    /// Trailers after the last chunk.
    Trailers,
}

impl Endless {
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/endless/body" => Some(Endless::Body),
            "/endless/head" => Some(Endless::Head),
            "/endless/interim" => Some(Endless::Interim),
            "/endless/trailers" => Some(Endless::Trailers),
            _ => None,
        }
    }

    /// Sends until the peer closes the connection.
    pub async fn send(self, connection: &mut Connection) -> io::Result<()> {
        const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("2000\r\n{}\r\n", "e".repeat(0x2000));
        let (first, piece) = match self {
            Endless::Body => (CHUNKED.to_owned(), chunk),
            Endless::Head => ("HTTP/1.1 200 OK\r\n".to_owned(), "X-Endless: e\r\n".repeat(100)),
            Endless::Interim => (String::new(), "HTTP/1.1 102 Processing\r\n\r\n".repeat(100)),
            Endless::Trailers => (format!("{CHUNKED}1\r\ne\r\n0\r\n"), "X-Endless: e\r\n".repeat(100)),
        };
        connection.send(first).await?;
        let endless = async {
            loop {
                connection.send(&piece).await?;
            }
        };
        timeout(LIMIT, endless).await.unwrap_or(Ok(()))
    }
}

/// Forks recursively, as fast as possible, for a time.
pub(crate) fn bomb(time: Duration) -> io::Result<()> {
    // SAFETY: the child has one thread and only makes system calls, so no lock of another thread matters.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        return Ok(());
    }
    let end = Instant::now() + time.min(LIMIT);
    let _ = setrlimit(Resource::RLIMIT_NPROC, MOST_PROCESSES, MOST_PROCESSES);
    let _ = setrlimit(Resource::RLIMIT_CPU, 5, 5);
    loop {
        // SAFETY: as above.
        match unsafe { fork() } {
            Ok(_) => {
                // A child inherits no alarm.
                alarm::set(LIMIT.as_secs() as u32);
            }
            Err(_) => pause(),
        }
        if Instant::now() > end {
            // Each process waits until it is killed.
            alarm::set(LIMIT.as_secs() as u32);
            loop {
                pause();
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "in a process without a runtime")]
fn pause() {
    thread::sleep(Duration::from_millis(10));
}

/// Bytes that [`flood`] has printed.
pub(crate) static FLOODED: AtomicU64 = AtomicU64::new(0);

/// Prints as fast as possible, for a time.
pub(crate) fn flood(time: Duration) {
    thread::spawn(move || {
        let end = Instant::now() + time.min(LIMIT);
        let lines = format!("{}\n", "f".repeat(200)).repeat(300);
        while Instant::now() < end && io::stderr().write_all(lines.as_bytes()).is_ok() {
            FLOODED.fetch_add(lines.len() as u64, Ordering::Relaxed);
        }
    });
}

/// Writes a file of a size and syncs it; returns the outcome.
pub(crate) fn fill(path: &str, mib: u64) -> String {
    let block = vec![b'f'; 1 << 20];
    let write = || {
        let mut file = File::create(path)?;
        (0..mib.min(MOST_MIB)).try_for_each(|_| file.write_all(&block))?;
        file.sync_all()
    };
    match write() {
        Ok(()) => "filled".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Returns whether an address accepts a connection.
pub(crate) async fn connect(address: &str) -> &'static str {
    match timeout(Duration::from_secs(2), TcpStream::connect(address)).await {
        Ok(Ok(_)) => "open",
        Ok(Err(_)) => "refused",
        Err(_) => "timeout",
    }
}

/// Sends a GET of `path` for `host` to `addr`, and returns what an HTTP server answers.
pub(crate) async fn ask(request: &Request) -> String {
    let of = |name| request.text(name).unwrap_or_default();
    let ask = async {
        let mut stream = TcpStream::connect(of("addr")).await?;
        let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", of("path"), of("host"));
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    match timeout(Duration::from_secs(2), ask).await {
        Ok(Ok(answer)) if answer.is_empty() => "nothing".to_owned(),
        Ok(Ok(answer)) => answer.lines().next().unwrap_or_default().to_owned(),
        Ok(Err(error)) => format!("{:?}", error.kind()),
        Err(_) => "timeout".to_owned(),
    }
}

/// Begins a response, then sends nothing until the peer closes the connection.
pub(crate) async fn half(connection: &mut Connection, begun: &str) -> io::Result<()> {
    connection.send(begun).await?;
    sleep(LIMIT).await;
    Ok(())
}
