//! Shared parts of the black-box tests. They know the binary, HTTP and the file formats, and nothing else.
//!
//! `setup.rs` starts the binary, `daemon.rs` ends it, `requests.rs` asks it, `home.rs` has its directories, `function.rs` writes `function.toml`. `cli.rs` runs
//! commands; `client.rs` is an HTTP client, `h2.rs` one of HTTP/2, `event_source.rs` one of server-sent events, `raw.rs` a
//! socket for arbitrary bytes, `load.rs` clients in the background, `async_load.rs` those of asynchronous invocations. `processes.rs` reads the
//! process table, `metrics.rs` reads `/metrics`, `census.rs` counts resources, `pausing.rs` has what tests of pauses share, `wait.rs` waits with a time limit, `abuse.rs` has malformed responses. `engine.rs` is a private container
//! engine, `brokers.rs` has brokers of messages, `nodes.rs` three nodes in network namespaces, `relay.rs` breaks connections off, `vm.rs` has functions in virtual machines, `firecracker.rs` chooses their Firecracker, `python.rs` those in Python, `linux.rs` those with Linux, and `root.rs` builds root file systems.
//! `src/bin/testfn` is the function under test; the tests are in `tests/`, one file per subject.
//! `src/bin/compare` measures, with `src/bin/lean.rs` as its function.
//!
//! Functions here panic on failure, at the caller's line where possible, because they are parts of tests.

pub mod abuse;
mod async_load;
pub mod bench;
pub mod brokers;
mod census;
pub mod cli;
mod client;
mod daemon;
mod engine;
mod event_source;
pub mod firecracker;
mod function;
pub mod h2;
mod home;
mod inbox;
pub mod linux;
mod load;
mod metrics;
pub mod nats_login;
pub mod nodes;
mod pausing;
pub mod processes;
mod python;
mod raw;
mod receiver;
pub mod relay;
mod requests;
mod root;
mod setup;
pub mod tools;
mod upgrade;
pub mod vm;
mod wait;

use std::time::Duration;

pub use async_load::{Accepted, AsyncLoad};
pub use census::Census;
pub use client::{Body, Connection, Pieces, Reply, body_of, callback_url, empty, request, streamed};
pub use daemon::{Daemon, Ending};
pub use engine::{Engine, IMAGE, contained, obstacle as engine_obstacle};
pub use event_source::{Event, EventSource};
pub use function::{Function, verbatim};
pub use h2::Http2;
pub use home::{Home, is_release, shipped, unifaas};
pub use load::{Answer, Load, Outcome, Workload, tally};
pub use metrics::{Metrics, openmetrics_parser};
pub use pausing::{MAX_RESUMPTION, answer_times, is_charged_less, pause_under_load};
pub use python::python;
pub use raw::{End, Head, Raw};
pub use receiver::Receiver;
pub use requests::{cgroups_are_usable, number};
pub use setup::{Setup, refusal};
pub use tools::fill_disk;
pub use upgrade::{Successor, UPGRADE_LIMIT};
pub use wait::{eventually, eventually_blocking, within};

/// Limit of what waits for nothing. On a busy machine, scheduling alone may take a second; what a fault would wait for takes
/// longer than this.
pub const AT_ONCE: Duration = Duration::from_secs(5);

/// Limit of what an idle machine does in a second or two, and a busy one in several. What takes this long never happens.
pub const SOON: Duration = Duration::from_secs(30);

/// Returns a duration in milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Returns the median of some times, zero without any.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
