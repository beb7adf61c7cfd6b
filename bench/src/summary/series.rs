//! Series: the values of one contestant, by round.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Context, metric::Definition};
use crate::{
    experiments::CONTROL,
    host::Noise,
    options::Experiment,
    sample::Sample,
    stats::{is_supported, median, quantile, sorted},
};

/// Share of a burst's median that writing its requests may take.
const MAX_WRITING: f64 = 0.05;

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
    /// Simultaneous requests.
    pub n: u32,
    /// One value for each round.
    pub points: Vec<Point>,
    /// All samples.
    pub values: Vec<f64>,
    /// Requests, and those of them that failed, by status; 0: no response.
    pub attempts: usize,
    /// See `attempts`.
    pub failures: BTreeMap<u16, usize>,
    /// Successful requests that were not what the experiment is about.
    pub excluded: usize,
}

/// The rounds in which the machine was busy with something else, by turn.
struct Disturbances(BTreeSet<(u32, u32)>);

impl Disturbances {
    fn of(samples: &[Sample], processors: usize) -> Self {
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

    fn has(&self, sample: &Sample) -> bool {
        self.0.contains(&(sample.round, sample.position))
    }
}

/// Returns the metrics of an experiment with their series, in the order of the tables.
pub fn of(
    experiment: Experiment,
    samples: &[Sample],
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Vec<(Definition, Vec<Series>)> {
    let disturbances = Disturbances::of(samples, context.processors);
    let order = order(context);
    let measured: Vec<_> = samples.iter().filter(|sample| !sample.warmup).collect();
    match experiment {
        Experiment::Cold => {
            let start = |sample: &Sample| Some((sample.t1? - sample.c0?) / 1000.0);
            vec![(Definition::COLD, by_round(&measured, &disturbances, &order, start))]
        }
        Experiment::Warm => warm(&measured, &disturbances, &order),
        Experiment::Burst => bursts(&measured, &disturbances, &order, warnings),
    }
}

/// Returns the place of each name in tables.
fn order(context: &Context<'_>) -> BTreeMap<String, usize> {
    context.functions.iter().enumerate().map(|(place, function)| (function.name.clone(), place)).collect()
}

/// Returns a series for each contestant, whose points are the medians of the rounds.
fn by_round(
    samples: &[&Sample],
    disturbances: &Disturbances,
    order: &BTreeMap<String, usize>,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Vec<Series> {
    // The A/A control follows its original.
    let mut all: BTreeMap<(usize, String, String, u32), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let name = sample.function.trim_end_matches(CONTROL);
        let place = order.get(name).copied().unwrap_or(usize::MAX);
        all.entry((place, sample.variant.clone(), sample.function.clone(), sample.n)).or_default().push(sample);
    }
    let series = all.into_iter().map(|((_, variant, function, n), samples)| {
        let mut series = Series { function, variant, n, ..Series::default() };
        let mut rounds: BTreeMap<u32, (Vec<f64>, bool)> = BTreeMap::new();
        for sample in samples {
            series.attempts += 1;
            if !sample.is_success() {
                *series.failures.entry(sample.status.unwrap_or(0)).or_default() += 1;
            } else if !sample.valid {
                series.excluded += 1;
            } else if let Some(value) = value(sample) {
                let round = rounds.entry(sample.round).or_default();
                round.0.push(value);
                round.1 |= disturbances.has(sample);
                series.values.push(value);
            }
        }
        let point = |(round, (values, is_disturbed)): (u32, (Vec<f64>, bool))| {
            median(&values).map(|value| Point { round, value, is_disturbed })
        };
        series.points = rounds.into_iter().filter_map(point).collect();
        series
    });
    series.collect()
}

/// Returns direct requests, those through the daemon, and their differences.
fn warm(
    samples: &[&Sample],
    disturbances: &Disturbances,
    order: &BTreeMap<String, usize>,
) -> Vec<(Definition, Vec<Series>)> {
    let latency = |sample: &Sample| Some((sample.t1? - sample.t0?) / 1000.0);
    let all = by_round(samples, disturbances, order, latency);
    let of =
        |variant: &str| -> Vec<Series> { all.iter().filter(|series| series.variant == variant).cloned().collect() };
    let mut metrics = Vec::new();
    for [direct, daemon, overhead] in [Definition::WARM, Definition::WARM_PAUSES] {
        let (directs, daemons) = (of(direct.variant), of(daemon.variant));
        let overheads = daemons.iter().filter_map(|through| {
            let to = directs.iter().find(|direct| direct.function == through.function)?;
            let points = through.points.iter().filter_map(|point| {
                let other = to.points.iter().find(|other| other.round == point.round)?;
                let is_disturbed = point.is_disturbed || other.is_disturbed;
                Some(Point { value: point.value - other.value, is_disturbed, ..*point })
            });
            let points: Vec<_> = points.collect();
            let values = points.iter().map(|point| point.value).collect();
            let variant = overhead.variant.to_owned();
            Some(Series { variant, points, values, ..through.clone() })
        });
        let overheads = overheads.collect();
        metrics.extend([(direct, directs), (daemon, daemons), (overhead, overheads)]);
    }
    metrics.retain(|(_, series)| !series.is_empty());
    metrics
}

/// Returns the first, the median, the 95th percentile and the last answer of bursts.
fn bursts(
    samples: &[&Sample],
    disturbances: &Disturbances,
    order: &BTreeMap<String, usize>,
    warnings: &mut Vec<String>,
) -> Vec<(Definition, Vec<Series>)> {
    let frame = by_round(samples, disturbances, order, |_| None);
    let mut by_burst: BTreeMap<(&str, u32, u32), Vec<&Sample>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.is_counted()) {
        by_burst.entry((&sample.function, sample.n, sample.round)).or_default().push(sample);
    }
    let mut metrics: Vec<(Definition, Vec<Series>)> =
        Definition::BURST.into_iter().map(|definition| (definition, frame.clone())).collect();
    let mut slow = 0;
    for ((function, n, round), burst) in by_burst {
        let is_disturbed = burst.iter().any(|sample| disturbances.has(sample));
        let Some(times) = times(&burst) else {
            slow += 1;
            continue;
        };
        let p95 = is_supported(times.len(), 0.95).then(|| quantile(&times, 0.95)).flatten();
        let values = [times.first().copied(), quantile(&times, 0.5), p95, times.last().copied()];
        for ((_, all), value) in metrics.iter_mut().zip(values) {
            let series = all.iter_mut().find(|series| series.function == function && series.n == n);
            if let (Some(series), Some(value)) = (series, value) {
                series.points.push(Point { round, value, is_disturbed });
                series.values.push(value);
            }
        }
    }
    if slow > 0 {
        warnings.push(format!(
            "burst: {slow} bursts are left out, as writing their requests took over {:.0} % of their median.",
            MAX_WRITING * 100.0
        ));
    }
    metrics.retain(|(_, all)| all.iter().any(|series| !series.points.is_empty()));
    metrics
}

/// Returns the times of a burst's answers from its first write, sorted, in milliseconds. `None`: writing took too long.
fn times(burst: &[&Sample]) -> Option<Vec<f64>> {
    let begins = sorted(burst.iter().filter_map(|sample| sample.t0).collect());
    let begin = begins.first()?;
    let times = sorted(burst.iter().filter_map(|sample| Some((sample.t1? - begin) / 1000.0)).collect());
    let writing = (begins.last()? - begin) / 1000.0;
    (writing <= MAX_WRITING * quantile(&times, 0.5)?).then_some(times)
}
