//! The `unifaas` daemon: the command line, the logger, the servers and the engines around the actors. No decisions.
//!
//! What is decided is decided in the `unifaas-actors` crate; what touches the outside world is in `http/`, `net/` and
//! `sandbox/`; the resources made there are recorded in `state/`; limits and facts of the host are in `host/`.

mod cli;
mod daemon;
mod host;
mod http;
mod log;
mod net;
mod relay;
mod sandbox;
mod spawner;
mod state;
mod syscalls;
mod worker;

use std::{env, path::Path, process::ExitCode};

use clap::Parser;
use cli::{Cli, Command};

/// The program, from its arguments to its exit status.
pub fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == spawner::ARGUMENT) {
        return spawner::run();
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Hello { callback }) => hello::run(callback).map_err(|error| format!("hello: {error}")),
        Some(Command::Relay { address }) => relay::run(address).map_err(|error| format!("relay: {error}")),
        Some(Command::Check { registry }) => check(&registry),
        None => daemon::run(cli.serve).map_err(|error| format!("unifaas: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say_error(&message);
            ExitCode::FAILURE
        }
    }
}

/// Runs `unifaas check`: prints one line per function, and every problem of the misconfigured ones.
fn check(registry: &Path) -> Result<(), String> {
    let root = std::path::absolute(registry).unwrap_or_else(|_| registry.to_owned());
    let drafts = unifaas_actors::scan_all(&root)
        .map_err(|error| format!("unifaas: cannot read the registry {}: {error}", registry.display()))?;
    let mut wrong = 0;
    for (name, draft) in &drafts {
        match draft {
            Ok(_) => say(&format!("{name}: ok")),
            Err(reason) => {
                wrong += 1;
                say_error(reason);
            }
        }
    }
    match (wrong, drafts.len()) {
        (_, 0) => {
            Err(format!("unifaas: there is no function in {}: no directory with a function.toml", root.display()))
        }
        (0, _) => Ok(()),
        (wrong, all) => Err(format!("unifaas: misconfigured functions: {wrong} of {all}")),
    }
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "an error of a command, not of the running daemon")]
fn say_error(line: &str) {
    eprintln!("{line}");
}
