//! `unifaas bench trace`: makes or converts traces.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use super::{
    Format, Shape, Spread, Trace,
    convert::{Conversion, convert},
    generate,
};
use crate::error::BenchError;

/// Work of functions of which a data set does not say how long they work, in milliseconds.
const DEFAULT_MS: f64 = 100.0;

/// Where traces come from.
#[derive(Debug, Clone, Subcommand)]
pub enum TraceCommand {
    /// Make a synthetic trace: rates, durations and patterns as Shahrad et al. found them in Azure Functions.
    Generate(GenerateArgs),
    /// Convert a published data set, which is not shipped.
    Convert(Box<ConvertArgs>),
}

/// How large the trace is.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Functions, of which some may have no invocation.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    functions: u32,
    /// Minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
    /// Processors that all functions keep busy together, on average. Longer work is shortened.
    #[arg(long, value_name = "PROCESSORS", default_value_t = 0.3, value_parser = positive)]
    load: f64,
    #[command(flatten)]
    common: Common,
}

/// What is converted, and how.
#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// The file with the invocations.
    file: PathBuf,
    /// The data set.
    #[arg(long, value_enum, value_name = "FORMAT")]
    from: Format,
    /// Azure 2019: the file with the durations of functions.
    #[arg(long, value_name = "FILE")]
    durations: Option<PathBuf>,
    /// Azure 2019: the file with the memory of applications.
    #[arg(long, value_name = "FILE")]
    memory: Option<PathBuf>,
    /// The first minute that is taken.
    #[arg(long, value_name = "MINUTE", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    begin: u64,
    /// How many minutes are taken.
    #[arg(long, value_name = "MINUTES", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    minutes: u64,
    /// How many functions are taken, so that rare and frequent ones are represented.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    functions: u32,
    /// How the invocations of a minute or second are spread over it.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Spread::Poisson)]
    spread: Spread,
    /// Milliseconds of functions of which the data do not say how long they work.
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_MS, value_parser = positive)]
    default_duration: f64,
    #[command(flatten)]
    common: Common,
}

/// What both have.
#[derive(Debug, Clone, Args)]
struct Common {
    /// Determines what is drawn: equal seeds give equal traces.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Where the trace is written [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a positive number".to_owned())
}

/// Makes or converts a trace, and writes it.
///
/// # Errors
/// When a file cannot be read or written, or is not in its format.
pub fn run(command: &TraceCommand) -> Result<(), BenchError> {
    let (trace, common) = match command {
        TraceCommand::Generate(GenerateArgs { functions, minutes, load, common }) => {
            let shape = Shape { functions: *functions, minutes: *minutes, load: *load };
            (generate(&shape, common.seed), common)
        }
        TraceCommand::Convert(arguments) => (converted(arguments)?, &arguments.common),
    };
    let (count, functions) = (trace.0.len(), trace.functions().len());
    match &common.out {
        Some(path) => fs::write(path, trace.csv()).map_err(|error| BenchError::Write(path.clone(), error))?,
        None => {
            // A reader that has seen enough closes the pipe.
            let _ = io::stdout().lock().write_all(trace.csv().as_bytes());
        }
    }
    let _ = writeln!(io::stderr().lock(), "{count} invocations of {functions} functions");
    Ok(())
}

fn converted(arguments: &ConvertArgs) -> Result<Trace, BenchError> {
    convert(&Conversion {
        format: arguments.from,
        file: &arguments.file,
        durations: arguments.durations.as_deref(),
        memory: arguments.memory.as_deref(),
        window: (arguments.begin, arguments.minutes),
        functions: arguments.functions as usize,
        spread: arguments.spread,
        default_ms: arguments.default_duration,
        seed: arguments.common.seed,
    })
}
