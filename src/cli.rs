//! The command line: parses and checks the settings, and starts nothing.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{host::budget::MemoryBudget, net::Subnet};

/// Runs functions as unikernels, microVMs, containers and processes behind one HTTP endpoint.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check every function.toml of a registry, and list every problem.
    Check {
        /// The registry's directory.
        #[arg(short, long, value_name = "DIR")]
        registry: PathBuf,
    },
    /// The function that ships with the repository; `registry/hello` runs it.
    #[command(hide = true)]
    Hello {
        /// Where to call once it listens.
        callback: Option<String>,
    },
    /// Connects standard input and output with a TCP server; QEMU runs it.
    #[command(hide = true)]
    Relay { address: SocketAddr },
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The registry's directory: each subdirectory with a function.toml is a function.
    #[arg(short, long, value_name = "DIR", required = true)]
    pub registry: Option<PathBuf>,
    /// Where requests are taken.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8123", value_parser = address)]
    pub listen: SocketAddr,
    /// Where instances call back when they are ready. Guests must reach it.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:3000", value_parser = address)]
    pub callback_listen: SocketAddr,
    /// Where /debug is served. Without it: at --listen, to callers of this host alone.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub admin_listen: Option<SocketAddr>,
    /// Certificate chain in PEM: --listen and --admin-listen speak TLS with it. Read again when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Concurrent connections of clients; at the limit, a new one replaces an idle one, or gets 503.
    #[arg(long, value_name = "COUNT", default_value_t = 4096, value_parser = positive)]
    pub max_connections: usize,
    /// Concurrent connections from one address of another host [default: half of --max-connections].
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    pub max_connections_per_client: Option<usize>,
    /// How long a client may send nothing in the middle of a request body, or take nothing of a response, in seconds;
    /// 0 for no limit.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, allow_negative_numbers = true)]
    pub client_timeout: Duration,
    /// The range that VMs get their addresses from; each takes a /30 of it [default: 10.100.0.0/16].
    #[arg(long, value_name = "ADDRESS/BITS")]
    pub subnet: Option<Subnet>,
    /// How many tap devices are kept prepared for VMs, once a function needs any.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    pub tap_pool: usize,
    /// Where the daemon records its resources, for the cleanup after a crash [default: /var/lib/unifaas as root, else
    /// ~/.local/state/unifaas].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How much memory all instances may use together: MiB, or a share of what the host and the daemon's cgroup have.
    #[arg(long, value_name = "MIB|PERCENT%", default_value_t = MemoryBudget::Percent(80))]
    pub memory_budget: MemoryBudget,
    /// How many containers and VMs may be starting at once [default: twice the processors].
    #[arg(long, value_name = "COUNT")]
    pub max_starts: Option<NonZeroUsize>,
    /// How many processes may be starting at once [default: as many as are needed].
    #[arg(long, value_name = "COUNT")]
    pub max_process_starts: Option<NonZeroUsize>,
    /// How long requests may go on after the first signal to end, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, allow_negative_numbers = true)]
    pub drain_grace: Duration,
    /// The least important messages that are logged.
    #[arg(short, long, value_name = "LEVEL", value_enum, default_value_t = Level::Info)]
    pub log_level: Level,
    /// How messages are logged [default: human on a terminal, else json].
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<Format>,
}

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Human,
    Json,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let resolved = text.to_socket_addrs().map_err(|error| format!("expected HOST:PORT: {error}"))?;
    // A name such as `localhost` may mean several; clients try IPv4 as well, some guests know nothing else.
    let mut addresses: Vec<SocketAddr> = resolved.collect();
    addresses.sort_by_key(|address| matches!(address.ip(), IpAddr::V6(_)));
    addresses.first().copied().ok_or_else(|| "the name has no address".to_owned())
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a number, one or more".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "expected a number of seconds, zero or more".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documents_every_option() {
        let documentation = include_str!("../docs/cli.md");
        let command = Cli::command();
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        for option in options {
            let name = format!("--{}", option.get_long().unwrap());
            let value = option.get_value_names().map(|names| format!(" {}", names[0].replace('|', "\\|")));
            let shown = name + &value.unwrap_or_default() + "`";
            assert!(documentation.contains(&shown), "docs/cli.md lacks {shown}");
        }
    }

    #[test]
    fn registry_is_the_only_required_option() {
        let cli = Cli::try_parse_from(["unifaas", "-r", "x"]).unwrap();
        assert_eq!(cli.serve.registry, Some(PathBuf::from("x")));
        assert_eq!(cli.serve.listen.to_string(), "127.0.0.1:8123");
        assert!(Cli::try_parse_from(["unifaas"]).is_err());
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
            (["--max-starts", "0"], "zero"),
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
