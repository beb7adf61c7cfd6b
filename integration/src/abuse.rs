//! Functions that misbehave: the answers that each kind of sandbox must survive, and a check that other functions
//! are not affected.

use std::{future::Future, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{Connection, Daemon, Pieces, empty, ms, processes, request, within};

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

/// Malformed responses by their paths at the function under test, whose `timeout` must be a second or two.
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

/// Requests each of [`MALFORMED_RESPONSES`] and checks that it ends as listed, within a few seconds, and that the function
/// serves afterwards.
///
/// # Panics
/// When a request ends differently.
pub async fn check_malformed_responses(daemon: &Daemon, function: &str) {
    for (path, ending) in MALFORMED_RESPONSES {
        let path = format!("/invoke/{function}{path}");
        let found = within(Duration::from_secs(10), path.clone(), ending_of(daemon, &path)).await;
        assert!(found.is_some_and(|found| ending.allows(found)), "{path}: {found:?}, not {ending:?}");
        daemon.get(&format!("/invoke/{function}/pid")).await.ok();
    }
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
    assert!(longest < ms(1500), "a request to the other function took {longest:?}");
    let after = crate::eventually(Duration::from_secs(10), "opened files are closed", async || {
        let after = Footprint::of(daemon);
        (after.descriptors <= before.descriptors + 8).then_some(after)
    });
    let after = after.await;
    assert!(after.resident_kib < before.resident_kib + (40 << 10), "{before:?} became {after:?}");
    result
}
