//! Functions that misbehave: the answers that each kind of sandbox must survive, and a check that other functions
//! are not affected.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{Connection, Daemon, Pieces, SOON, empty, eventually, ms, number, processes, request, within};

/// Describes how a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The platform answers with this status and code.
    Problem(u16, &'static str),
    /// The response begins and breaks off.
    BrokenOff,
    /// Either of the two: it depends on whether the response head was sent before the violation was found.
    BrokenOffOr(u16, &'static str),
}

impl Ending {
    fn allows(self, found: Ending) -> bool {
        match self {
            Ending::BrokenOffOr(status, code) => found == Ending::BrokenOff || found == Ending::Problem(status, code),
            wanted => found == wanted,
        }
    }
}

/// Malformed responses by their paths at the function under test, whose `timeout` must be some seconds.
pub const MALFORMED_RESPONSES: [(&str, Ending); 12] = [
    ("/garbage", Ending::Problem(502, "instance_failed")),
    ("/two-lengths", Ending::Problem(502, "instance_failed")),
    ("/mute", Ending::Problem(502, "instance_failed")),
    ("/reset", Ending::Problem(502, "instance_failed")),
    ("/endless/head", Ending::Problem(502, "instance_failed")),
    ("/endless/interim", Ending::Problem(504, "function_timed_out")),
    ("/half/nothing", Ending::Problem(504, "function_timed_out")),
    ("/half/head", Ending::Problem(504, "function_timed_out")),
    ("/half/body", Ending::BrokenOff),
    ("/endless/body", Ending::BrokenOff),
    ("/endless/trailers", Ending::BrokenOffOr(502, "instance_failed")),
    ("/truncate?ms=100", Ending::BrokenOff),
];

/// Those of [`MALFORMED_RESPONSES`] that load a guest or its network. The parser sees no difference between sandboxes.
pub const OF_GUESTS: [&str; 6] = ["/garbage", "/reset", "/endless/head", "/half/head", "/half/body", "/endless/body"];

/// What a request to another function may take. Where containers come and go, the kernel has held one up for five seconds.
const BYSTANDER_LIMIT: Duration = Duration::from_secs(15);

/// Longer than a virtual machine takes to boot.
const SERVES_AGAIN: Duration = Duration::from_secs(120);

/// Requests those of [`MALFORMED_RESPONSES`] that are wanted and checks that each ends as listed, before long, and that the
/// function serves afterwards.
///
/// # Panics
/// When a request ends differently.
pub async fn check_malformed_responses(daemon: &Daemon, function: &str, is_wanted: impl Fn(&str) -> bool) {
    for (path, ending) in MALFORMED_RESPONSES.into_iter().filter(|(path, _)| is_wanted(path)) {
        let path = format!("/invoke/{function}{path}");
        let found = within(SOON, path.clone(), ending_of(daemon, &path)).await;
        assert!(found.is_some_and(|found| ending.allows(found)), "{path}: {found:?}, not {ending:?}");
        // Perhaps by another instance, and not at first: its timeout is short.
        let reply = async || daemon.get(&format!("/invoke/{function}/pid")).await;
        eventually(SERVES_AGAIN, "it serves afterwards", reply, |reply| reply.status == 200).await;
    }
}

/// Checks the problem document of a request whose instance exited: it names the exit or its effect on the connection, depending
/// on what the daemon noticed first.
///
/// # Panics
/// When it names another cause.
#[track_caller]
pub fn check_cause(problem: &str, exit: &str) {
    let causes = [exit, "could not connect", "broke the connection off"];
    assert!(causes.iter().any(|cause| problem.contains(cause)), "{problem}");
}

/// Returns how a request ends; `None` for a complete response of the function.
async fn ending_of(daemon: &Daemon, path: &str) -> Option<Ending> {
    let mut connection = daemon.connect().await;
    let Ok(response) = connection.start(request("GET", path, empty())).await else { return Some(Ending::BrokenOff) };
    let code = response.headers().get("x-unifaas-error").and_then(|code| code.to_str().ok());
    if let Some(code) = code {
        let known = ["instance_failed", "function_timed_out", "boot_failed"].into_iter().find(|known| *known == code);
        let code = known.unwrap_or("another code");
        return Some(Ending::Problem(response.status().as_u16(), code));
    }
    let mut pieces = Pieces::of(response);
    while let Some(piece) = pieces.next().await {
        if piece.is_err() {
            return Some(Ending::BrokenOff);
        }
    }
    None
}

/// Makes the only instance of a function close its listener, waits until it has, and returns its process id. Until then, a new
/// connection may still be accepted, and is reset with the listener.
///
/// # Panics
/// When it does not close it.
pub async fn close_listener(daemon: &Daemon, function: &str) -> u32 {
    daemon.get(&format!("/invoke/{function}/deaf")).await.ok();
    let instance = daemon.instances(function).await.remove(0);
    let address: SocketAddr = instance["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let connect = async || TcpStream::connect(address).await;
    let _ = eventually(SOON, "the listener is closed", connect, Result::is_err).await;
    u32::try_from(number(&instance, "pid")).expect("a process id")
}

/// A client that uses another function in the background and measures its latency.
#[derive(Debug)]
pub struct Bystander {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Duration>,
}

impl Bystander {
    /// Starts to request `path`, about fifty times a second.
    pub async fn at(daemon: &Daemon, path: &str) -> Self {
        let mut connection = Connection::open(daemon.listen).await.expect("the daemon accepts connections");
        let path = path.to_owned();
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                let started = Instant::now();
                connection.send(request("GET", &path, empty())).await.expect("an answer").ok();
                longest = longest.max(started.elapsed());
                sleep(ms(20)).await;
            }
            longest
        });
        Self { stop, task }
    }

    /// Returns the longest latency. All requests were served.
    ///
    /// # Panics
    /// When a request was not served.
    pub async fn longest(self) -> Duration {
        let _ = self.stop.send(());
        self.task.await.expect("every request was served")
    }
}

/// Resources that a daemon uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors.
    pub descriptors: usize,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

impl Footprint {
    /// Measures the daemon now.
    pub fn of(daemon: &Daemon) -> Self {
        Self { descriptors: processes::descriptors(daemon.pid), resident_kib: processes::resident_kib(daemon.pid) }
    }
}

/// Runs `misbehaviour` while a client uses `good`, another warm function of `daemon`. The client must not be delayed, and
/// the daemon must use hardly more resources afterwards.
///
/// # Panics
/// When the client is delayed, or the daemon uses much more.
pub async fn without_side_effects<T>(daemon: &Daemon, good: &str, misbehaviour: impl Future<Output = T>) -> T {
    let path = format!("/invoke/{good}");
    daemon.get(&path).await.ok();
    let before = Footprint::of(daemon);
    let bystander = Bystander::at(daemon, &path).await;
    let result = misbehaviour.await;
    let longest = bystander.longest().await;
    assert!(longest < BYSTANDER_LIMIT, "a request to the other function took {longest:?}");
    let few = before.descriptors + 8;
    let what = format!("at most {few} files are open");
    let after =
        eventually(SOON, what, async || Footprint::of(daemon), |after: &Footprint| after.descriptors <= few).await;
    assert!(after.resident_kib < before.resident_kib + (40 << 10), "{before:?} became {after:?}");
    result
}
