//! The arguments of the commands about published functions.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::DaemonArgs;
use crate::commands::functions;

#[derive(Debug, Clone, Args)]
pub struct Publish {
    /// The directory of the function, which is named like it.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Wait until so many nodes have all files [default: 2, if there are as many].
    #[arg(long, value_name = "COUNT")]
    pub copies: Option<usize>,
    /// How long to wait for that.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Have only a share of the nodes serve the version.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub percent: u8,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Rollout {
    /// The function.
    #[arg(add = functions())]
    pub function: String,
    /// A listed version, or its first digits.
    pub version: String,
    /// The share of the nodes that serve it.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub percent: u8,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Rollback {
    /// The function.
    #[arg(add = functions())]
    pub function: String,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Unpublish {
    /// The function.
    #[arg(add = functions())]
    pub function: String,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct Versions {
    /// Only those of this function.
    #[arg(add = functions())]
    pub function: Option<String>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}
