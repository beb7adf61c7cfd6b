//! Arrival traces: when which function is invoked, and for how long it works.
//!
//! `convert.rs` reads published data sets, `counts.rs` spreads their counts over time, `generate.rs` makes a synthetic trace,
//! `policy.rs` says how long instances are kept, and `simulate.rs` applies policies in virtual time. Pure but for files that
//! are read: `command.rs` has the commands, and `experiments/replay.rs` sends traces to a daemon.

mod command;
mod convert;
mod counts;
mod generate;
mod policy;
mod simulate;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use command::{TraceCommand, run};
use convert::Format;
use counts::Spread;
pub use generate::{Shape, generate};
pub use policy::{Policy, policy};
pub use simulate::{Model, Outcome, simulate};

use crate::error::BenchError;

/// Longest work that the benchmark function takes, in milliseconds.
const MAX_DURATION_MS: f64 = 60_000.0;

/// One invocation: a row of the canonical form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// When it arrives, in seconds from the begin of the trace.
    pub time_s: f64,
    /// The function of the trace.
    pub function: Arc<str>,
    /// How long it works, in milliseconds.
    pub duration_ms: f64,
    /// Memory of an instance, if the source says so.
    #[serde(default)]
    pub memory_mib: Option<f64>,
}

/// Invocations by their time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace(pub Vec<Invocation>);

impl Trace {
    /// Returns a trace of invocations in any order.
    pub fn of(mut invocations: Vec<Invocation>) -> Self {
        // Names break ties, so that equal inputs give equal files.
        invocations
            .sort_by(|one, other| one.time_s.total_cmp(&other.time_s).then_with(|| one.function.cmp(&other.function)));
        Self(invocations)
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// When the file cannot be read, or a row is none; the error has its line.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let text = fs::read(path).map_err(|error| BenchError::Read(path.to_owned(), error))?;
        Self::parse(&text).map_err(|why| BenchError::Format(path.to_owned(), why))
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let (mut invocations, mut names) = (Vec::new(), BTreeMap::<Arc<str>, Arc<str>>::new());
        let mut reader = csv::Reader::from_reader(text);
        let headers = reader.headers().map_err(|error| error.to_string())?.clone();
        if headers.iter().take(3).ne(["time_s", "function", "duration_ms"]) {
            return Err("line 1: expected time_s,function,duration_ms[,memory_mib]".to_owned());
        }
        for row in reader.into_records() {
            let row = row.map_err(|error| error.to_string())?;
            let line = row.position().map_or(0, csv::Position::line);
            let mut invocation: Invocation =
                row.deserialize(Some(&headers)).map_err(|error| format!("line {line}: {error}"))?;
            let is_positive = |value: f64| value.is_finite() && value >= 0.0;
            if !is_positive(invocation.time_s) || !is_positive(invocation.duration_ms) || invocation.function.is_empty()
            {
                return Err(format!("line {line}: expected a time, a function and a duration"));
            }
            // Thousands of rows share a name.
            let name = names.entry(invocation.function.clone()).or_insert(invocation.function);
            invocation.function = name.clone();
            invocations.push(invocation);
        }
        Ok(Self::of(invocations))
    }

    /// Returns the canonical form.
    pub fn csv(&self) -> String {
        let has_memory = self.0.iter().any(|invocation| invocation.memory_mib.is_some());
        let mut text = "time_s,function,duration_ms".to_owned();
        text += if has_memory { ",memory_mib\n" } else { "\n" };
        for Invocation { time_s, function, duration_ms, memory_mib } in &self.0 {
            text += &format!("{time_s:.6},{function},{duration_ms:.3}");
            if has_memory {
                text += &memory_mib.map_or_else(|| ",".to_owned(), |mib| format!(",{mib:.1}"));
            }
            text.push('\n');
        }
        text
    }

    /// Returns the invocations of the first seconds.
    pub fn first(&self, seconds: f64) -> Self {
        Self(self.0.iter().take_while(|invocation| invocation.time_s < seconds).cloned().collect())
    }

    /// Returns the names of its functions, in a fixed order.
    pub fn functions(&self) -> Vec<Arc<str>> {
        let names: std::collections::BTreeSet<_> =
            self.0.iter().map(|invocation| invocation.function.clone()).collect();
        names.into_iter().collect()
    }
}

/// Returns the trace of a file, or the synthetic one.
///
/// # Errors
/// As [`Trace::read`].
pub fn chosen(file: Option<&PathBuf>, seed: u64) -> Result<Trace, BenchError> {
    file.map_or_else(|| Ok(generate(&Shape::default(), seed)), |path| Trace::read(path))
}
