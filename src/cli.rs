//! The command line: parses and checks commands and settings, and starts nothing.
//!
//! `serve.rs` has the settings of the daemon, `client.rs` and `publish.rs` the arguments of the commands that speak to one.
//! The options of brokers and of other nodes are in `broker/` and `cluster/`.

pub mod client;
pub mod publish;
mod serve;

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

pub use client::DaemonArgs;
pub use serve::Serve;

/// Runs functions as unikernels, microVMs, containers and processes behind one HTTP endpoint.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the functions of a registry, as `unifaas` does without a command.
    Serve(Box<Serve>),
    /// Show the settings that `serve` would use with the same options, and where each comes from.
    Config {
        /// Show them as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        serve: Box<Serve>,
    },
    /// Check functions without starting anything, and list every problem.
    ///
    /// Warnings are about what is probably not meant, such as `$PORT` in a command that no shell runs, or `durability = "site"` without `--cluster`.
    Check(client::Check),
    /// List functions, or instances.
    Ps(client::Ps),
    /// Show a function or an instance, first what is wrong with it.
    Describe(client::Describe),
    /// Send a request to a function, and print the answer.
    ///
    /// If the platform answers instead of the function, standard error gets the reason and the last lines of output.
    Invoke(client::Invoke),
    /// Print what functions have printed, also instances that have ended.
    Logs(client::Logs),
    /// Show where the time of starts went.
    ///
    /// A bar is the time from the end of the phase before; docs/observability.md says when each phase ends.
    Boots(client::Boots),
    /// Show which requests have failed and why, in groups of equal failures.
    Errors(client::Errors),
    /// List, show, redrive or remove asynchronous invocations that were given up.
    ///
    /// A redriven invocation has all its attempts and its full age again.
    Dead(client::Dead),
    /// Set a damaged database of asynchronous invocations aside, and begin a new one.
    ///
    /// Invocations in the damaged one are lost unless its file, which stays in the state directory, can be repaired. A
    /// database that is not damaged is left as it is.
    Inbox(client::Inbox),
    /// Write a function that runs.
    New(client::New),
    /// Serve one function, follow its output, and restart it whenever a file of its directory changes.
    ///
    /// It needs neither a registry nor settings, and leaves nothing behind. Changes of hidden files, caches and build
    /// directories do not count, but those of the program itself do.
    Dev(client::Dev),
    /// Serve HTTP by running a program for each request, as a process function whose program is no server.
    ///
    /// The program gets the body as standard input, and REQUEST_METHOD, PATH_INFO and QUERY_STRING in its environment. Its
    /// output is the answer; any exit status but 0 makes it a 500.
    Exec {
        /// Where to call once it listens [default: $CALLBACK_URL].
        callback: Option<String>,
        /// The program and its arguments.
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        program: Vec<OsString>,
    },
    /// Measure the functions of a registry, and write samples, tables, plots and a report.
    ///
    /// A daemon of its own serves copies of the functions; the daemon of this host is not touched. docs/science.md says how to
    /// read the report. Exit status: 1 if something has failed and the rest is written, 2 if nothing can be measured, 3 if
    /// `compare` has found a regression, 130 if it was interrupted.
    #[cfg(feature = "bench")]
    Bench(Box<unifaas_bench::BenchArgs>),
    /// Show the functions every second.
    ///
    /// Keys select a function, open its output, sort and filter. Without a terminal, one list is printed.
    Top(client::Top),
    /// Replace the instances of a function: new ones first, then the old ones end with their requests.
    Restart(client::Restart),
    /// End an instance, or all of a function, now.
    Stop(client::Stop),
    /// List, take or remove snapshots of virtual machines.
    Snapshot(client::Snapshot),
    /// Read the registry now, also where the kernel reports no changes.
    Rescan(client::Rescan),
    /// Replace the daemon by one of the program that is installed now, without losing a request.
    Upgrade(client::Upgrade),
    /// Put a function on all nodes of the cluster.
    ///
    /// It is checked as `check` does. Nodes get its files from each other, and serve the version as soon as they have all of them.
    Publish(publish::Publish),
    /// List the versions of published functions, and which nodes serve them.
    Versions(publish::Versions),
    /// Have nodes serve a version of a published function: all of them, or a share.
    Rollout(publish::Rollout),
    /// End the trial of a version, or go back to the version before.
    Rollback(publish::Rollback),
    /// Remove a published function from all nodes.
    Unpublish(publish::Unpublish),
    /// Print the address of the dashboard, and open it on a desktop.
    Ui(client::Ui),
    /// Show the versions of this program and of the daemon.
    Version(client::Version),
    /// Writes a manual page for each command into a directory, for packages.
    #[command(hide = true)]
    Man { directory: PathBuf },
    /// Print a script that completes command lines; the packages bring those of bash, zsh and fish.
    ///
    /// `source <(unifaas completions bash)` loads it. Names of functions come from the daemon.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// The function that ships with the repository; `registry/hello` runs it.
    #[command(hide = true)]
    Hello {
        /// Where to call once it listens.
        callback: Option<String>,
    },
    /// The benchmark function, which calibrates `bench`.
    #[cfg(feature = "bench")]
    #[command(hide = true)]
    BenchFunction {
        /// Where to call once it listens; or `files` and a directory to write its files to.
        arguments: Vec<OsString>,
    },
    /// Becomes a daemon that ends with its parent: process id of the parent, program, arguments. `bench` runs it.
    #[cfg(feature = "bench")]
    #[command(hide = true, name = unifaas_bench::daemon::STEP)]
    BenchDaemon {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<OsString>,
    },
    /// Connects standard input and output with a TCP server; QEMU runs it.
    #[command(hide = true)]
    Relay { address: SocketAddr },
}

impl Cli {
    /// Writes a manual page for each command that is not hidden.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_manual(directory: &Path) -> io::Result<()> {
        clap_mangen::generate_to(Self::command(), directory)
    }
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_but_a_registry_is_needed() {
        let cli = Cli::try_parse_from(["unifaas", "-r", "x"]).unwrap();
        assert_eq!(cli.serve.registry, Some(PathBuf::from("x")));
        assert_eq!(cli.serve.listen.to_string(), "127.0.0.1:8123");
        assert!(matches!(
            Cli::try_parse_from(["unifaas", "check", "-r", "x"]).unwrap().command,
            Some(Command::Check { .. })
        ));
    }

    #[test]
    fn errors_name_the_expected_value() {
        for (arguments, hint) in [
            (["--listen", "nonsense"], "HOST:PORT"),
            (["--subnet", "10.100.0.0"], "ADDRESS/BITS"),
            (["--subnet", "10.100.0.1/16"], "10.100.0.0/16"),
            (["--subnet", "10.100.0.0/31"], "8 to 30"),
            (["--memory-budget", "4G"], "80%"),
            (["--memory-budget", "0"], "MiB"),
            (["--snapshot-budget", "1G"], "10%"),
            (["--max-starts", "0"], "zero"),
            (["--trace-sample", "1.5"], "between 0 and 1"),
            (["--otlp-endpoint", "localhost:4317"], "http://HOST:PORT"),
            (["--nats", "localhost"], "nats://HOST:PORT"),
            (["--nats-ca", "ca.pem"], "--nats <URL>"),
            (["--mqtt", "localhost"], "mqtts:// for TLS"),
            (["--mqtt-ca", "ca.pem"], "--mqtt <URL>"),
            (["--drain-grace", "-1"], "zero or more"),
            (["--client-timeout", "-1"], "zero or more"),
            (["--max-connections", "0"], "one or more"),
            (["--log-level", "loud"], "possible values"),
        ] {
            let error = Cli::try_parse_from(["unifaas", "-r", "x"].iter().chain(&arguments)).unwrap_err().to_string();
            assert!(error.contains(hint), "{arguments:?}: {error}");
        }
    }
}
