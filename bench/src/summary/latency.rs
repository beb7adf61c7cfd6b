//! Metrics of single requests: cold starts, warm requests, bursts, work.

use std::collections::BTreeMap;

use super::{
    definition::Definition,
    series::{Disturbances, Point, Series, by_round},
};
use crate::{
    sample::Sample,
    stats::{is_supported, quantile, sorted},
};

/// Share of a burst's median that writing its requests may take.
const MAX_WRITING: f64 = 0.05;
/// The variants of warm requests: directly and through the daemon, without pauses and with them.
const WARM_VARIANTS: [(&str, &str); 2] = [("direct", "daemon"), ("direct, 10 ms pauses", "daemon, 10 ms pauses")];

/// Metrics with their series, in the order of the tables.
pub type Groups = Vec<(Definition, Vec<Series>)>;
type Order = BTreeMap<String, usize>;

/// Returns the time from the first write to the first byte, in milliseconds.
fn latency(sample: &Sample) -> Option<f64> {
    Some((sample.t1? - sample.t0?) / 1000.0)
}

/// Returns cold starts, with what they are compared with.
pub fn cold(samples: &[&Sample], disturbances: &Disturbances, order: &Order) -> Groups {
    let start = |sample: &Sample| Some((sample.t1? - sample.c0?) / 1000.0);
    vec![(Definition::COLD, by_round(samples, disturbances, order, start))]
}

/// Returns the work of the benchmark function.
pub fn work(samples: &[&Sample], disturbances: &Disturbances, order: &Order) -> Groups {
    let all = by_round(samples, disturbances, order, latency);
    let of = |name: &str| -> Vec<Series> {
        all.iter().filter(|series| series.variant.split(',').next() == Some(name)).cloned().collect()
    };
    let groups = Definition::WORK.into_iter().map(|(name, definition)| (definition, of(name)));
    groups.filter(|(_, series)| !series.is_empty()).collect()
}

/// Returns direct requests, those through the daemon, and their differences.
pub fn warm(samples: &[&Sample], disturbances: &Disturbances, order: &Order) -> Groups {
    let all = by_round(samples, disturbances, order, latency);
    let of =
        |variant: &str| -> Vec<Series> { all.iter().filter(|series| series.variant == variant).cloned().collect() };
    let mut metrics = Vec::new();
    for ([direct, daemon, overhead], variants) in
        [Definition::WARM, Definition::WARM_PAUSES].into_iter().zip(WARM_VARIANTS)
    {
        let (directs, daemons) = (of(variants.0), of(variants.1));
        let overheads = daemons.iter().filter_map(|through| {
            let to = directs.iter().find(|direct| direct.function == through.function)?;
            let points = through.points.iter().filter_map(|point| {
                let other = to.points.iter().find(|other| other.round == point.round)?;
                let is_disturbed = point.is_disturbed || other.is_disturbed;
                Some(Point { value: point.value - other.value, is_disturbed, ..*point })
            });
            let points: Vec<_> = points.collect();
            let values = points.iter().map(|point| point.value).collect();
            let variant = variants.1.replacen("daemon", "overhead", 1);
            Some(Series { variant, points, values, ..through.clone() })
        });
        let overheads = overheads.collect();
        metrics.extend([(direct, directs), (daemon, daemons), (overhead, overheads)]);
    }
    metrics.retain(|(_, series)| !series.is_empty());
    metrics
}

/// Returns the first, the median, the 95th percentile and the last answer of bursts.
pub fn bursts(samples: &[&Sample], disturbances: &Disturbances, order: &Order, warnings: &mut Vec<String>) -> Groups {
    let frame = by_round(samples, disturbances, order, |_| None);
    let mut by_burst: BTreeMap<(&str, u32, u32), Vec<&Sample>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.is_counted()) {
        by_burst.entry((&sample.function, sample.n, sample.round)).or_default().push(sample);
    }
    let mut metrics: Groups = Definition::BURST.into_iter().map(|definition| (definition, frame.clone())).collect();
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
