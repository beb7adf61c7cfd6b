//! Shared parts of the black-box tests. They know the binary, HTTP and the file formats, and nothing else.
//!
//! `daemon.rs` starts and ends the binary, `home.rs` has its directories, `function.rs` writes `function.toml`. `client.rs`
//! is an HTTP client, `h2.rs` one of HTTP/2, `raw.rs` a socket for arbitrary bytes, `load.rs` clients in the background. `processes.rs` reads the
//! process table, `census.rs` counts resources, `abuse.rs` has malformed responses. `engine.rs` is a private container
//! engine, `vm.rs` has functions in virtual machines, `python.rs` those in Python, `linux.rs` those with Linux, and `root.rs` builds root file systems.
//! `src/bin/testfn` is the function under test; the tests are in `tests/`, one file per subject.
//! `src/bin/compare` measures, with `src/bin/lean.rs` as its function.
//!
//! Functions here panic on failure, at the caller's line where possible, because they are parts of tests.

pub mod abuse;
mod census;
mod client;
mod daemon;
mod engine;
mod function;
pub mod h2;
mod home;
pub mod linux;
mod load;
pub mod processes;
mod python;
mod raw;
mod root;
pub mod tools;
pub mod vm;

use std::{future::Future, panic::Location, time::Duration};

pub use census::Census;
pub use client::{Body, Connection, Pieces, Reply, body_of, empty, request, streamed};
pub use daemon::{Daemon, Ending, Setup, cgroups_are_usable, number, refusal};
pub use engine::{Engine, IMAGE, contained, obstacle as engine_obstacle};
pub use function::{Function, verbatim};
pub use h2::Http2;
pub use home::{Home, shipped, unifaas};
pub use load::{Answer, Load, Outcome, Workload, tally};
pub use python::python;
pub use raw::{End, Head, Raw};

/// Polls `ready` until it returns a value.
///
/// # Panics
/// When it returns none within `limit`.
#[track_caller]
pub fn eventually<T>(
    limit: Duration,
    what: impl Into<String>,
    mut ready: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    let what = what.into();
    async move {
        let attempts = async {
            loop {
                if let Some(value) = ready().await {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(limit, attempts).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: not within {limit:?}: {what}"),
        }
    }
}

/// Awaits a future with a time limit.
///
/// # Panics
/// When it takes longer than `limit`.
#[track_caller]
pub fn within<F: Future>(limit: Duration, what: impl Into<String>, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    let what = what.into();
    async move {
        match tokio::time::timeout(limit, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: took longer than {limit:?}: {what}"),
        }
    }
}

/// Returns a duration in milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
