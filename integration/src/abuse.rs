//! Functions that mean harm: what each kind of sandbox has to stand, and how to see that nobody else notices.

use std::{future::Future, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{Connection, Daemon, Pieces, empty, ms, processes, request, within};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The platform answers: status and code.
    Problem(u16, &'static str),
    /// The answer begins, and breaks off.
    BrokenOff,
    /// One or the other: it depends on whether the head is on its way when the rest turns out to be nonsense.
    BrokenOffOr(u16, &'static str),
}

impl Fate {
    fn allows(self, found: Fate) -> bool {
        match self {
            Fate::BrokenOffOr(status, code) => found == Fate::BrokenOff || found == Fate::Problem(status, code),
            wanted => found == wanted,
        }
    }
}

/// Answers that are none, by their paths at the function under test, if its `timeout` is a second or two.
pub const ANSWERS: [(&str, Fate); 12] = [
    ("/garbage", Fate::Problem(502, "instance_failed")),
    ("/two-lengths", Fate::Problem(502, "instance_failed")),
    ("/mute", Fate::Problem(502, "instance_failed")),
    ("/reset", Fate::Problem(502, "instance_failed")),
    ("/endless/head", Fate::Problem(502, "instance_failed")),
    ("/endless/interim", Fate::Problem(504, "function_timed_out")),
    ("/half/nothing", Fate::Problem(504, "function_timed_out")),
    ("/half/head", Fate::Problem(504, "function_timed_out")),
    ("/half/body", Fate::BrokenOff),
    ("/endless/body", Fate::BrokenOff),
    ("/endless/trailers", Fate::BrokenOffOr(502, "instance_failed")),
    ("/truncate?ms=100", Fate::BrokenOff),
];

/// Asks a function for each of [`ANSWERS`]; all of them must have the fate that is written there, within a few seconds,
/// and the function serves on.
///
/// # Panics
/// When one has another fate.
pub async fn suffer_answers(daemon: &Daemon, function: &str) {
    for (path, fate) in ANSWERS {
        let path = format!("/invoke/{function}{path}");
        let found = within(Duration::from_secs(10), path.clone(), fate_of(daemon, &path)).await;
        assert!(found.is_some_and(|found| fate.allows(found)), "{path}: {found:?}, not {fate:?}");
        daemon.get(&format!("/invoke/{function}/pid")).await.ok();
    }
}

/// `None`: a whole answer of the function.
async fn fate_of(daemon: &Daemon, path: &str) -> Option<Fate> {
    let mut connection = daemon.connect().await;
    let Ok(response) = connection.start(request("GET", path, empty())).await else { return Some(Fate::BrokenOff) };
    let code = response.headers().get("x-unifaas-error").and_then(|code| code.to_str().ok());
    if let Some(code) = code {
        let known = ["instance_failed", "function_timed_out", "boot_failed"].into_iter().find(|known| *known == code);
        let code = known.unwrap_or("another code");
        return Some(Fate::Problem(response.status().as_u16(), code));
    }
    let mut pieces = Pieces::of(response);
    while let Some(piece) = pieces.next().await {
        if piece.is_err() {
            return Some(Fate::BrokenOff);
        }
    }
    None
}

/// Somebody who uses another function meanwhile, and notices whether that takes longer than it should.
#[derive(Debug)]
pub struct Bystander {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Duration>,
}

impl Bystander {
    /// Begins to ask for `path`, some fifty times a second.
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

    /// How long the longest request took. All of them were served.
    ///
    /// # Panics
    /// When one was not.
    pub async fn longest(self) -> Duration {
        let _ = self.stop.send(());
        self.task.await.expect("every request was served")
    }
}

/// What a daemon uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors.
    pub descriptors: usize,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

impl Footprint {
    /// Of the daemon as it is now.
    pub fn of(daemon: &Daemon) -> Self {
        Self { descriptors: processes::descriptors(daemon.pid), resident_kib: processes::resident_kib(daemon.pid) }
    }
}

/// Does something dreadful to `daemon` while somebody else uses `good`, another function of it that is warm. Nobody
/// notices, and afterwards the daemon uses hardly more than before.
///
/// # Panics
/// When somebody does, or it uses much more.
pub async fn unnoticed<T>(daemon: &Daemon, good: &str, dreadful: impl Future<Output = T>) -> T {
    let path = format!("/invoke/{good}");
    daemon.get(&path).await.ok();
    let before = Footprint::of(daemon);
    let bystander = Bystander::at(daemon, &path).await;
    let result = dreadful.await;
    let longest = bystander.longest().await;
    assert!(longest < ms(1500), "somebody had to wait for {longest:?}");
    let after = crate::eventually(Duration::from_secs(10), "what was opened is closed", async || {
        let after = Footprint::of(daemon);
        (after.descriptors <= before.descriptors + 8).then_some(after)
    });
    let after = after.await;
    assert!(after.resident_kib < before.resident_kib + (40 << 10), "{before:?} became {after:?}");
    result
}
