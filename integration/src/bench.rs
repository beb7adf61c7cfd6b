//! Runs of `unifaas bench` that are cut short.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{Home, eventually, eventually_blocking, processes};

/// A run of a debug build on a busy machine takes minutes.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// Starts a run of `cold` that writes into `results` of a home, and waits until it has some samples.
///
/// # Panics
/// When it cannot be started, or has none in time.
pub async fn sampling(mut command: Command, home: &Home) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command can be run");
    let count = async || {
        let text = fs::read_to_string(home.path("results/samples/cold.csv")).unwrap_or_default();
        text.lines().count()
    };
    eventually(TIMEOUT, "samples", count, |lines| *lines > 4).await;
    child
}

/// Signals a run, and returns its exit status.
///
/// # Panics
/// As [`ended`].
pub async fn ended_by(signal: Signal, child: Child) -> Option<i32> {
    processes::signal(child.id(), signal);
    ended(child).await
}

/// Waits for the exit of a child, and returns its status.
///
/// # Panics
/// When it does not exit in time.
pub async fn ended(mut child: Child) -> Option<i32> {
    let wait = move || {
        let look = || child.try_wait().expect("the child can be waited for");
        eventually_blocking(TIMEOUT, "the exit", look, Option::is_some).and_then(|status| status.code())
    };
    tokio::task::spawn_blocking(wait).await.expect("the thread ends")
}
