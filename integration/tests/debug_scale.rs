//! `/debug` with 10,000 functions: readers delay no invocation, and pages retain no memory.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures::future::join_all;
use integration::{Daemon, Function, Home, Raw, Setup, empty, eventually, ms, processes, request, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

const FUNCTIONS: usize = 10_000;
const READERS: usize = 8;
/// Readers that do not read.
const SILENT: usize = 24;
const REQUEST: &[u8] = b"GET /debug HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// Requests of one measurement.
const REQUESTS: usize = 400;
/// Limit of one measurement, which has fewer requests then.
const LONGEST: Duration = Duration::from_secs(20);
/// At most.
const MEASUREMENTS: usize = 3;
/// Greatest allowed ratio of the 99th percentiles with and without readers.
const RATIO: f64 = 1.5;
/// Always allowed: readers and a debug build share the processors with the requests.
const NOISE: Duration = ms(15);
/// KiB.
const MIB: u64 = 1 << 10;

/// Starts a daemon with 10,000 functions and a warm instance of `f0`.
async fn large() -> Daemon {
    let home = Home::new();
    for number in 0..FUNCTIONS {
        home.put(&Function::new(&format!("f{number}")).set("keepalive", 3600).set("concurrent-requests", 100));
    }
    let daemon = Setup::at(&home).start().await;
    daemon.get("/invoke/f0/pid").await.ok();
    daemon
}

/// Returns the durations of sequential requests in ascending order.
async fn times(daemon: &Daemon) -> Vec<Duration> {
    let mut connection = daemon.connect().await;
    let (mut times, began) = (Vec::new(), Instant::now());
    while times.len() < REQUESTS && (times.is_empty() || began.elapsed() < LONGEST) {
        let reply = connection.send(request("GET", "/invoke/f0/pid", empty())).await.expect("an answer").ok();
        times.push(reply.took);
        tokio::time::sleep(ms(5)).await;
    }
    times.sort_unstable();
    times
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Concurrent readers of `/debug` in a loop. Their own thread keeps them out of the measured durations.
struct Readers {
    over: Arc<AtomicBool>,
    whole: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Readers {
    fn of(daemon: &Daemon) -> Self {
        let (listen, over, whole) = (daemon.listen, Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (Arc::clone(&over), Arc::clone(&whole));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(join_all((0..READERS).map(|_| read(listen, &until, &count))));
        });
        Self { over, whole, thread }
    }

    /// Waits for a complete page, stops all readers, also within a page, and returns the number of complete pages.
    async fn end(self) -> usize {
        let progress = async || (self.whole.load(Ordering::Relaxed), self.thread.is_finished());
        eventually(Duration::from_secs(120), "a page is read", progress, |(whole, over)| *whole > 0 || *over).await;
        self.over.store(true, Ordering::Relaxed);
        let ended = tokio::task::spawn_blocking(|| self.thread.join().expect("every reader is served"));
        within(Duration::from_secs(60), "the readers", ended).await.expect("they end");
        self.whole.load(Ordering::Relaxed)
    }
}

/// Reads pages until it is `over`. The daemon may refuse a reader with 429 or 503.
async fn read(daemon: SocketAddr, over: &AtomicBool, whole: &AtomicUsize) {
    while !over.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(daemon).await.expect("the daemon accepts connections");
        stream.write_all(REQUEST).await.expect("it takes the request");
        let (mut page, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        while let Ok(read) = timeout(ms(100), stream.read(&mut buffer)).await.unwrap_or(Ok(usize::MAX)) {
            match read {
                0 => break,
                // Timeout.
                usize::MAX => {}
                length => page.extend_from_slice(&buffer[..length]),
            }
            if over.load(Ordering::Relaxed) {
                return;
            }
        }
        let status = page.get(9..12).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        if status == "200" {
            assert!(page.len() > FUNCTIONS * 10, "{} bytes are no page of {FUNCTIONS} functions", page.len());
            whole.fetch_add(1, Ordering::Relaxed);
        } else {
            assert!(matches!(status.as_str(), "429" | "503"), "{status}");
            tokio::time::sleep(ms(50)).await;
        }
    }
}

#[tokio::test]
async fn page_lists_every_function() {
    let daemon = large().await;
    let page = daemon.get("/debug").await.ok();
    let debug = page.json();
    assert_eq!(debug["functions"].as_object().map(serde_json::Map::len), Some(FUNCTIONS));
    assert_eq!(debug["functions"]["f9999"]["state"], "serving");
    println!("{} bytes in {:?}", page.body.len(), page.took);
}

/// Measures requests without and beside readers. Returns whether the readers have delayed them, and what was seen.
async fn delays(daemon: &Daemon) -> (bool, String) {
    let without = times(daemon).await;
    let readers = Readers::of(daemon);
    tokio::time::sleep(ms(500)).await;
    let beside = times(daemon).await;
    let whole = readers.end().await;
    let [p50, p99] = [50, 99].map(|percent| [&without, &beside].map(|times| percentile(times, percent)));
    let longest = [without.last(), beside.last()];
    let seen =
        format!("without and beside {READERS} readers: p50 {p50:?}, p99 {p99:?}, longest {longest:?}; {whole} pages");
    println!("{seen}");
    (p99[1] > p99[0].mul_f64(RATIO).max(NOISE), seen)
}

#[tokio::test]
async fn readers_do_not_delay_invocations_or_retain_memory() {
    let daemon = large().await;
    times(&daemon).await;
    tokio::time::sleep(ms(500)).await;
    let resident = processes::resident_kib(daemon.pid);
    // Other programs delay some measurements. Readers that delay requests do so in each.
    let mut seen = Vec::new();
    let are_delayed = loop {
        let (are_delayed, what) = delays(&daemon).await;
        seen.push(what);
        if !are_delayed || seen.len() == MEASUREMENTS {
            break are_delayed;
        }
    };
    assert!(!are_delayed, "invocations are held up: {seen:#?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (peak, after) = (processes::peak_memory_kib(daemon.pid), processes::resident_kib(daemon.pid));
    let memory = [resident, peak, after].map(|kib| kib / MIB);
    assert!(after <= resident + 20 * MIB, "memory stays: MiB before, at most and after: {memory:?}; {seen:#?}");
}

#[tokio::test]
async fn silent_readers_use_bounded_memory() {
    let daemon = large().await;
    tokio::time::sleep(ms(500)).await;
    let before = processes::resident_kib(daemon.pid);
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(Raw::request(daemon.listen, REQUEST).await);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let times = times(&daemon).await;
    let during = processes::peak_memory_kib(daemon.pid);
    daemon.get("/debug/functions/f1").await.ok();
    let p99 = percentile(&times, 99);
    let seen = format!("{SILENT} silent readers: {before} KiB before, {during} at most; p99 {p99:?}");
    println!("{seen}");
    assert!(during <= before + 40 * MIB, "memory is not bounded: {seen}");
    assert!(p99 < ms(200), "invocations are held up: {seen}");
    drop(silent);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = processes::resident_kib(daemon.pid);
    assert!(after <= before + 20 * MIB, "{after} KiB after: {seen}");
}
