//! The loop of all experiments: rounds, in which every contestant is measured once, in random order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::timeout;

use super::{Contestant, Entrant, Lane, Session, Turn, load, original, prepare, stop, take};
use crate::{
    error::BenchError,
    host::Noise,
    options::Experiment,
    plan::Plan,
    sample::{Sample, SampleWriter},
    stats::{generator, median, median_interval},
};

/// Failed rounds in a row after which a contestant is dropped.
const MAX_FAILURES: u32 = 3;

/// What tells a contestant from all others.
type Key = (usize, String, String, u32);

/// Runs an experiment, if a function supports it and there is time.
///
/// # Errors
/// What ends the whole run: a signal, a full disk. The end of a daemon ends the experiment only.
pub async fn run(session: &mut Session, experiment: Experiment) -> Result<(), BenchError> {
    if !session.entrants.iter().any(|entrant| entrant.supports.contains(&experiment)) {
        session.progress.line(&format!("{}: no function supports it", experiment.name()));
        return Ok(());
    }
    session.refit();
    let is_planned = |entrant: &Entrant| session.schedule.is_planned(experiment, &entrant.source.name);
    let result = if session.entrants.iter().any(is_planned) { measured(session, experiment).await } else { Ok(()) };
    session.schedule.finish(experiment);
    result
}

async fn measured(session: &mut Session, experiment: Experiment) -> Result<(), BenchError> {
    let registries = session.registries(experiment.name())?;
    let (contestants, options) = prepare(session, experiment, &registries)?;
    let mut lanes = session.lanes(registries, options).await?;
    let result = until_end(session, experiment, &mut lanes, &contestants).await;
    result.and(stop(lanes).await)
}

/// Measures until all rounds are over, or the time is.
async fn until_end(
    session: &mut Session,
    experiment: Experiment,
    lanes: &mut [Lane],
    contestants: &[Contestant],
) -> Result<(), BenchError> {
    let Some(end) = session.schedule.end() else { return rounds(session, experiment, lanes, contestants).await };
    let left = Duration::from_secs_f64((end - session.elapsed()).max(0.0));
    match timeout(left, rounds(session, experiment, lanes, contestants)).await {
        Ok(result) => result,
        Err(_) => {
            let warning =
                format!("{}: the time limit ended its last measurement, which is left out", experiment.name());
            session.progress.line(&warning);
            session.warnings.push(warning);
            Ok(())
        }
    }
}

async fn rounds(
    session: &mut Session,
    experiment: Experiment,
    lanes: &mut [Lane],
    contestants: &[Contestant],
) -> Result<(), BenchError> {
    session.schedule.begin(experiment, &turns(contestants));
    if experiment == Experiment::Load {
        load::find_capacities(session, lanes, contestants).await?;
    }
    let last = session.plan.rounds_of(experiment);
    let mut record = Record::new(session, experiment)?;
    for round in 0..=last {
        record.session.refit();
        let takes_part = |contestant: &Contestant, session: &Session| {
            session.schedule.has_round(experiment, original(&contestant.function), round)
        };
        if !contestants.iter().any(|contestant| takes_part(contestant, record.session)) {
            continue;
        }
        record.session.progress.round(experiment.name(), round, last);
        let order = record.session.plan.order(experiment, round, contestants.len());
        for (position, contestant) in order.into_iter().filter_map(|index| contestants.get(index)).enumerate() {
            record.session.interrupt.check()?;
            let is_dropped = record.is_dropped(contestant);
            let Some(lane) = lanes.get_mut(contestant.lane) else { continue };
            if is_dropped || !takes_part(contestant, record.session) {
                continue;
            }
            let shown = format!("{} {}", contestant.function, contestant.variant);
            record.session.progress.sample(experiment.name(), round, last, &shown);
            let session = &*record.session;
            let turn = Turn { session, lane: &*lane, contestant, experiment, round, position: position as u32 };
            let began = session.elapsed();
            let mut samples = take(&turn).await?;
            let seconds = record.session.elapsed() - began;
            record.session.schedule.note(experiment, original(&contestant.function), seconds);
            record.note(contestant, &samples);
            record.write(&mut samples)?;
            lane.daemon.check()?;
        }
        record.session.schedule.end_round(experiment, round);
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

/// Returns the turns of each function in a round.
fn turns(contestants: &[Contestant]) -> BTreeMap<String, usize> {
    let mut turns = BTreeMap::new();
    for contestant in contestants {
        *turns.entry(original(&contestant.function).to_owned()).or_default() += 1;
    }
    turns
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
