//! What watchers cost the requests of others: 32 open dashboards, and 100 followers of an endless printer.
//!
//! Windows with and without watchers alternate, so that both see the same machine. A paced client leaves most of the
//! processors idle: clients, watchers and the daemon share them. What two halves of the windows without watchers differ by
//! is noise, and allowed. `UNIFAAS_ROUNDS` and `UNIFAAS_RATE` change a measurement.

use std::{
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures::future::join_all;
use integration::{Daemon, Function, Home, Setup, eventually, median, ms, within};
use nix::unistd::{Uid, geteuid, setfsuid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

/// Functions of the registry, all of which dashboards show.
const FUNCTIONS: usize = 1000;
/// Connections of the client, which are spread over the workers.
const CONNECTIONS: usize = 8;
/// Requests per second, and of a window.
const RATE: usize = 400;
const REQUESTS: usize = 600;
/// Pairs of windows with and without watchers.
const ROUNDS: usize = 8;
/// Measurements, of which one has to be within the limit: other programs share the processors, too.
const ATTEMPTS: usize = 3;
/// Greatest allowed ratio of the medians of the windows' 99th percentiles, beyond noise.
const RATIO: f64 = 1.10;
/// Streams that the daemon admits: in all, and of one user.
const STREAMS: usize = 32;
const STREAMS_OF_USER: usize = 8;
/// The first of the users that watch. No function runs as one of them.
const FIRST_USER: u32 = 4_000_000;
/// Between two windows, so that one has no effect on the next.
const PAUSE: Duration = ms(300);
const REQUEST: &[u8] = b"GET /invoke/f0/pid HTTP/1.1\r\nHost: localhost\r\n\r\n";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

fn number(variable: &str, default: usize) -> usize {
    env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Watchers of a page, on a thread of their own.
struct Watchers {
    over: watch::Sender<bool>,
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicUsize,
    refused: AtomicUsize,
    bytes: AtomicUsize,
}

impl Watchers {
    /// Opens `count` streams of a page, and waits until each is admitted or refused.
    async fn of(daemon: &Daemon, path: &'static str, count: usize) -> Self {
        let (to, counts, (over, until)) = (daemon.listen, Arc::<Counts>::default(), watch::channel(false));
        let shared = counts.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let watchers = (0..count).map(|number| watch_page(to, path, number, &shared, until.clone()));
            runtime.block_on(join_all(watchers));
        });
        let opened = async || (counts.admitted.load(Relaxed), counts.refused.load(Relaxed));
        let all = |(admitted, refused): &(usize, usize)| admitted + refused == count;
        let (admitted, _) = eventually(Duration::from_secs(60), "the streams are open", opened, all).await;
        assert_eq!(admitted, STREAMS.min(count));
        Self { over, counts, thread }
    }

    /// Ends them. Returns how many bytes they have got.
    async fn end(self) -> usize {
        let _ = self.over.send(true);
        tokio::task::spawn_blocking(|| self.thread.join().expect("the watchers")).await.unwrap();
        self.counts.bytes.load(Relaxed)
    }
}

/// Reads a stream until it is `over`, as a user of its own number.
async fn watch_page(to: SocketAddr, path: &str, number: usize, counts: &Counts, mut over: watch::Receiver<bool>) {
    // The kernel takes the thread's for the owner of the socket. Nothing is awaited meanwhile.
    let socket = {
        let own = setfsuid(Uid::from_raw(FIRST_USER + (number / STREAMS_OF_USER) as u32));
        let socket = std::net::TcpStream::connect(to).unwrap();
        setfsuid(own);
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let mut stream = TcpStream::from_std(socket).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut buffer = vec![0; 256 << 10];
    let length = stream.read(&mut buffer).await.unwrap();
    match &buffer[..length.min(12)] {
        b"HTTP/1.1 200" => {
            counts.admitted.fetch_add(1, Relaxed);
        }
        b"HTTP/1.1 503" => {
            counts.refused.fetch_add(1, Relaxed);
            return;
        }
        other => panic!("{:?}", String::from_utf8_lossy(other)),
    }
    loop {
        tokio::select! {
            _ = over.changed() => return,
            read = stream.read(&mut buffer) => match read {
                Ok(bytes @ 1..) => {
                    counts.bytes.fetch_add(bytes, Relaxed);
                }
                end => panic!("the stream has ended: {end:?}"),
            }
        }
    }
}

/// A paced client. It does little itself, so that the times are those of the daemon and the function.
struct Client {
    connections: Vec<TcpStream>,
    period: Duration,
}

impl Client {
    async fn of(daemon: &Daemon) -> Self {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = TcpStream::connect(daemon.listen).await.unwrap();
            connection.set_nodelay(true).unwrap();
            connections.push(connection);
        }
        Self { connections, period: Duration::from_secs(1) / u32::try_from(number("UNIFAAS_RATE", RATE)).unwrap() }
    }

    /// Returns how long the requests of a window took, in ascending order.
    async fn window(&mut self) -> Vec<Duration> {
        let mut clock = interval(self.period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut times = Vec::new();
        for number in 0..REQUESTS {
            clock.tick().await;
            let connection = &mut self.connections[number % CONNECTIONS];
            let since = Instant::now();
            within(ANSWER_TIMEOUT, "an answer", ask(connection)).await;
            times.push(since.elapsed());
        }
        times.sort_unstable();
        times
    }
}

/// Sends a request and reads its answer, which ends with the process id of the function.
async fn ask(connection: &mut TcpStream) {
    connection.write_all(REQUEST).await.unwrap();
    let (mut answer, mut filled) = ([0; 4096], 0);
    loop {
        let bytes = connection.read(&mut answer[filled..]).await.unwrap();
        assert!(bytes > 0, "the connection ended");
        filled += bytes;
        let text = std::str::from_utf8(&answer[..filled]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        if body.len() == length.and_then(|length| length.parse::<usize>().ok()).expect("a length") {
            return;
        }
    }
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Windows of one kind.
#[derive(Default)]
struct Windows(Vec<Vec<Duration>>);

impl Windows {
    /// Returns the median of the windows' percentiles.
    fn percentile(&self, percent: usize) -> Duration {
        median(self.0.iter().map(|window| percentile(window, percent)).collect())
    }

    /// Returns by how much two halves of the windows differ, as a factor of at least 1.
    fn noise(&self, percent: usize) -> f64 {
        let half = |odd: bool| {
            let windows = self.0.iter().skip(usize::from(odd)).step_by(2);
            median(windows.map(|window| percentile(window, percent)).collect()).as_secs_f64()
        };
        let ratio = half(true) / half(false);
        ratio.max(1.0 / ratio)
    }
}

/// Alternates windows without and with watchers. `prepare` comes before each. Returns whether the limit was kept.
async fn is_kept(daemon: &Daemon, what: &str, path: &'static str, count: usize, prepare: impl AsyncFn()) -> bool {
    let mut client = Client::of(daemon).await;
    client.window().await;
    let (mut without, mut beside, mut bytes) = (Windows::default(), Windows::default(), 0);
    for round in 0..2 * number("UNIFAAS_ROUNDS", ROUNDS) {
        prepare().await;
        // Both kinds are as often the first of a pair.
        if (round % 2 == 0) == (round % 4 == 0) {
            tokio::time::sleep(PAUSE).await;
            without.0.push(client.window().await);
        } else {
            let watchers = Watchers::of(daemon, path, count).await;
            tokio::time::sleep(PAUSE).await;
            beside.0.push(client.window().await);
            bytes += watchers.end().await;
        }
    }
    let micros = |percent| [&without, &beside].map(|windows| windows.percentile(percent).as_micros());
    let (p50, p99) = (micros(50), micros(99));
    let (ratio, noise) = (p99[1] as f64 / p99[0] as f64, without.noise(99));
    println!(
        "{what}: p50 {} and {} us, p99 {} and {} us without and with them: x {ratio:.3}, noise x {noise:.3}; {} MB read",
        p50[0],
        p50[1],
        p99[0],
        p99[1],
        bytes / 1_000_000
    );
    ratio <= RATIO * noise
}

#[tokio::test]
async fn watchers_do_not_delay_requests() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can watch as several users");
        return;
    }
    let home = Home::new();
    for number in 0..FUNCTIONS {
        home.put(&Function::new(&format!("f{number}")).set("keepalive", 3600));
    }
    let daemon = Setup::at(&home).function(Function::new("loud").set("keepalive", 3600)).start().await;
    for path in ["/invoke/f0/pid", "/invoke/loud/pid"] {
        daemon.get(path).await.ok();
    }
    let dashboards = async || is_kept(&daemon, "32 dashboards", "/ui/events?page=/ui/", STREAMS, async || {}).await;
    assert!(one_of(dashboards).await, "dashboards hold up requests, see above");
    let print = async || drop(daemon.get("/invoke/loud/flood?ms=4000").await.ok());
    let path = "/debug/logs?function=loud&follow=1";
    let followers = async || is_kept(&daemon, "100 followers", path, 100, print).await;
    assert!(one_of(followers).await, "followers hold up requests, see above");
}

/// Returns whether one of several measurements has kept the limit.
async fn one_of(measure: impl AsyncFn() -> bool) -> bool {
    for _ in 0..ATTEMPTS {
        if measure().await {
            return true;
        }
    }
    false
}
