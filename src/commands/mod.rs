//! The commands: all but the daemon itself.
//!
//! Those that speak to a daemon read its admin pages, whose names docs/observability.md has. Data goes to standard output,
//! everything else to standard error.
//!
//! | file | content |
//! | --- | --- |
//! | `check.rs`, `new.rs` | commands that need no daemon; `new/` has the templates |
//! | `ps.rs`, `describe.rs`, `invoke.rs`, `logs.rs`, `boots.rs`, `errors.rs`, `snapshot.rs`, `dead.rs`, `ui.rs`, `version.rs` | the command of that name |
//! | `act.rs` | `restart`, `stop`, `rescan` |
//! | `bench.rs` | `bench`, which the crate of that name does |
//! | `dev.rs` | `dev`: a daemon for one function, which is restarted when its files change |
//! | `top.rs` | `top`; `top/` has its keys and what it shows |
//! | `publish.rs`, `versions.rs` | functions for all nodes: `publish`; `versions`, `rollout`, `rollback`, `unpublish` |
//! | `nodes.rs` | the nodes of a cluster, for `ps` and `top` |
//! | `completions.rs` | completion of command lines |
//! | `client.rs`, `place.rs`, `trust.rs` | the HTTP client; where the daemon is; TLS |
//! | `terminal.rs` | tables, colours, durations |
//! | `error.rs` | why a command fails, and its exit status |

mod act;
#[cfg(feature = "bench")]
pub mod bench;
mod boots;
mod check;
mod client;
pub mod completions;
mod dead;
mod describe;
mod dev;
pub mod error;
mod errors;
mod invoke;
mod logs;
mod new;
mod nodes;
mod place;
mod ps;
mod publish;
mod snapshot;
pub mod terminal;
mod top;
mod trust;
mod ui;
mod version;
mod versions;

use std::{future::Future, process::ExitCode};

use tokio::runtime;

pub use completions::functions;

use crate::cli::Command;
use error::CommandError;
use terminal::Output;

/// Runs a command that speaks to a daemon. `None`: it is another one.
pub fn run(command: &Command) -> Option<ExitCode> {
    let output = Output::new();
    let result = match command {
        Command::Ps(arguments) => block_on(ps::run(arguments, &output)),
        Command::Describe(arguments) => block_on(describe::run(arguments, &output)),
        Command::Invoke(arguments) => block_on(invoke::run(arguments, &output)),
        Command::Logs(arguments) => block_on(logs::run(arguments, &output)),
        Command::Boots(arguments) => block_on(boots::run(arguments, &output)),
        Command::Errors(arguments) => block_on(errors::run(arguments, &output)),
        Command::Dead(arguments) => block_on(dead::run(arguments, &output)),
        Command::Inbox(arguments) => block_on(act::reset_inbox(arguments, &output)),
        Command::Check(arguments) => block_on(check::run(arguments, &output)),
        Command::Dev(arguments) => dev::run(arguments),
        Command::New(arguments) => block_on(new::run(arguments, &output)),
        Command::Restart(arguments) => block_on(act::restart(arguments, &output)),
        Command::Stop(arguments) => block_on(act::stop(arguments, &output)),
        Command::Snapshot(arguments) => block_on(snapshot::snapshot(arguments, &output)),
        Command::Rescan(arguments) => block_on(act::rescan(arguments, &output)),
        Command::Top(arguments) => block_on(top::run(arguments, &output)),
        Command::Upgrade(arguments) => block_on(act::upgrade(arguments, &output)),
        Command::Publish(arguments) => block_on(publish::run(arguments, &output)),
        Command::Versions(arguments) => block_on(versions::list(arguments, &output)),
        Command::Rollout(arguments) => block_on(versions::roll_out(arguments, &output)),
        Command::Rollback(arguments) => block_on(versions::roll_back(arguments, &output)),
        Command::Unpublish(arguments) => block_on(versions::unpublish(arguments, &output)),
        Command::Ui(arguments) => block_on(ui::run(arguments, &output)),
        Command::Completions { shell } => completions::print_script(*shell, &output),
        Command::Version(arguments) => block_on(version::run(arguments, &output)),
        _ => return None,
    };
    Some(result.map_or_else(CommandError::report, |()| ExitCode::SUCCESS))
}

/// Runs a command to its end, on this thread.
fn block_on(command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
