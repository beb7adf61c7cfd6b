//! Series: the values of one contestant, by round.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Context;
use crate::{experiments::original, host::Noise, sample::Sample, stats::median};

/// The value of a round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The round.
    pub round: u32,
    /// Its value: that of its sample, or the median of its samples.
    pub value: f64,
    /// Whether the machine was busy with something else.
    pub is_disturbed: bool,
}

/// The values of one contestant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// The function, or the A/A control of it.
    pub function: String,
    /// What was done with it.
    pub variant: String,
    /// Simultaneous requests, connections, load, or instances.
    pub n: u32,
    /// One value for each round.
    pub points: Vec<Point>,
    /// All samples.
    pub values: Vec<f64>,
    /// Requests, and those of them that failed, by status; 0: no response.
    pub attempts: usize,
    /// See `attempts`.
    pub failures: BTreeMap<u16, usize>,
    /// The same by status and reason.
    pub reasons: BTreeMap<String, usize>,
    /// Successful requests that were not what the experiment is about.
    pub excluded: usize,
}

/// The rounds in which the machine was busy with something else, by turn.
pub struct Disturbances(BTreeSet<(u32, u32)>);

impl Disturbances {
    /// Finds them in samples.
    pub fn of(samples: &[Sample], processors: usize) -> Self {
        let mut turns: BTreeMap<(u32, u32), Noise> = BTreeMap::new();
        for sample in samples {
            let part = |value: Option<f64>| value.unwrap_or(0.0);
            let noise = Noise {
                steal_ms: part(sample.steal_ms),
                foreign_ms: part(sample.foreign_ms),
                window_ms: part(sample.window_ms),
            };
            let turn = turns.entry((sample.round, sample.position)).or_default();
            *turn = turn.plus(noise);
        }
        Self(turns.into_iter().filter(|(_, noise)| noise.is_disturbing(processors)).map(|(turn, _)| turn).collect())
    }

    /// Returns whether a sample was taken in one.
    pub fn has(&self, sample: &Sample) -> bool {
        self.0.contains(&(sample.round, sample.position))
    }
}

/// Returns the place of each name in tables.
pub fn order(context: &Context<'_>) -> BTreeMap<String, usize> {
    context.functions.iter().enumerate().map(|(place, function)| (function.name.clone(), place)).collect()
}

/// Reduces the values of a round to one.
pub type Reduce = fn(&[f64]) -> Option<f64>;

/// Returns a series for each contestant. Its points are the medians of the rounds.
pub fn by_round(
    samples: &[&Sample],
    disturbances: &Disturbances,
    order: &BTreeMap<String, usize>,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Vec<Series> {
    reduced(samples, disturbances, order, median, value)
}

/// Returns a series for each contestant. Its points are what `reduce` makes of each round.
pub fn reduced(
    samples: &[&Sample],
    disturbances: &Disturbances,
    order: &BTreeMap<String, usize>,
    reduce: Reduce,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Vec<Series> {
    // The A/A control follows its original.
    let mut all: BTreeMap<(usize, String, String, u32), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let place = order.get(original(&sample.function)).copied().unwrap_or(usize::MAX);
        all.entry((place, sample.variant.clone(), sample.function.clone(), sample.n)).or_default().push(sample);
    }
    let series = all.into_iter().map(|((_, variant, function, n), samples)| {
        let mut series = Series { function, variant, n, ..Series::default() };
        let mut rounds: BTreeMap<u32, (Vec<f64>, bool)> = BTreeMap::new();
        for sample in samples {
            let requests = sample.requests.unwrap_or(1) as usize;
            series.attempts += requests;
            let failed = sample.failed.map(|failed| failed as usize);
            let failed = failed.unwrap_or(if sample.is_success() { 0 } else { requests });
            if failed > 0 {
                *series.failures.entry(sample.status.unwrap_or(0)).or_default() += failed;
                *series.reasons.entry(reason(sample)).or_default() += failed;
            }
            if !sample.is_success() {
                continue;
            }
            if !sample.valid {
                series.excluded += 1;
            } else if let Some(value) = value(sample) {
                let round = rounds.entry(sample.round).or_default();
                round.0.push(value);
                round.1 |= disturbances.has(sample);
                series.values.push(value);
            }
        }
        let point = |(round, (values, is_disturbed)): (u32, (Vec<f64>, bool))| {
            reduce(&values).map(|value| Point { round, value, is_disturbed })
        };
        series.points = rounds.into_iter().filter_map(point).collect();
        series
    });
    series.collect()
}

/// Returns how a request has failed.
fn reason(sample: &Sample) -> String {
    let status = sample.status.map_or_else(|| "no response".to_owned(), |status| status.to_string());
    match sample.error.as_deref().and_then(|error| error.lines().next()) {
        Some(error) if !error.is_empty() => format!("{status} ({error})"),
        _ => status,
    }
}
