//! Metrics of quantities: rates, quantiles of loops, memory, processor time.

use std::collections::BTreeMap;

use super::{
    definition::Definition,
    latency::Groups,
    series::{Disturbances, Point, Series, by_round, reduced},
};
use crate::{
    experiments::{idle, load, memory, replay, throughput, transfer},
    options::Experiment,
    sample::Sample,
    stats::{mean, theil_sen},
};

type Order = BTreeMap<String, usize>;

/// Returns the metrics of an experiment whose samples are quantities.
pub fn of(experiment: Experiment, samples: &[&Sample], disturbances: &Disturbances, order: &Order) -> Groups {
    let one = |definition, metric: &str| {
        let chosen = with(samples, metric);
        (definition, by_round(&chosen, disturbances, order, |sample| sample.value))
    };
    let groups = match experiment {
        Experiment::Throughput => vec![one(Definition::THROUGHPUT, throughput::RATE)],
        Experiment::Transfer => vec![one(Definition::TRANSFER, transfer::RATE)],
        Experiment::Load => {
            let metrics = ["p50", "p99", "p99.9"].map(|q| format!("{}-{q}", load::LATENCY));
            let of = |(definition, metric): (Definition, String)| {
                // Requests and failures are counted in another row.
                let mut group = one(definition, &metric);
                count(&mut group.1, &one(definition, load::SENT).1);
                group
            };
            Definition::LOAD.into_iter().zip(metrics).map(of).collect()
        }
        Experiment::Replay => {
            let of = |(definition, metric): (Definition, &str)| {
                let mut group = one(definition, metric);
                count(&mut group.1, &one(definition, replay::SENT).1);
                // What was not measured has a table of its own.
                group.1.retain(|series| !series.variant.contains(replay::SIMULATED));
                group
            };
            let metrics = [replay::COLD_SHARE, replay::MEMORY, replay::SLOWDOWN[0].0];
            Definition::REPLAY.into_iter().zip(metrics).map(of).collect()
        }
        Experiment::Idle => {
            // Instances wake up in some windows and sleep in others, so a median would miss their work.
            let means = |definition, metric: &str| {
                (definition, reduced(&with(samples, metric), disturbances, order, mean, |sample| sample.value))
            };
            vec![means(Definition::IDLE_CPU, idle::CPU), means(Definition::IDLE_SWITCHES, idle::SWITCHES)]
        }
        Experiment::Memory => {
            let metrics = [memory::AVAILABLE, memory::PROPORTIONAL, memory::CGROUP];
            let groups = Definition::MEMORY.into_iter().zip(metrics);
            groups.map(|(definition, metric)| (definition, slopes(samples, metric, disturbances, order))).collect()
        }
        _ => Vec::new(),
    };
    groups.into_iter().filter(|(_, series)| series.iter().any(|one| !one.points.is_empty())).collect()
}

/// Returns the samples of a quantity, and failures.
pub fn with<'s>(samples: &[&'s Sample], metric: &str) -> Vec<&'s Sample> {
    let is_it = |sample: &&&Sample| sample.metric.as_deref() == Some(metric) || sample.metric.is_none();
    samples.iter().filter(is_it).copied().collect()
}

/// Takes over the requests and failures of other series of the same contestants.
fn count(series: &mut [Series], counted: &[Series]) {
    for one in series {
        let same = |other: &&Series| other.function == one.function && other.variant == one.variant && other.n == one.n;
        if let Some(other) = counted.iter().find(same) {
            (one.attempts, one.failures, one.reasons) = (other.attempts, other.failures.clone(), other.reasons.clone());
        }
    }
}

/// Returns the slope of a quantity over the number of instances, for each round.
fn slopes(samples: &[&Sample], metric: &str, disturbances: &Disturbances, order: &Order) -> Vec<Series> {
    let chosen = with(samples, metric);
    // All steps of a contestant are one series.
    let merged: Vec<Sample> = chosen.iter().map(|sample| Sample { n: 0, ..(*sample).clone() }).collect();
    let frame = by_round(&merged.iter().collect::<Vec<_>>(), disturbances, order, |_| None);
    let slope_of = |series: Series| {
        let mut rounds: BTreeMap<u32, (Vec<(f64, f64)>, bool)> = BTreeMap::new();
        for sample in chosen.iter().filter(|sample| sample.function == series.function && sample.is_counted()) {
            let Some(value) = sample.value else { continue };
            let round = rounds.entry(sample.round).or_default();
            round.0.push((f64::from(sample.n), value));
            round.1 |= disturbances.has(sample);
        }
        let point = |(round, (points, is_disturbed)): (u32, (Vec<_>, bool))| {
            theil_sen(&points).map(|(value, _)| Point { round, value, is_disturbed })
        };
        let points: Vec<_> = rounds.into_iter().filter_map(point).collect();
        let values = points.iter().map(|point| point.value).collect();
        Series { points, values, ..series }
    };
    frame.into_iter().map(slope_of).collect()
}
