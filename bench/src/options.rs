//! The command line of `unifaas bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

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
    /// `quick` takes minutes, and its figures are marked as such. `paper` has the settings of the paper: 512 MiB and one
    /// processor for each instance, and bursts of 10 to 100.
    #[arg(long, value_enum, value_name = "PRESET", default_value_t = Preset::Default)]
    pub preset: Preset,
    /// Short for --preset quick.
    #[arg(long, conflicts_with = "preset")]
    pub quick: bool,
    /// Rounds of each experiment, besides the first one, which warms up [default: by experiment and preset].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Sizes of the bursts [default: 1,2,5,10,20,50; of `paper` 10,20 and so on up to 100].
    #[arg(long, value_name = "COUNT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub bursts: Vec<u32>,
    /// Pairs of requests in a round of `warm`, directly and through the daemon [default: 500]. Some more follow with pauses.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: Option<u32>,
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
    /// Where the measured daemon keeps its state [default: that of `serve`, with -bench].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// An experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Experiment {
    /// A request that finds no instance, or a paused one.
    Cold,
    /// Requests to an instance that is ready, directly and through the daemon.
    Warm,
    /// Simultaneous requests, each of which needs a new instance.
    Burst,
}

impl Experiment {
    /// All, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Cold, Self::Warm, Self::Burst];

    /// Returns its name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Burst => "burst",
        }
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
