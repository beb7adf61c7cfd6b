//! The arguments of the commands that speak to a running daemon.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use hyper::header::{HeaderName, HeaderValue};

use super::serve::positive;
use crate::commands::functions;

/// Which daemon a command speaks to, and how it prints what it gets.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// Where the daemon is, such as http://127.0.0.1:8123 [default: where the settings of `serve` say].
    #[arg(long, env = "UNIFAAS_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Print JSON, with the names of docs/observability.md.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Ps {
    /// List the instances of this function.
    #[arg(add = functions())]
    pub function: Option<String>,
    /// List instances, also those that have ended.
    #[arg(short, long)]
    pub all: bool,
    /// List the nodes of the cluster, and what is going on with functions on each.
    #[arg(long, conflicts_with_all = ["function", "all"])]
    pub cluster: bool,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Describe {
    /// A function, or the id of an instance.
    #[arg(value_name = "FUNCTION|INSTANCE", add = functions())]
    pub name: String,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Invoke {
    /// The function.
    #[arg(add = functions())]
    pub function: String,
    /// The path of the request, with its query.
    #[arg(default_value = "/")]
    pub path: String,
    /// The method [default: GET, or POST with a body].
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub method: Option<String>,
    /// A header of the request, such as `accept: text/plain`. May be given several times.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// The body: text, the content of a file as @FILE, or of standard input as @-.
    #[arg(short, long, value_name = "TEXT|@FILE")]
    pub data: Option<String>,
    /// Have the request stored and tried until it is done, and print the id of the invocation.
    #[arg(long = "async")]
    pub asynchronous: bool,
    /// With --async: wait for the end, and print the answer.
    #[arg(long, requires = "asynchronous")]
    pub wait: bool,
    /// Print to standard error where the time went.
    #[arg(long)]
    pub timing: bool,
    /// Exit with status 1 if the function answers with 400 or more.
    #[arg(long)]
    pub fail: bool,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// A function, or the id of an instance [default: all functions].
    #[arg(value_name = "FUNCTION|INSTANCE", add = functions())]
    pub name: Option<String>,
    /// Go on with what is printed.
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the last lines [default: 100; all with --since].
    #[arg(long, value_name = "COUNT")]
    pub tail: Option<usize>,
    /// Only lines of the last time, such as 10m or 1h.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Only lines of instances that have ended.
    #[arg(long, conflicts_with = "follow")]
    pub ended: bool,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Boots {
    /// A function, or the id of an instance [default: all functions].
    #[arg(value_name = "FUNCTION|INSTANCE", add = functions())]
    pub name: Option<String>,
    /// The slowest starts of the last hour, the slowest first.
    #[arg(long)]
    pub slowest: bool,
    /// How many starts are shown.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = positive)]
    pub limit: usize,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Errors {
    /// Only those of this function.
    #[arg(add = functions())]
    pub function: Option<String>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Restart {
    /// The function.
    #[arg(add = functions())]
    pub function: String,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Stop {
    /// A function, or the id of an instance.
    #[arg(value_name = "FUNCTION|INSTANCE", add = functions())]
    pub name: String,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Snapshot {
    /// List all snapshots, remove that of a function, or take another one as soon as no request waits.
    #[arg(value_enum)]
    pub action: SnapshotAction,
    /// The function, unless all are listed.
    #[arg(add = functions(), required_if_eq_any([("action", "rm"), ("action", "make")]))]
    pub function: Option<String>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Dead {
    /// What is done.
    #[arg(value_enum, default_value_t = DeadAction::List)]
    pub action: DeadAction,
    /// Ids of invocations.
    #[arg(value_name = "INVOCATION")]
    pub invocations: Vec<String>,
    /// Those of this function.
    #[arg(long, value_name = "FUNCTION", add = functions())]
    pub function: Option<String>,
    /// All of them.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Inbox {
    /// What is done.
    #[arg(value_enum)]
    pub action: InboxAction,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// What is done with the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InboxAction {
    Reset,
}

/// What is done with snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SnapshotAction {
    Ls,
    Rm,
    Make,
}

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeadAction {
    List,
    Show,
    Redrive,
    Purge,
}

#[derive(Debug, Clone, Args)]
pub struct Rescan {
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Upgrade {
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Check {
    /// Registries, or directories of functions [default: the registry of the settings of `serve`].
    #[arg(value_name = "DIR")]
    pub places: Vec<PathBuf>,
    /// A registry, too.
    #[arg(short, long, value_name = "DIR")]
    pub registry: Option<PathBuf>,
    /// Check the host as well: programs, users, images, KVM, the firewall, the engine, the memory budget.
    #[arg(long)]
    pub host: bool,
    /// Print the results as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Dev {
    /// The directory of the function.
    #[arg(value_name = "DIR", default_value = ".")]
    pub directory: PathBuf,
    /// Where the function is invoked [default: 127.0.0.1:8123, or a free port if that is taken].
    #[arg(long, value_name = "HOST:PORT", value_parser = crate::listen_address::address)]
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Args)]
pub struct New {
    /// The name of the function.
    pub name: String,
    /// What kind of function it is.
    #[arg(short, long, value_enum, default_value_t = Template::Python)]
    pub template: Template,
    /// The registry's directory [default: that of the settings of `serve`, else `functions`].
    #[arg(short, long, value_name = "DIR")]
    pub registry: Option<PathBuf>,
    /// Print what was written as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What kind of function `unifaas new` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Template {
    Python,
    Node,
    /// A script that is run for each request.
    Shell,
    /// A Rust program without dependencies.
    Rust,
    /// The same program in an image without anything else.
    Container,
    /// A virtual machine, without its kernel.
    Unikernel,
}

#[derive(Debug, Clone, Args)]
pub struct Ui {
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Top {
    /// Show the nodes of the cluster instead of the functions.
    #[arg(long)]
    pub cluster: bool,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Version {
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let (name, value) = (name.trim(), value.trim());
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no name of a header"))?;
    HeaderValue::from_str(value).map_err(|_| format!("{value:?} is no value of a header"))?;
    Ok((name.to_owned(), value.to_owned()))
}
