//! `unifaas bench`: measures the sandboxes of a registry on this machine, and writes samples, tables, plots and a report.
//!
//! It is a client of the daemon, and knows nothing of its inside.
//!
//! | part | content |
//! | --- | --- |
//! | `options.rs`, `plan/` | the command line; rounds, order, durations |
//! | `run.rs`, `lock.rs`, `interrupt.rs`, `progress.rs` | a run from its arguments to its files |
//! | `daemon.rs`, `registry/`, `subnet.rs` | the measured daemon, and the registry that is derived for it |
//! | `remote.rs` | a daemon that runs already |
//! | `client/`, `clock.rs` | requests with time stamps |
//! | `host/` | the machine, and what else it does |
//! | `experiments/` | what is measured, one file each |
//! | `sample.rs`, `results.rs` | the files of samples and of everything else |
//! | `stats/`, `summary/` | statistics; from samples to figures |
//! | `trace/` | arrivals of requests, and keep-alive policies in virtual time |
//! | `reference.rs` | published values |
//! | `report/`, `plot/` | tables, plots, the report |
//! | `compare/` | two folders of results beside each other |

mod client;
mod clock;
mod compare;
pub mod daemon;
mod error;
mod experiments;
mod host;
mod interrupt;
mod list;
mod lock;
mod options;
mod plan;
mod plot;
mod progress;
mod reference;
mod registry;
mod remote;
mod report;
mod results;
mod run;
mod sample;
pub mod stats;
mod subnet;
mod summary;
mod trace;

pub use options::BenchArgs;
pub use run::{Host, run};
