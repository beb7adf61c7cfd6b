//! What the black-box tests have in common. They know the binary, HTTP and the file formats, and nothing else.
//!
//! `daemon.rs` starts and ends the binary, `home.rs` knows the directories, `function.rs` writes `function.toml`,
//! `client.rs` is an HTTP client that sees pieces as they arrive, `raw.rs` a socket for what no client would send,
//! `processes.rs` reads the process table, `abuse.rs` knows how functions do harm, `load.rs` is clients that ask all the
//! time, and `census.rs` counts what a daemon holds. `engine.rs` is a private container engine, `vm.rs` functions that are
//! virtual machines, `linux.rs` such with a Linux in them, and `root.rs` makes root file systems for both.
//! `src/bin/testfn` is the function under test; the tests themselves are in `tests/`, a file for each theme.
//! `src/bin/compare` measures, with `src/bin/lean.rs` as the function; it starts and ends things by the same means.
//!
//! Everything here panics when it fails, at the caller's line where that can be had: it is part of tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of tests fails by panicking")]

pub mod abuse;
mod census;
mod client;
mod daemon;
mod engine;
mod function;
mod home;
pub mod linux;
mod load;
pub mod processes;
mod raw;
mod root;
pub mod vm;

use std::{future::Future, panic::Location, time::Duration};

pub use census::Census;
pub use client::{Body, Connection, Pieces, Reply, body_of, empty, request, streamed};
pub use daemon::{Daemon, Ending, Setup, cgroups_are_usable, number, refusal};
pub use engine::{Engine, IMAGE, contained, obstacle as engine_obstacle};
pub use function::Function;
pub use home::{Home, shipped, unifaas};
pub use load::{Answer, Errand, Load, Outcome, tally};
pub use raw::{End, Head, Raw};

/// Waits until `ready` gives a value, asking again and again.
///
/// # Panics
/// When there is none within `limit`.
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

/// Awaits something that must not take longer than `limit`.
///
/// # Panics
/// When it does.
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

/// Milliseconds, for brevity.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
