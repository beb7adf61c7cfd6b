//! The command line of `unifaas bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::trace::{Policy, TraceCommand, policy};

/// The arguments of `unifaas bench`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// What to do instead of measuring.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// What to measure.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What does not measure.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// List which experiments are possible with which functions, and how long they take.
    List(Box<RunArgs>),
    /// Write tables, plots and the report again from the samples, also of a run that was cut short.
    Report {
        /// The folder of the results.
        results: PathBuf,
    },
    /// Compare the figures of two folders. Ends with status 3 if the second one is worse.
    Compare(CompareArgs),
    /// Make or convert a trace of arrivals for `replay`.
    #[command(subcommand)]
    Trace(TraceCommand),
}

/// What is compared.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// The folder of the earlier results.
    pub before: PathBuf,
    /// The folder of the later results.
    pub after: PathBuf,
    /// How much worse a median may be.
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "5%")]
    pub threshold: f64,
    /// Show figures of folders that cannot be compared, without judgements.
    #[arg(long)]
    pub force: bool,
}

/// What to measure, and how.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The experiments [default: all].
    #[arg(value_enum, value_name = "EXPERIMENT")]
    pub experiments: Vec<Experiment>,
    /// The registry's directory.
    #[arg(short, long, env = "UNIFAAS_REGISTRY", value_name = "DIR")]
    pub registry: Option<PathBuf>,
    /// Only functions of these names; `*` stands for any text.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub functions: Vec<String>,
    /// The folder for the results, which must not exist or be empty [default: bench-DATE].
    #[arg(long, value_name = "RESULTS")]
    pub out: Option<PathBuf>,
    /// How much effort.
    ///
    /// `quick` takes 20 minutes at most, and its figures are marked as such. `paper` has the settings of the paper: 512 MiB and one
    /// processor for each instance, and bursts of 10 to 100.
    #[arg(long, value_enum, value_name = "PRESET", default_value_t = Preset::Default)]
    pub preset: Preset,
    /// Short for --preset quick.
    #[arg(long, conflicts_with = "preset")]
    pub quick: bool,
    /// Rounds of each experiment, besides the first one, which warms up [default: by experiment and preset].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// End within this time: with fewer rounds, then smaller sizes, then without what takes longest for its worth. The report
    /// says what was reduced [default: 20 with --quick, else none].
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    pub budget: Option<f64>,
    /// Sizes of the bursts [default: 1,2,5,10,20,50; of `quick` 1,5,20; of `paper` 10,20 and so on up to 100].
    #[arg(long, value_name = "COUNT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub bursts: Vec<u32>,
    /// Pairs of requests in a round of `warm`, directly and through the daemon [default: 500]. Some more follow with pauses.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: Option<u32>,
    /// Connections of `throughput` [default: 1,4,16,64,256,1024; of `quick` 1,16,64].
    #[arg(long, value_name = "COUNT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub connections: Vec<u32>,
    /// Requests per second of `load` [default: 10, 50, 80 and 95 % of what a function can answer].
    #[arg(long, value_name = "RATE", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rates: Vec<u32>,
    /// Instances of `memory` at each step; `idle` has as many as the last [default: 0,5,10 and so on up to 50, and 10].
    #[arg(long, value_name = "COUNT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub instances: Vec<u32>,
    /// Seconds of each measurement of `throughput` (3), `load` (10), `idle` (30) and `replay` (90).
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub window: Option<u32>,
    /// The trace of `replay`, as `unifaas bench trace` writes it [default: a synthetic one].
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Keep-alive policies of `replay`: keepalive=, keep-paused=, min-instances= and budget=, joined by `+`. The default is
    /// keepalive=10 and keepalive=600; of `quick` keepalive=2 and keepalive=600.
    #[arg(long = "policy", value_name = "POLICY", value_delimiter = ',', value_parser = policy)]
    pub policies: Vec<Policy>,
    /// Also apply the policies to the whole trace in virtual time, with the measured start times.
    #[arg(long)]
    pub simulate: bool,
    /// Go on until each interval of a median is within so much of it, such as 2%, at most for --rounds.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub precision: Option<f64>,
    /// Memory of each instance, instead of what the functions say.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: Option<u32>,
    /// Processors of each instance, where the sandbox can limit them.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
    /// The request [default: /hello, or / where that is not answered with 200].
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Whether files are in the host's page cache when an instance starts; `cold` and `both` need root.
    #[arg(long, value_enum, value_name = "STATE", default_value_t = PageCache::Warm)]
    pub page_cache: PageCache,
    /// Determines the order and the resamples, so that a run can be repeated [default: drawn].
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// How long to wait for a quiet machine before measuring, in seconds [default: 30, or 3 with --quick].
    #[arg(long, value_name = "SECONDS")]
    pub settle: Option<u64>,
    /// Another build of the daemon, which takes part in the same rounds. Each function is compared with itself under it.
    #[arg(long, value_name = "EXECUTABLE", conflicts_with = "daemon")]
    pub baseline: Option<PathBuf>,
    /// A running daemon to measure instead of an own one, with its functions as they are.
    #[arg(long, value_name = "URL", conflicts_with_all = ["memory", "cpus", "state_dir"])]
    pub daemon: Option<String>,
    /// Where that daemon has its pages [default: that of --daemon].
    #[arg(long, value_name = "URL", requires = "daemon")]
    pub admin: Option<String>,
    /// Where the measured daemon keeps its state [default: that of `serve`, with -bench].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// An experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Experiment {
    /// A request that finds no instance, a paused one, or a snapshot.
    Cold,
    /// Requests to an instance that is ready, directly and through the daemon.
    Warm,
    /// Simultaneous requests, each of which needs a new instance.
    Burst,
    /// Integers, floating point and matrices.
    Cpu,
    /// Memory that is allocated and touched.
    Alloc,
    /// A file that is read.
    Read,
    /// An archive that is unpacked.
    Unzip,
    /// Requests as fast as they are answered, over 1 to 1024 connections.
    Throughput,
    /// Requests at given times, whether or not earlier ones are answered.
    Load,
    /// Large responses.
    Transfer,
    /// Memory of idle instances.
    Memory,
    /// Processor time of idle instances.
    Idle,
    /// A trace of arrivals under keep-alive policies.
    Replay,
}

impl Experiment {
    /// All, in the order in which they run.
    pub const ALL: [Self; 13] = [
        Self::Cold,
        Self::Warm,
        Self::Burst,
        Self::Cpu,
        Self::Alloc,
        Self::Read,
        Self::Unzip,
        Self::Throughput,
        Self::Load,
        Self::Transfer,
        Self::Memory,
        Self::Idle,
        Self::Replay,
    ];

    /// Returns its name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Burst => "burst",
            Self::Cpu => "cpu",
            Self::Alloc => "alloc",
            Self::Read => "read",
            Self::Unzip => "unzip",
            Self::Throughput => "throughput",
            Self::Load => "load",
            Self::Transfer => "transfer",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Replay => "replay",
        }
    }

    /// Returns whether its first round only warms up. The others warm up within each round.
    pub const fn has_warmup(self) -> bool {
        !matches!(self, Self::Throughput | Self::Load | Self::Transfer | Self::Memory | Self::Idle | Self::Replay)
    }

    /// Returns whether only the benchmark function answers its requests.
    pub const fn needs_benchmark_function(self) -> bool {
        matches!(self, Self::Cpu | Self::Alloc | Self::Read | Self::Unzip | Self::Transfer | Self::Replay)
    }

    /// Returns whether it has to see the processes of the daemon's host, or to choose its functions.
    pub const fn needs_host(self) -> bool {
        matches!(self, Self::Memory | Self::Idle | Self::Replay)
    }
}

/// How much effort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Minutes, for a first impression.
    Quick,
    /// Enough rounds for intervals.
    Default,
    /// The settings of the paper.
    Paper,
}

/// The host's page cache when an instance starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PageCache {
    /// As the starts before have left it.
    Warm,
    /// Dropped before each start.
    Cold,
    /// Both, as variants.
    Both,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent < 100.0);
    number.map(|percent| percent / 100.0).ok_or_else(|| "expected a percentage such as 2%".to_owned())
}

fn minutes(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|minutes| minutes.is_finite() && *minutes > 0.0);
    number.ok_or_else(|| "expected a number of minutes, such as 20".to_owned())
}
