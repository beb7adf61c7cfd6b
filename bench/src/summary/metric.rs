//! Metrics: location, interval and comparison of each series.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Context, series::Series};
use crate::{
    experiments::CONTROL,
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

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    /// Its name in files.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// From when to when.
    pub meaning: &'static str,
    /// The variant of its samples, if it has one only.
    pub variant: &'static str,
}

impl Definition {
    /// The time of a cold start.
    pub const COLD: Self = Self {
        id: "cold",
        title: "Cold start",
        meaning: "from before connect(2) to the first byte of the response, ms",
        variant: "",
    };
    /// Warm requests without pauses.
    pub const WARM: [Self; 3] = [
        Self::warm("warm-direct", "Warm request, directly", "direct", ""),
        Self::warm("warm-daemon", "Warm request through the daemon", "daemon", ""),
        Self::warm("warm-overhead", "What the daemon adds to a warm request", "overhead", DIFFERENCE),
    ];
    /// Warm requests with pauses.
    pub const WARM_PAUSES: [Self; 3] = [
        Self::warm("warm-direct-pauses", "Warm request, directly, 10 ms pauses", "direct, 10 ms pauses", ""),
        Self::warm("warm-daemon-pauses", "Warm request through the daemon, 10 ms pauses", "daemon, 10 ms pauses", ""),
        Self::warm(
            "warm-overhead-pauses",
            "What the daemon adds to a warm request, 10 ms pauses",
            "overhead, 10 ms pauses",
            DIFFERENCE,
        ),
    ];
    /// Bursts.
    pub const BURST: [Self; 4] = [
        Self::burst("burst-first", "Burst, first answer", "to the first byte of the first response, ms"),
        Self::burst("burst-median", "Burst, median answer", "to the median of the first bytes, ms"),
        Self::burst("burst-p95", "Burst, 95th percentile", "to the 95th percentile of the first bytes, ms"),
        Self::burst(
            "burst-last",
            "Burst, last answer",
            "from the first write(2) to the first byte of the last response, ms",
        ),
    ];

    const fn warm(id: &'static str, title: &'static str, variant: &'static str, meaning: &'static str) -> Self {
        let meaning =
            if meaning.is_empty() { "from the first write(2) to the first byte of the response, ms" } else { meaning };
        Self { id, title, meaning, variant }
    }

    const fn burst(id: &'static str, title: &'static str, meaning: &'static str) -> Self {
        Self { id, title, meaning, variant: "" }
    }

    /// Whether values may be compared as ratios. Differences may be close to zero.
    fn has_ratios(&self) -> bool {
        self.meaning != DIFFERENCE
    }
}

const DIFFERENCE: &str = "difference of the medians of each round, ms";

/// Failed requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Failures {
    /// Requests in all.
    pub attempts: usize,
    /// Those that failed, by status; 0: no response.
    pub by_status: BTreeMap<u16, usize>,
    /// Wilson's interval of their fraction.
    pub interval: Option<(f64, f64)>,
}

impl Failures {
    /// Returns how many have failed.
    pub fn count(&self) -> usize {
        self.by_status.values().sum()
    }
}

/// The figures of a contestant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The function, or the A/A control of it.
    pub function: String,
    /// What was done with it.
    pub variant: String,
    /// Simultaneous requests.
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
    pub failures: Failures,
    /// Successful requests that were not what the experiment is about.
    pub excluded: usize,
    /// Against the reference. `None`: it is the reference, or they cannot be compared.
    pub comparison: Option<Comparison>,
    /// Change over all rounds, relative to the median.
    pub drift: Option<f64>,
    /// Correlation of each round with the next one.
    pub autocorrelation: Option<f64>,
    /// Published values for this sandbox, of another machine.
    pub paper: Option<String>,
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
    /// The contestants.
    pub rows: Vec<Row>,
    /// The A/A controls by number of simultaneous requests: the ratio of the first function to itself.
    pub controls: BTreeMap<u32, Comparison>,
    /// The largest difference that they show by chance, relative.
    pub resolutions: BTreeMap<u32, f64>,
    /// Whether no control finds a difference where there is none.
    pub is_reliable: bool,
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
    let (mut controls, mut resolutions) = (BTreeMap::new(), BTreeMap::new());
    for control in series.iter().filter(|one| is_control(one) && definition.has_ratios()) {
        let original = control.function.trim_end_matches(CONTROL);
        let Some(original) = series.iter().find(|one| one.function == original && is_same_kind(one, control)) else {
            continue;
        };
        // A control has no resolution to exceed.
        let Some(found) = compare(&pairs(control, original), 1, Some(0.0), &mut random("control", control)) else {
            continue;
        };
        if let Some(interval) = found.interval {
            resolutions.insert(control.n, (interval.high - 1.0).max(1.0 / interval.low - 1.0));
        }
        controls.insert(control.n, found);
    }
    let is_reliable = controls.values().all(|found| found.interval.is_none_or(|interval| interval.contains(1.0)));
    if !is_reliable {
        warnings.push(format!(
            "{}: the A/A control finds a difference between a function and itself. The whole run is unreliable.",
            definition.title
        ));
    }
    let mut rows = Vec::new();
    for one in series {
        let reference = series.iter().find(|other| other.n == one.n && !is_control(other));
        let compared = series.iter().filter(|other| other.n == one.n && !is_control(other)).count().saturating_sub(1);
        let comparison =
            reference.filter(|to| *to != one && !is_control(one) && definition.has_ratios()).and_then(|to| {
                compare(&pairs(one, to), compared, resolutions.get(&one.n).copied(), &mut random("ratio", one))
            });
        let row = row(one, comparison, &mut random("median", one), context, definition);
        warn(experiment, &row, warnings);
        rows.push(row);
    }
    Metric {
        id: definition.id.to_owned(),
        title: definition.title.to_owned(),
        meaning: definition.meaning.to_owned(),
        rows,
        controls,
        resolutions,
        is_reliable,
    }
}

fn is_control(series: &Series) -> bool {
    series.function.ends_with(CONTROL)
}

fn is_same_kind(one: &Series, other: &Series) -> bool {
    one.variant == other.variant && one.n == other.n
}

/// Returns the values of the rounds that both have.
fn pairs(this: &Series, to: &Series) -> Vec<(f64, f64)> {
    let pair = |point: &super::Point| {
        let other = to.points.iter().find(|other| other.round == point.round)?;
        Some((point.value, other.value))
    };
    this.points.iter().filter_map(pair).collect()
}

fn row(
    series: &Series,
    comparison: Option<Comparison>,
    random: &mut impl rand::Rng,
    context: &Context<'_>,
    definition: Definition,
) -> Row {
    let rounds: Vec<f64> = series.points.iter().map(|point| point.value).collect();
    let middle = median(&rounds);
    let location = Location::of(series.values.clone());
    let location = location.zip(middle).map(|(location, median)| Location { median, ..location });
    let quiet: Vec<f64> = series.points.iter().filter(|point| !point.is_disturbed).map(|point| point.value).collect();
    let line: Vec<_> = series.points.iter().map(|point| (f64::from(point.round), point.value)).collect();
    let is_long = rounds.len() >= MIN_TREND;
    let slope = theil_sen(&line).filter(|_| is_long).map(|(slope, _)| slope);
    let name = series.function.trim_end_matches(CONTROL);
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
        failures: Failures {
            attempts: series.attempts,
            by_status: series.failures.clone(),
            interval: wilson(failed, series.attempts),
        },
        excluded: series.excluded,
        comparison,
        drift: slope.zip(middle).filter(|(_, median)| *median > 0.0).map(|(slope, median)| {
            let length = line.last().map_or(0.0, |last| last.0) - line.first().map_or(0.0, |first| first.0);
            slope * length / median
        }),
        autocorrelation: autocorrelation(&rounds).filter(|_| is_long),
        paper: sandbox
            .and_then(|sandbox| context.reference.text(definition.id, &sandbox.name, &series.variant, series.n)),
    }
}

fn warn(experiment: Experiment, row: &Row, warnings: &mut Vec<String>) {
    let variant = if row.variant.is_empty() || row.variant == experiment.name() {
        String::new()
    } else {
        format!(" ({})", row.variant)
    };
    let simultaneous = if row.n > 1 { format!(", {} at once", row.n) } else { String::new() };
    let who = format!("{}: {}{variant}{simultaneous}", experiment.name(), row.function);
    let failed = row.failures.count();
    if failed > 0 {
        warnings.push(format!("{who}: {failed} of {} requests have failed.", row.failures.attempts));
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
