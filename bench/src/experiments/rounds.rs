//! The loop of all experiments: rounds, in which every contestant is measured once, in random order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Contestant, Lane, Session, Turn, load, prepare, stop, take};
use crate::{
    error::BenchError,
    host::Noise,
    options::Experiment,
    plan::{self, Plan},
    sample::{Sample, SampleWriter},
    stats::{generator, median, median_interval},
};

/// Failed rounds in a row after which a contestant is dropped.
const MAX_FAILURES: u32 = 3;

/// What tells a contestant from all others.
type Key = (usize, String, String, u32);

/// Runs an experiment, if a function supports it.
///
/// # Errors
/// What ends the whole run: a signal, a full disk. The end of a daemon ends the experiment only.
pub async fn run(session: &mut Session, experiment: Experiment) -> Result<(), BenchError> {
    if !session.entrants.iter().any(|entrant| entrant.supports.contains(&experiment)) {
        session.progress.line(&format!("{}: no function supports it", experiment.name()));
        return Ok(());
    }
    let registries = session.registries(experiment.name())?;
    let (contestants, options) = prepare(session, experiment, &registries)?;
    let mut lanes = session.lanes(registries, options).await?;
    let result = rounds(session, experiment, &mut lanes, &contestants).await;
    result.and(stop(lanes).await)
}

async fn rounds(
    session: &mut Session,
    experiment: Experiment,
    lanes: &mut [Lane],
    contestants: &[Contestant],
) -> Result<(), BenchError> {
    if experiment == Experiment::Load {
        load::find_capacities(session, lanes, contestants).await?;
    }
    let rounds = session.plan.rounds(experiment);
    let (last, seconds) = (*rounds.end(), seconds_of_round(session, experiment));
    let mut record = Record::new(session, experiment)?;
    for round in rounds {
        record.session.progress.round(experiment.name(), round, last, seconds);
        let order = record.session.plan.order(experiment, round, contestants.len());
        for (position, contestant) in order.into_iter().filter_map(|index| contestants.get(index)).enumerate() {
            record.session.interrupt.check()?;
            let entrant = record.session.entrant(contestant);
            let is_emulated = entrant.is_some_and(|entrant| entrant.source.sandbox.emulated);
            if !record.session.plan.has_round(experiment, round, is_emulated) {
                continue;
            }
            let Some(lane) = lanes.get_mut(contestant.lane).filter(|_| !record.is_dropped(contestant)) else {
                continue;
            };
            let shown = format!("{} {}", contestant.function, contestant.variant);
            record.session.progress.sample(experiment.name(), round, last, &shown);
            let session = &*record.session;
            let turn = Turn { session, lane: &*lane, contestant, experiment, round, position: position as u32 };
            let mut samples = take(&turn).await?;
            record.note(contestant, &samples);
            record.write(&mut samples)?;
            lane.daemon.check()?;
        }
        record.writer.flush()?;
        if record.is_precise() {
            let note = format!(
                "{} ended after {round} rounds, as all intervals are within the given precision. Stopping early makes \
                 intervals slightly too narrow.",
                experiment.name()
            );
            record.session.warnings.push(note);
            break;
        }
    }
    Ok(())
}

/// Estimates the seconds of a round of an experiment.
fn seconds_of_round(session: &Session, experiment: Experiment) -> f64 {
    let supporting = session.entrants.iter().filter(|entrant| entrant.supports.contains(&experiment));
    let seconds: f64 = supporting.map(|entrant| plan::seconds(&session.plan, experiment, &entrant.source)).sum();
    seconds / session.plan.rounds(experiment).count() as f64
}

/// What an experiment has so far.
struct Record<'s> {
    session: &'s mut Session,
    experiment: Experiment,
    writer: SampleWriter,
    /// Failed rounds in a row.
    failures: BTreeMap<Key, u32>,
    dropped: BTreeSet<Key>,
    /// A value for each round, for `--precision`.
    values: BTreeMap<Key, Vec<f64>>,
}

impl<'s> Record<'s> {
    fn new(session: &'s mut Session, experiment: Experiment) -> Result<Self, BenchError> {
        let writer = SampleWriter::create(&session.out, experiment.name())?;
        let (failures, dropped, values) = Default::default();
        Ok(Self { session, experiment, writer, failures, dropped, values })
    }

    fn is_dropped(&self, contestant: &Contestant) -> bool {
        self.dropped.contains(&contestant.key())
    }

    /// Notes what the machine has done since the sample before, and writes the samples of a turn.
    fn write(&mut self, samples: &mut [Sample]) -> Result<(), BenchError> {
        let noise = self.session.noise.look();
        // All of them happened in the same window.
        let share = 1.0 / samples.len().max(1) as f64;
        for sample in samples {
            let Noise { steal_ms, foreign_ms, window_ms } = noise;
            let part = |value: f64| Some((value * share * 1000.0).round() / 1000.0);
            (sample.steal_ms, sample.foreign_ms, sample.window_ms) =
                (part(steal_ms), part(foreign_ms), part(window_ms));
            self.writer.write(sample)?;
        }
        Ok(())
    }

    /// Counts a turn of a contestant as failed if nothing of it was successful. After some failures in a row the contestant
    /// is dropped.
    fn note(&mut self, contestant: &Contestant, samples: &[Sample]) {
        let key = contestant.key();
        if samples.iter().any(Sample::is_success) {
            self.failures.remove(&key);
            self.values.entry(key).or_default().extend(headline(samples));
            return;
        }
        let error = samples.iter().find_map(|sample| sample.error.as_deref()).unwrap_or("there were no requests");
        let failures = self.failures.entry(key.clone()).or_default();
        *failures += 1;
        if *failures >= MAX_FAILURES {
            self.dropped.insert(key);
            let Contestant { function, variant, .. } = contestant;
            let variant = if variant.is_empty() { String::new() } else { format!(" ({variant})") };
            let warning = format!(
                "{}: {function}{variant} was dropped after {MAX_FAILURES} failed rounds in a row: {error}",
                self.experiment.name()
            );
            self.session.progress.line(&warning);
            self.session.warnings.push(warning);
        }
    }

    /// Returns whether all intervals are as narrow as `--precision` asks for.
    fn is_precise(&self) -> bool {
        is_precise(&self.session.plan, &self.values)
    }
}

/// Returns the value of a turn: that of its quantity, or the median time of its requests.
fn headline(samples: &[Sample]) -> Option<f64> {
    let counted: Vec<_> = samples.iter().filter(|sample| sample.is_counted()).collect();
    let first = counted.first()?;
    let same = counted.iter().filter(|sample| sample.metric == first.metric && sample.variant == first.variant);
    let time = |sample: &Sample| Some(sample.t1? - sample.c0.or(sample.t0)?);
    median(&same.filter_map(|sample| sample.value.or_else(|| time(sample))).collect::<Vec<_>>())
}

fn is_precise(plan: &Plan, values: &BTreeMap<Key, Vec<f64>>) -> bool {
    let Some(precision) = plan.precision else { return false };
    let mut random = generator(plan.seed, "precision");
    let is_narrow = |values: &Vec<f64>| {
        let median = median(values).unwrap_or(f64::NAN);
        let interval = median_interval(values, 0.95, &mut random);
        interval.is_some_and(|interval| {
            interval.low >= median * (1.0 - precision) && interval.high <= median * (1.0 + precision)
        })
    };
    !values.is_empty() && values.values().all(is_narrow)
}
