//! The `unifaas` daemon: the command line, the logger and the servers around the actors and the engines. No decisions.
//!
//! What is decided is decided in the `unifaas-actors` crate; what touches the host is in the `unifaas-engines` crate. Requests
//! come in through `http/` and are served by `invocation/` and `admin/`, on what is in `shared.rs`; `failure/` says why they
//! fail. `upstream/` is the client towards instances, and `inbox/` stores asynchronous invocations.

mod admin;
mod broker;
mod cli;
mod client_tls;
mod cluster;
mod commands;
mod config;
mod daemon;
mod failure;
mod header_names;
mod http;
mod inbox;
mod invocation;
mod listen_address;
mod log;
mod relay;
mod reload;
mod request_id;
mod service;
mod serving;
mod shared;
mod shutdown;
mod thousands;
mod trace;
mod trigger;
mod turn;
mod ui;
mod upgrade;
mod upstream;

use std::{env, process::ExitCode};

use cli::{Cli, Command};
use commands::{
    error::{CommandError, USAGE},
    terminal::{Output, words},
};
use unifaas_engines::{host, net, sandbox, snapshot, spawner, state, worker};

/// Shown when there is no registry.
const BEGINNING: &str = r#"unifaas: no registry: there is neither --registry, nor UNIFAAS_REGISTRY, nor `registry` in the configuration file, nor
/etc/unifaas/registry.

A registry is a directory with a directory for each function. To begin with one:

    unifaas new hello --template shell --registry functions
    unifaas --registry functions

and in a second terminal:

    unifaas invoke hello

`unifaas --help` lists the options, and `unifaas check --registry DIR` finds problems of functions."#;

/// The program, from its arguments to its exit status.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    if arguments.get(1).is_some_and(|argument| argument == spawner::ARGUMENT) {
        return spawner::run();
    }
    if let Some(result) = commands::completions::answer(&arguments) {
        return result.map_or_else(CommandError::report, |()| ExitCode::SUCCESS);
    }
    let parsed = match config::parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return CommandError::from(error).report(),
    };
    if let Some(status) = parsed.command.as_ref().and_then(commands::run) {
        return status;
    }
    #[cfg(feature = "bench")]
    if let Some(Command::Bench(arguments)) = &parsed.command {
        return commands::bench::run(arguments);
    }
    let failed = |message: String| CommandError::No(message);
    let result = match (parsed.command, parsed.configuration) {
        (Some(Command::Hello { callback }), _) => {
            hello::run(callback).map_err(|error| failed(format!("hello: {error}")))
        }
        (Some(Command::Exec { callback, program }), _) => {
            hello::run_program(callback, program).map_err(|error| failed(format!("exec: {error}")))
        }
        #[cfg(feature = "bench")]
        (Some(Command::BenchFunction { arguments }), _) => {
            bench_function::main(arguments).map_err(|error| failed(format!("bench-function: {error}")))
        }
        #[cfg(feature = "bench")]
        (Some(Command::BenchDaemon { arguments }), _) => {
            Err(failed(format!("bench-daemon: {}", unifaas_bench::daemon::execute(&arguments))))
        }
        (Some(Command::Relay { address }), _) => relay::run(address).map_err(|error| failed(format!("relay: {error}"))),
        (Some(Command::Man { directory }), _) => Cli::write_manual(&directory)
            .map_err(|error| failed(format!("cannot write to {}: {error}", directory.display()))),
        (Some(Command::Config { json, .. }), Some(configuration)) => {
            Output::new().bytes(if json { configuration.to_json() } else { configuration.to_toml() }.as_bytes())
        }
        (None | Some(Command::Serve(_)), Some(configuration)) if configuration.serve.registry.is_some() => {
            daemon::run(configuration, |_| ()).map_err(|error| failed(error.to_string()))
        }
        _ => return begin(),
    };
    result.map_or_else(CommandError::report, |()| ExitCode::SUCCESS)
}

/// Prints how to begin.
fn begin() -> ExitCode {
    words(BEGINNING);
    ExitCode::from(USAGE)
}
