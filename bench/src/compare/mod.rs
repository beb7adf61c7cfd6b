//! Two folders of results beside each other: is the second one worse?
//!
//! `change.rs` decides about each median; this file finds what can be compared, and writes the answer.

mod change;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::{
    error::BenchError,
    experiments::CONTROL,
    host::Machine,
    plan::Plan,
    reference::Reference,
    report::format::{number, percent},
    results::Results,
    sample,
    stats::{Interval, generator, ratio_of_medians},
    summary::{Better, Context, Evaluation, Metric, evaluate},
};
use change::{Change, change};

/// Facts that tell machines apart. The others change on the same machine.
const MACHINE: [&str; 8] =
    ["processor", "processors", "SMT", "governor", "kernel", "virtualization", "memory", "clock source"];

/// The medians of a contestant in both folders.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    title: String,
    contestant: String,
    unit: String,
    before: f64,
    after: f64,
    interval: Option<Interval>,
    /// `None`: judgements were not asked for, or are not possible.
    change: Option<Change>,
}

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    notes: Vec<String>,
    rows: Vec<Compared>,
}

impl Comparison {
    /// Returns whether a median is worse.
    pub fn has_regression(&self) -> bool {
        self.rows.iter().any(|row| row.change == Some(Change::Regression))
    }

    /// Returns it for a terminal, as Markdown.
    pub fn text(&self) -> String {
        let mut text: String = self.notes.iter().map(|note| format!("- {note}\n")).collect();
        text += "\n| metric | contestant | before | after | ratio, simultaneous 95 % interval | |\n";
        text += "| --- | --- | ---: | ---: | --- | --- |\n";
        for row in &self.rows {
            let ratio = row.interval.map_or_else(
                || format!("{} (too few rounds for an interval)", number(row.after / row.before)),
                |interval| {
                    format!(
                        "{} ({} to {})",
                        number(row.after / row.before),
                        number(interval.low),
                        number(interval.high)
                    )
                },
            );
            let change = row.change.map_or("", Change::name);
            let (before, after) = (number(row.before), number(row.after));
            text += &format!(
                "| {}, {} | {} | {before} | {after} | {ratio} | {change} |\n",
                row.title, row.unit, row.contestant
            );
        }
        let count = |wanted| self.rows.iter().filter(|row| row.change == Some(wanted)).count();
        let (worse, better) = (count(Change::Regression), count(Change::Improvement));
        text + &format!("\n{} medians: {worse} worse, {better} better\n", self.rows.len())
    }
}

/// Compares two folders.
///
/// # Errors
/// When they cannot be compared, unless `force` asks for figures without judgements, or cannot be read.
pub fn compare(before: &Path, after: &Path, threshold: f64, force: bool) -> Result<Comparison, BenchError> {
    let (earlier, later) = (Results::read(before)?, Results::read(after)?);
    let obstacles = obstacles(&earlier, &later);
    if !obstacles.is_empty() && !force {
        let list = obstacles.join("; ");
        return Err(BenchError::Usage(format!(
            "these folders cannot be compared: {list}. --force shows their figures"
        )));
    }
    let mut notes: Vec<_> = obstacles.iter().map(|obstacle| format!("No judgements: {obstacle}.")).collect();
    notes.extend([("before", &earlier), ("after", &later)].map(|(name, results)| reliability(name, results)));
    notes.push(
        "Runs differ by their day as well. `unifaas bench --baseline EXECUTABLE` measures both builds in the same rounds."
            .to_owned(),
    );
    let reference = Reference::default();
    let mut evaluations = Vec::new();
    for experiment in earlier.plan.experiments.iter().filter(|experiment| later.plan.experiments.contains(experiment)) {
        let evaluated = |folder: &Path, results: &Results| -> Result<Option<Evaluation>, BenchError> {
            let (samples, _) = sample::read(folder, experiment.name())?;
            let context = Context {
                seed: results.plan.seed,
                processors: results.machine.processors,
                functions: &results.functions,
                reference: &reference,
            };
            Ok(evaluate(*experiment, &samples, &context))
        };
        evaluations.extend(evaluated(before, &earlier)?.zip(evaluated(after, &later)?));
    }
    let rows: Vec<_> = evaluations.iter().flat_map(|(one, other)| pairs(one, other)).collect();
    let together = rows.len();
    let compared = |pair: Pair<'_>| pair.compare(together, threshold, obstacles.is_empty());
    Ok(Comparison { notes, rows: rows.into_iter().filter_map(compared).collect() })
}

/// Returns why judgements would mean nothing.
fn obstacles(before: &Results, after: &Results) -> Vec<String> {
    let mut obstacles = Vec::new();
    for (name, results) in [("the first", before), ("the second", after)] {
        if !results.complete {
            obstacles.push(format!("{name} run was cut short"));
        }
    }
    let differing = |name: &&&str| before.machine.fact(name) != after.machine.fact(name);
    let facts: Vec<_> = MACHINE.iter().filter(differing).copied().collect();
    if !facts.is_empty() || before.machine.processors != after.machine.processors {
        obstacles.push(format!("the machines differ ({})", describe(&facts, &before.machine, &after.machine)));
    }
    if settings(&before.plan) != settings(&after.plan) {
        obstacles.push("the settings of the runs differ".to_owned());
    }
    if before.functions != after.functions {
        obstacles.push("the functions differ, or their memory, processors or requests".to_owned());
    }
    obstacles
}

fn describe(facts: &[&str], before: &Machine, after: &Machine) -> String {
    let of = |machine: &Machine, name| machine.fact(name).unwrap_or("unknown").to_owned();
    let texts = facts.iter().map(|name| format!("{name}: {} and {}", of(before, name), of(after, name)));
    texts.collect::<Vec<_>>().join(", ")
}

/// Returns what has to be equal of two plans: all but what differs between any two runs.
fn settings(plan: &Plan) -> Plan {
    Plan { seed: 0, settle: 0, daemon: None, ..plan.clone() }
}

/// Returns how far a run can be relied on.
fn reliability(name: &str, results: &Results) -> String {
    let metrics: Vec<_> = results.summaries.iter().flat_map(|summary| &summary.metrics).collect();
    let unreliable = metrics.iter().filter(|metric| !metric.is_reliable).count();
    let resolutions = metrics.iter().flat_map(|metric| &metric.controls).filter_map(|control| control.resolution);
    let worst = resolutions.reduce(f64::max).map_or_else(|| "unknown".to_owned(), percent);
    let clock = match &results.calibration {
        Some(calibration) if calibration.is_reliable => "agrees with a known delay",
        Some(_) => "does not agree with a known delay",
        None => "was not calibrated",
    };
    let version = results.machine.fact("UniFaaS").unwrap_or("unknown");
    let doubts = if unreliable == 0 {
        "no A/A control finds a difference".to_owned()
    } else {
        format!("{unreliable} A/A controls find a difference, so take no change for sure")
    };
    format!("{name}: UniFaaS {version}, {}; resolution {worst} at worst; {doubts}; the clock {clock}.", results.began)
}

/// A contestant in both folders.
struct Pair<'e> {
    metric: &'e Metric,
    contestant: String,
    resolution: f64,
    before: Vec<f64>,
    after: Vec<f64>,
}

fn pairs<'e>(before: &'e Evaluation, after: &'e Evaluation) -> Vec<Pair<'e>> {
    let mut pairs = Vec::new();
    for (metric, series) in before.summary.metrics.iter().zip(&before.series).filter(|(metric, _)| metric.has_ratios) {
        let others = after.summary.metrics.iter().zip(&after.series);
        let Some((later, others)) = others.into_iter().find(|(other, _)| other.id == metric.id) else { continue };
        for one in series.iter().filter(|one| !one.function.ends_with(CONTROL)) {
            let same = |other: &&crate::summary::Series| {
                other.function == one.function && other.variant == one.variant && other.n == one.n
            };
            let Some(other) = others.iter().find(same) else { continue };
            let values = |series: &crate::summary::Series| series.points.iter().map(|point| point.value).collect();
            let resolution = |metric: &Metric| metric.resolution(&one.variant, one.n).unwrap_or(0.0);
            let variant = if one.variant.is_empty() { String::new() } else { format!(" ({})", one.variant) };
            let n = if metric.count.is_empty() { String::new() } else { format!(", {} {}", one.n, metric.count) };
            pairs.push(Pair {
                metric,
                contestant: format!("{}{variant}{n}", one.function),
                resolution: resolution(metric).max(resolution(later)),
                before: values(one),
                after: values(other),
            });
        }
    }
    pairs
}

impl Pair<'_> {
    /// Compares it as one of `together` pairs.
    fn compare(self, together: usize, threshold: f64, is_judged: bool) -> Option<Compared> {
        let Self { metric, contestant, resolution, before, after } = self;
        let middle = crate::stats::median;
        let (one, other) = (middle(&before)?, middle(&after)?);
        if one <= 0.0 {
            return None;
        }
        // Bonferroni.
        let confidence = 1.0 - 0.05 / together.max(1) as f64;
        let mut random = generator(0, &format!("comparison of {} {contestant}", metric.id));
        let interval = ratio_of_medians(&before, &after, confidence, &mut random);
        let least = threshold.max(resolution);
        let change = interval.map(|interval| change(interval, metric.better == Better::Higher, least));
        Some(Compared {
            title: metric.title.clone(),
            contestant,
            unit: metric.unit.clone(),
            before: one,
            after: other,
            interval,
            change: change.filter(|_| is_judged),
        })
    }
}
