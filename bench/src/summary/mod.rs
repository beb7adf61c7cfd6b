//! From samples to figures: series (`series.rs`), their summaries (`metric.rs`), and the parts of a cold start (`parts.rs`).
//!
//! Pure: `unifaas bench report` makes the same figures from the same samples.

mod metric;
mod parts;
mod series;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use metric::{Failures, Metric, Row};
pub use parts::{PART_NAMES, Parts};
pub use series::{Point, Series};

use crate::{options::Experiment, reference::Reference, registry::Sandbox, sample::Sample};

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
    /// The parts of cold starts.
    pub parts: Vec<Parts>,
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
    let groups = series::of(experiment, samples, context, &mut warnings);
    let mut metrics = Vec::new();
    let mut series = Vec::new();
    for (definition, group) in groups {
        let metric = metric::summarize(experiment, definition, &group, context, &mut warnings);
        metrics.push(metric);
        series.push(group);
    }
    let parts = if experiment == Experiment::Cold { parts::of(samples, context) } else { Vec::new() };
    warnings.extend(disturbed(experiment, &metrics));
    // The metrics of a burst have their requests in common.
    let mut seen = BTreeSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    Some(Evaluation { summary: Summary { experiment, metrics, parts, warnings }, series })
}

/// Returns a warning if the machine was busy with something else in some rounds.
fn disturbed(experiment: Experiment, metrics: &[Metric]) -> Option<String> {
    let sum = |count: fn(&Row) -> usize| metrics.iter().flat_map(|metric| &metric.rows).map(count).sum::<usize>();
    let (disturbed, rounds) = (sum(|row| row.disturbed), sum(|row| row.rounds));
    let share = disturbed as f64 / rounds.max(1) as f64;
    (disturbed > 0).then(|| {
        format!(
            "{}: {:.0} % of the rounds were disturbed by other work on this machine; the tables have the medians without them.",
            experiment.name(),
            (share * 100.0).max(1.0)
        )
    })
}
