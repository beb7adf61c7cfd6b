//! The experiments, one file each, and what they share: contestants, the session, and the failures that drop a function.

mod burst;
mod cold;
mod survey;
mod warm;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::time::sleep;

pub use survey::{Calibration, Entrant, calibrate, configuration_problems, survey};

use crate::{
    clock,
    daemon::{Daemon, DaemonSettings},
    error::BenchError,
    host::{Noise, NoiseMeter},
    interrupt::Interrupt,
    options::Experiment,
    plan::Plan,
    progress::Progress,
    registry::{DerivedRegistry, Overrides},
    sample::{Sample, SampleWriter},
};

/// The suffix of the name under which the first function takes part a second time.
pub const CONTROL: &str = ".control";
/// Failed rounds in a row after which a function is dropped.
const MAX_FAILURES: u32 = 3;
/// Time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between the looks for a state.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What takes part in an experiment.
#[derive(Debug, Clone)]
pub struct Contestant {
    /// Its name in tables: that of the user's function, with [`CONTROL`] for the A/A control.
    pub function: String,
    /// What is done with it.
    pub variant: String,
    /// Its name in the derived registry.
    pub registered: String,
    /// The request.
    pub path: String,
}

/// What a run has, over all experiments.
#[derive(Debug)]
pub struct Session {
    /// What was decided.
    pub plan: Plan,
    /// The functions that can be measured.
    pub entrants: Vec<Entrant>,
    /// Where results are written.
    pub out: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// The state directory of the daemons.
    pub state: PathBuf,
    /// The begin of the run, by the monotonic clock.
    pub begin: u64,
    /// Signals.
    pub interrupt: Interrupt,
    /// What is shown.
    pub progress: Progress,
    /// The rest of the machine.
    pub noise: NoiseMeter,
    /// Processors of the machine.
    pub processors: usize,
    /// What the report says first.
    pub warnings: Vec<String>,
}

/// The state of an experiment: its samples, and which functions keep failing.
struct Measurement<'s> {
    session: &'s mut Session,
    writer: SampleWriter,
    failures: BTreeMap<String, u32>,
    dropped: Vec<String>,
}

/// Runs an experiment to its end. Its samples are in its file then.
///
/// # Errors
/// When the run cannot go on: a signal, a full disk. The end of a daemon ends the experiment only.
pub async fn run(session: &mut Session, experiment: Experiment) -> Result<(), BenchError> {
    match experiment {
        Experiment::Cold => cold::run(session).await,
        Experiment::Warm => warm::run(session).await,
        Experiment::Burst => burst::run(session).await,
    }
}

impl Session {
    /// Starts a daemon for an experiment.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn daemon(&self, registry: &Path, options: &[(&str, &str)]) -> Result<Daemon, BenchError> {
        let settings = DaemonSettings {
            program: self.program.clone(),
            daemon: self.program.clone(),
            registry: registry.to_owned(),
            state: self.state.clone(),
            log: self.out.join("daemon.jsonl"),
            is_networked: self.entrants.iter().any(|entrant| !entrant.source.has("process")),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        Daemon::start(&settings).await
    }

    /// Creates the registry of an experiment.
    fn registry(&self, experiment: Experiment) -> Result<DerivedRegistry, BenchError> {
        DerivedRegistry::create(&self.out.join("registry").join(experiment.name()))
    }

    /// Returns overrides with the memory and the processors of the plan.
    fn overrides(&self, keys: Vec<(&'static str, Option<toml::Value>)>) -> Overrides {
        Overrides { keys, memory: self.plan.memory, cpus: self.plan.cpus }
    }

    /// Adds every function to a registry with these keys, and the first one twice. `variant` is what is done with them.
    fn register(
        &self,
        registry: &DerivedRegistry,
        variant: &str,
        keys: &[(&'static str, Option<toml::Value>)],
    ) -> Result<Vec<Contestant>, BenchError> {
        let mut contestants = Vec::new();
        for (index, entrant) in self.entrants.iter().enumerate() {
            let names = [Some(String::new()), (index == 0).then(|| CONTROL.to_owned())];
            for suffix in names.into_iter().flatten() {
                let function = format!("{}{suffix}", entrant.source.name);
                registry.add(&function, &entrant.source, &self.overrides(keys.to_vec()))?;
                let path = entrant.path.clone();
                contestants.push(Contestant {
                    registered: function.clone(),
                    function,
                    variant: variant.to_owned(),
                    path,
                });
            }
        }
        Ok(contestants)
    }

    /// Estimates the seconds of a round of an experiment.
    fn seconds_of_round(&self, experiment: Experiment) -> f64 {
        let seconds: f64 = self.entrants.iter().map(|entrant| self.plan.seconds(experiment, &entrant.source)).sum();
        seconds / f64::from(self.plan.rounds_of(experiment) + 1)
    }
}

impl<'s> Measurement<'s> {
    fn new(session: &'s mut Session, experiment: Experiment) -> Result<Self, BenchError> {
        let writer = SampleWriter::create(&session.out, experiment.name())?;
        Ok(Self { session, writer, failures: BTreeMap::new(), dropped: Vec::new() })
    }

    /// Returns whether a function was dropped.
    fn is_dropped(&self, registered: &str) -> bool {
        self.dropped.iter().any(|name| name == registered)
    }

    /// Notes what the machine has done since the sample before, and writes the samples of a contestant's turn.
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

    /// Counts a turn of a contestant as failed if no request of it was successful. After some failures in a row the
    /// contestant is dropped.
    fn note(&mut self, experiment: Experiment, contestant: &Contestant, samples: &[Sample]) {
        let name = &contestant.registered;
        if samples.iter().any(Sample::is_success) {
            self.failures.remove(name);
            return;
        }
        let error = samples.iter().find_map(|sample| sample.error.as_deref()).unwrap_or("there were no requests");
        let failures = self.failures.entry(name.clone()).or_default();
        *failures += 1;
        if *failures >= MAX_FAILURES {
            self.dropped.push(name.clone());
            let warning = format!(
                "{}: {} ({}) was dropped after {MAX_FAILURES} failed rounds in a row: {error}",
                experiment.name(),
                contestant.function,
                contestant.variant
            );
            self.session.progress.line(&warning);
            self.session.warnings.push(warning);
        }
    }
}

/// Waits until a function has instances in a state; returns whether it has within the limit.
async fn until_instances(
    daemon: &Daemon,
    function: &str,
    limit: Duration,
    is_there: impl Fn(&[Value]) -> bool,
) -> Result<bool, BenchError> {
    let began = clock::now();
    loop {
        if is_there(&daemon.instances(function).await?) {
            return Ok(true);
        }
        if u128::from(clock::now().saturating_sub(began)) > limit.as_nanos() {
            return Ok(false);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Whether all rounds are over, or all intervals are as narrow as `--precision` asks for.
fn is_precise(plan: &Plan, values: &BTreeMap<String, Vec<f64>>) -> bool {
    let Some(precision) = plan.precision else { return false };
    let mut random = crate::stats::generator(plan.seed, "precision");
    let is_narrow = |values: &Vec<f64>| {
        let median = crate::stats::median(values).unwrap_or(f64::NAN);
        let interval = crate::stats::median_interval(values, 0.95, &mut random);
        interval.is_some_and(|interval| {
            interval.low >= median * (1.0 - precision) && interval.high <= median * (1.0 + precision)
        })
    };
    !values.is_empty() && values.values().all(is_narrow)
}
