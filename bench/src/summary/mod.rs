//! From samples to figures.
//!
//! `definition.rs` says what the metrics are. `latency.rs` and `quantity.rs` find their series (`series.rs`), which `metric.rs`
//! summarizes; `reference.rs` says what each is compared with. `details.rs` has medians of several quantities together,
//! `replay.rs` those of keep-alive policies.
//!
//! Pure: `unifaas bench report` makes the same figures from the same samples.

mod definition;
mod details;
mod latency;
mod metric;
mod quantity;
mod reference;
mod replay;
mod series;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use definition::Better;
pub use details::{DetailRow, Details, PART_NAMES, PARTS, STEPS};
pub use metric::{FailureRate, Metric, Row};
pub use replay::{MEMORY_TIME, POLICIES, SHARE, is_of_whole_trace};
pub use series::{Point, Series};

use crate::{options::Experiment, reference::Reference, registry::Sandbox, sample::Sample};
use series::Disturbances;

/// A function, as the report needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Memory of each instance, in MiB.
    pub memory: i64,
    /// Processors of each instance. `None`: not limited.
    pub cpus: Option<f64>,
    /// The request.
    pub path: String,
}

/// The figures of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The experiment.
    pub experiment: Experiment,
    /// Its metrics.
    pub metrics: Vec<Metric>,
    /// Medians of several quantities together.
    pub details: Vec<Details>,
    /// Share of the rounds in which the machine was busy with something else.
    pub disturbed: f64,
    /// What the report says first.
    pub warnings: Vec<String>,
}

/// What summaries are made with.
#[derive(Debug)]
pub struct Context<'a> {
    /// The seed of resamples.
    pub seed: u64,
    /// Processors of the machine.
    pub processors: usize,
    /// The functions, in the order of the tables.
    pub functions: &'a [FunctionInfo],
    /// Published values.
    pub reference: &'a Reference,
}

/// The series of an experiment's metrics, and its summary.
#[derive(Debug)]
pub struct Evaluation {
    /// The figures.
    pub summary: Summary,
    /// By metric, what they are made of, in the order of the rows.
    pub series: Vec<Vec<Series>>,
}

/// Evaluates the samples of an experiment. `None`: there are none.
pub fn evaluate(experiment: Experiment, samples: &[Sample], context: &Context<'_>) -> Option<Evaluation> {
    if samples.is_empty() {
        return None;
    }
    let mut warnings = Vec::new();
    let groups = groups(experiment, samples, context, &mut warnings);
    let mut metrics = Vec::new();
    let mut series = Vec::new();
    for (definition, group) in groups {
        let metric = metric::summarize(experiment, definition, &group, context, &mut warnings);
        metrics.push(metric);
        series.push(group);
    }
    let details = details::of(experiment, samples, context);
    warnings.extend(limits(experiment, &details));
    let disturbed = disturbed(&metrics);
    // The metrics of a burst have their requests in common.
    let mut seen = BTreeSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    Some(Evaluation { summary: Summary { experiment, metrics, details, disturbed, warnings }, series })
}

/// Returns the metrics of an experiment with their series, in the order of the tables.
fn groups(
    experiment: Experiment,
    samples: &[Sample],
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> latency::Groups {
    let disturbances = Disturbances::of(samples, context.processors);
    let order = series::order(context);
    let measured: Vec<_> = samples.iter().filter(|sample| !sample.warmup).collect();
    match experiment {
        Experiment::Cold => latency::cold(&measured, &disturbances, &order),
        Experiment::Warm => latency::warm(&measured, &disturbances, &order),
        Experiment::Burst => latency::bursts(&measured, &disturbances, &order, warnings),
        Experiment::Cpu | Experiment::Alloc | Experiment::Read | Experiment::Unzip => {
            latency::work(&measured, &disturbances, &order)
        }
        _ => quantity::of(experiment, &measured, &disturbances, &order),
    }
}

/// Share of a processor from which on the client is the limit of a loop.
const CLIENT_LIMIT: f64 = 0.8;
/// Lateness of sending from which on the client is the limit, relative to the median latency.
const LATENESS_LIMIT: f64 = 0.1;

/// Difference between the client's clock and that of an instance that is no way of a request: relative, and in milliseconds.
const CLOCK_LIMIT: (f64, f64) = (0.02, 20.0);

/// Returns warnings about figures that the client limits, and about clocks that differ.
fn limits(experiment: Experiment, details: &[Details]) -> Vec<String> {
    let mut warnings = Vec::new();
    for details in details {
        let is_limited = |row: &&DetailRow| {
            let value = |column: &str| row.value(details, column);
            value("client, processors").is_some_and(|client| client > CLIENT_LIMIT)
                || value("lateness, p99")
                    .zip(value("p50"))
                    .is_some_and(|(lateness, median)| lateness > LATENESS_LIMIT * median)
        };
        for row in &details.rows {
            let clocks = row.value(details, "client").zip(row.value(details, "function"));
            if let Some((client, function)) = clocks
                .filter(|(client, function)| (client - function).abs() > (CLOCK_LIMIT.0 * function).max(CLOCK_LIMIT.1))
            {
                warnings.push(format!(
                    "{}: {} ({}) took {client:.1} ms by the client's clock and {function:.1} ms by its own.",
                    experiment.name(),
                    row.function,
                    row.variant
                ));
            }
        }
        let limited: BTreeSet<String> = details
            .rows
            .iter()
            .filter(is_limited)
            .map(|row| format!("{} ({}{})", row.function, prefix(&row.variant), row.n))
            .collect();
        if !limited.is_empty() {
            let list = limited.into_iter().collect::<Vec<_>>().join(", ");
            warnings.push(format!("{}: the client was the limit of {list}.", experiment.name()));
        }
    }
    warnings
}

fn prefix(variant: &str) -> String {
    if variant.is_empty() { String::new() } else { format!("{variant}, ") }
}

/// Returns the share of the rounds in which the machine was busy with something else.
fn disturbed(metrics: &[Metric]) -> f64 {
    let sum = |count: fn(&Row) -> usize| metrics.iter().flat_map(|metric| &metric.rows).map(count).sum::<usize>();
    let (disturbed, rounds) = (sum(|row| row.disturbed), sum(|row| row.rounds));
    disturbed as f64 / rounds.max(1) as f64
}
