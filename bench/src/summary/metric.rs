//! Metrics: location, interval and comparison of each series.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Context,
    definition::{Better, Definition},
    reference::{is_control, references},
    series::Series,
};
use crate::{
    experiments::{BASELINE, original},
    options::Experiment,
    stats::{
        Comparison, Interval, Location, autocorrelation, compare, generator, median, median_interval, theil_sen, wilson,
    },
};

/// Change over all rounds, relative to the median, that is a drift.
const DRIFT: f64 = 0.05;
/// Correlation of a round with the next one from which on rounds count as dependent.
const DEPENDENCE: f64 = 0.3;
/// Rounds from which on drift and dependence are looked at.
const MIN_TREND: usize = 10;
/// Reasons of failures that a warning has.
const MAX_REASONS: usize = 3;

/// Failed requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FailureRate {
    /// Requests in all.
    pub attempts: usize,
    /// Those that failed, by status; 0: no response.
    pub by_status: BTreeMap<u16, usize>,
    /// The same by status and reason.
    #[serde(default)]
    pub by_reason: BTreeMap<String, usize>,
    /// Wilson's interval of their fraction.
    pub interval: Option<(f64, f64)>,
}

impl FailureRate {
    /// Returns how many have failed.
    pub fn count(&self) -> usize {
        self.by_status.values().sum()
    }

    /// Returns the most frequent reasons with their numbers. Reasons that differ only in numbers, such as ports, are one.
    fn said(&self) -> String {
        let mut kinds: BTreeMap<String, (usize, &str)> = BTreeMap::new();
        for (reason, count) in &self.by_reason {
            // The status is no such number.
            let (status, rest) = reason.split_once(' ').unwrap_or((reason, ""));
            let kind = format!("{status} {}", rest.replace(|digit: char| digit.is_ascii_digit(), ""));
            kinds.entry(kind).or_insert((0, reason)).0 += count;
        }
        let mut kinds: Vec<_> = kinds.into_values().collect();
        kinds.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let others: usize = kinds.iter().skip(MAX_REASONS).map(|(count, _)| count).sum();
        let mut said: Vec<_> =
            kinds.iter().take(MAX_REASONS).map(|(count, reason)| format!("{count} × {reason}")).collect();
        said.extend((others > 0).then(|| format!("{others} for other reasons")));
        said.join(", ")
    }
}

/// The figures of a contestant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The function, or the A/A control of it.
    pub function: String,
    /// What was done with it.
    pub variant: String,
    /// Simultaneous requests, connections, load, or instances.
    pub n: u32,
    /// Whether it is the A/A control.
    pub is_control: bool,
    /// Rounds that count.
    pub rounds: usize,
    /// Location of the samples; its median is that of the rounds. `None`: none succeeded.
    pub location: Option<Location>,
    /// Interval of the median.
    pub interval: Option<Interval>,
    /// Rounds in which the machine was busy with something else, and the median of the other ones.
    pub disturbed: usize,
    /// See `disturbed`.
    pub undisturbed_median: Option<f64>,
    /// Failed requests.
    pub failures: FailureRate,
    /// Successful requests that were not what the experiment is about.
    pub excluded: usize,
    /// Against the reference. `None`: it is the reference, or they cannot be compared.
    pub comparison: Option<Comparison>,
    /// The reference.
    pub against: Option<String>,
    /// Change over all rounds, relative to the median.
    pub drift: Option<f64>,
    /// Correlation of each round with the next one.
    pub autocorrelation: Option<f64>,
    /// Published values for this sandbox, of another machine.
    pub paper: Option<String>,
}

/// The A/A control: the first function beside itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// What was done with it.
    pub variant: String,
    /// Simultaneous requests, connections, load, or instances.
    pub n: u32,
    /// The ratio of the function to itself.
    pub comparison: Comparison,
    /// The largest difference that it shows by chance, relative.
    pub resolution: Option<f64>,
}

/// The figures of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name in files.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// From when to when.
    pub meaning: String,
    /// Its unit.
    pub unit: String,
    /// What the numbers of its contestants count. Empty: they have none.
    pub count: String,
    /// What is an improvement.
    pub better: Better,
    /// Whether values may be compared as ratios.
    pub has_ratios: bool,
    /// The contestants.
    pub rows: Vec<Row>,
    /// The A/A controls.
    pub controls: Vec<Control>,
    /// Whether no control finds a difference where there is none.
    pub is_reliable: bool,
}

impl Metric {
    /// Returns the smallest difference that rows of a kind can show. Variants without a control have that of the others.
    pub fn resolution(&self, variant: &str, n: u32) -> Option<f64> {
        let same_n = || self.controls.iter().filter(move |control| control.n == n);
        let same = same_n().find(|control| control.variant == variant);
        same.or_else(|| same_n().next()).and_then(|control| control.resolution)
    }
}

/// Summarizes the series of a metric.
pub fn summarize(
    experiment: Experiment,
    definition: Definition,
    series: &[Series],
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Metric {
    let random = |purpose: &str, one: &Series| {
        generator(context.seed, &format!("{purpose} of {} {} {} {}", definition.id, one.function, one.variant, one.n))
    };
    let controls = controls(definition, series, random);
    let is_of_itself = |control: &Control| control.comparison.interval.is_none_or(|interval| interval.contains(1.0));
    let is_reliable = controls.iter().all(is_of_itself);
    if !is_reliable {
        warnings.push(format!(
            "{}: the A/A control finds a difference between a function and itself. The whole run is unreliable.",
            definition.title
        ));
    }
    let mut metric = Metric {
        id: definition.id.to_owned(),
        title: definition.title.to_owned(),
        meaning: definition.meaning.to_owned(),
        unit: definition.unit().to_owned(),
        count: definition.count.to_owned(),
        better: definition.better,
        has_ratios: definition.has_ratios,
        rows: Vec::new(),
        controls,
        is_reliable,
    };
    let references = if definition.has_ratios { references(experiment, series) } else { vec![None; series.len()] };
    for (one, reference) in series.iter().zip(&references) {
        let mut row = row(one, &mut random("median", one), context, definition);
        if let Some(reference) = reference {
            let together =
                series.iter().zip(&references).filter(|(other, to)| to.is_some() && other.n == one.n).count();
            let resolution = metric.resolution(&one.variant, one.n);
            row.against = Some(reference.name.clone());
            let to = &series[reference.place];
            row.comparison = compare(&pairs(one, to), together, resolution, &mut random("ratio", one));
        }
        warn(experiment, definition, &row, warnings);
        metric.rows.push(row);
    }
    metric
}

/// Compares the A/A controls with their originals.
fn controls<R: rand::Rng>(
    definition: Definition,
    series: &[Series],
    random: impl Fn(&str, &Series) -> R,
) -> Vec<Control> {
    let is_original = |one: &Series, control: &Series| {
        one.function == original(&control.function) && one.variant == control.variant && one.n == control.n
    };
    let all: Vec<_> = series.iter().filter(|one| is_control(one) && definition.has_ratios).collect();
    let control = |control: &&Series| {
        let original = series.iter().find(|one| is_original(one, control))?;
        // A control has no resolution to exceed.
        let random = &mut random("control", control);
        let comparison = compare(&pairs(control, original), all.len(), Some(0.0), random)?;
        let resolution = comparison.interval.map(|interval| (interval.high - 1.0).max(1.0 / interval.low - 1.0));
        Some(Control { variant: control.variant.clone(), n: control.n, comparison, resolution })
    };
    all.iter().filter_map(control).collect()
}

/// Returns the values of the rounds that both have.
fn pairs(this: &Series, to: &Series) -> Vec<(f64, f64)> {
    let pair = |point: &super::Point| {
        let other = to.points.iter().find(|other| other.round == point.round)?;
        Some((point.value, other.value))
    };
    this.points.iter().filter_map(pair).collect()
}

fn row(series: &Series, random: &mut impl rand::Rng, context: &Context<'_>, definition: Definition) -> Row {
    let rounds: Vec<f64> = series.points.iter().map(|point| point.value).collect();
    let middle = median(&rounds);
    let location = Location::of(series.values.clone());
    let location = location.zip(middle).map(|(location, median)| Location { median, ..location });
    let quiet: Vec<f64> = series.points.iter().filter(|point| !point.is_disturbed).map(|point| point.value).collect();
    let line: Vec<_> = series.points.iter().map(|point| (f64::from(point.round), point.value)).collect();
    let is_long = rounds.len() >= MIN_TREND;
    let slope = theil_sen(&line).filter(|_| is_long).map(|(slope, _)| slope);
    let name = original(&series.function);
    let sandbox = context.functions.iter().find(|function| function.name == name).map(|function| &function.sandbox);
    let failed: usize = series.failures.values().sum();
    Row {
        function: series.function.clone(),
        variant: series.variant.clone(),
        n: series.n,
        is_control: is_control(series),
        rounds: rounds.len(),
        location,
        interval: median_interval(&rounds, 0.95, random),
        disturbed: rounds.len() - quiet.len(),
        undisturbed_median: median(&quiet),
        failures: FailureRate {
            attempts: series.attempts,
            by_status: series.failures.clone(),
            by_reason: series.reasons.clone(),
            interval: wilson(failed, series.attempts),
        },
        excluded: series.excluded,
        comparison: None,
        against: None,
        drift: slope.zip(middle).filter(|(_, median)| *median > 0.0).map(|(slope, median)| {
            let length = line.last().map_or(0.0, |last| last.0) - line.first().map_or(0.0, |first| first.0);
            slope * length / median
        }),
        autocorrelation: autocorrelation(&rounds).filter(|_| is_long),
        paper: sandbox
            .filter(|_| !series.function.ends_with(BASELINE))
            .and_then(|sandbox| context.reference.text(definition.id, &sandbox.name, &series.variant, series.n)),
    }
}

fn warn(experiment: Experiment, definition: Definition, row: &Row, warnings: &mut Vec<String>) {
    let variant = if row.variant.is_empty() || row.variant == experiment.name() {
        String::new()
    } else {
        format!(" ({})", row.variant)
    };
    let number = match definition.count {
        "" => String::new(),
        "load" => format!(", load {}", row.n),
        count => format!(", {} {count}", row.n),
    };
    let who = format!("{}: {}{variant}{number}", experiment.name(), row.function);
    let failed = row.failures.count();
    if failed > 0 {
        let said = row.failures.said();
        warnings.push(format!("{who}: {failed} of {} requests have failed: {said}.", row.failures.attempts));
    }
    if row.excluded > 0 {
        warnings.push(format!(
            "{who}: {} of {} requests are left out, as they were not what is measured (cold although warm was meant, or \
             the other way round).",
            row.excluded, row.failures.attempts
        ));
    }
    if let Some(drift) = row.drift.filter(|drift| drift.abs() > DRIFT) {
        warnings.push(format!("{who}: the values drift by {:+.0} % over the rounds.", drift * 100.0));
    }
    if let Some(correlation) = row.autocorrelation.filter(|correlation| *correlation > DEPENDENCE) {
        warnings.push(format!("{who}: rounds depend on each other (autocorrelation {correlation:.2})."));
    }
}
