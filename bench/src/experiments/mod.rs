//! The experiments, one file each, and what they share.
//!
//! `survey.rs` finds what can be measured, `calibration.rs` checks the client's clock, `rounds.rs` is the loop of all
//! experiments, `contestants.rs` puts functions into registries, `turn.rs` is the part of a contestant in a round, and
//! `idle_instances.rs` keeps instances for it.

mod burst;
mod calibration;
mod cold;
mod contestants;
mod files;
pub mod idle;
mod idle_instances;
pub mod load;
pub mod memory;
mod pacing;
pub mod replay;
mod rounds;
mod survey;
pub mod throughput;
pub mod transfer;
mod turn;
mod warm;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub use calibration::{Calibration, calibrate};
pub use contestants::{BASELINE, CONTROL, original};
pub use files::files;
pub use rounds::run;
pub use survey::{Unsupported, configuration_problems, survey};

use crate::{
    daemon::{Daemon, DaemonSettings, Place},
    error::BenchError,
    host::NoiseMeter,
    interrupt::Interrupt,
    options::Experiment,
    plan::{Plan, Schedule, Speed},
    progress::Progress,
    registry::{DerivedRegistry, Source},
    sample::Sample,
    trace::Trace,
};
use contestants::Contestant;
use turn::Turn;

/// Time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A function that takes part.
#[derive(Debug, Clone)]
pub struct Entrant {
    /// The function.
    pub source: Source,
    /// The request that it answers with 200.
    pub path: String,
    /// The experiments whose requests it answers.
    pub supports: BTreeSet<Experiment>,
    /// The work of these experiments that it does not have.
    pub lacks: BTreeSet<&'static str>,
    /// How fast it is.
    pub speed: Speed,
}

impl Entrant {
    /// Returns a function of which nothing is known yet.
    fn unknown(source: Source) -> Self {
        let (supports, lacks) = Default::default();
        Self { speed: Speed::usual(&source), source, path: String::new(), supports, lacks }
    }
}

/// A daemon with its registry. A daemon that is another's has none.
#[derive(Debug)]
pub struct Lane {
    daemon: Daemon,
    registry: Option<DerivedRegistry>,
    /// Daemons of turns that were cut off, which are ended with this one.
    left: Mutex<Vec<Daemon>>,
}

impl Lane {
    fn new(daemon: Daemon, registry: Option<DerivedRegistry>) -> Self {
        Self { daemon, registry, left: Mutex::default() }
    }
}

/// What a run has, over all experiments.
#[derive(Debug)]
pub struct Session {
    /// What was decided.
    pub plan: Plan,
    /// How much of it fits into the time.
    pub schedule: Schedule,
    /// The functions that can be measured.
    pub entrants: Vec<Entrant>,
    /// Where results are written.
    pub out: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// The state directory of the daemons.
    pub state: PathBuf,
    /// The daemon that is measured instead of an own one.
    pub place: Option<Place>,
    /// The files of the benchmark function, for processes.
    pub files: Option<tempfile::TempDir>,
    /// The arrivals of `replay`.
    pub trace: Trace,
    /// What functions can answer per second, by lane and name.
    pub capacities: BTreeMap<(usize, String), f64>,
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

impl Session {
    /// Creates the registries of an experiment: one for each daemon, none for a daemon that is another's.
    fn registries(&self, name: &str) -> Result<Vec<DerivedRegistry>, BenchError> {
        let count = match (&self.place, &self.plan.baseline) {
            (Some(_), _) => 0,
            (None, None) => 1,
            (None, Some(_)) => 2,
        };
        (0..count).map(|_| DerivedRegistry::create(&self.out.join("registry").join(name))).collect()
    }

    /// Starts a daemon for each registry.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn lanes(
        &self,
        registries: Vec<DerivedRegistry>,
        options: &[(&str, &str)],
    ) -> Result<Vec<Lane>, BenchError> {
        if let Some(place) = self.place {
            return Ok(vec![Lane::new(Daemon::running(place), None)]);
        }
        let mut lanes = Vec::new();
        for (index, registry) in registries.into_iter().enumerate() {
            let daemon = Daemon::start(&self.settings(index, &registry, options, "")).await?;
            lanes.push(Lane::new(daemon, Some(registry)));
        }
        Ok(lanes)
    }

    /// Returns the settings of a daemon for a build. `purpose` is a suffix for one beside the others.
    fn settings(
        &self,
        lane: usize,
        registry: &DerivedRegistry,
        options: &[(&str, &str)],
        purpose: &str,
    ) -> DaemonSettings {
        let (mut daemon, mut state) = (self.program.clone(), self.state.clone());
        if let Some(baseline) = self.plan.baseline.clone().filter(|_| lane > 0) {
            daemon = baseline;
            state.as_mut_os_string().push("-baseline");
        }
        state.as_mut_os_string().push(purpose);
        DaemonSettings {
            program: self.program.clone(),
            daemon,
            registry: registry.path().to_owned(),
            state,
            log: self.out.join("daemon.jsonl"),
            is_networked: self.entrants.iter().any(|entrant| !entrant.source.has("process")),
            index: if purpose.is_empty() { lane } else { lane + 2 },
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    /// Returns the function of a contestant.
    fn entrant(&self, contestant: &Contestant) -> Option<&Entrant> {
        let name = original(&contestant.function);
        self.entrants.iter().find(|entrant| entrant.source.name == name)
    }
}

/// Ends the daemons of an experiment.
///
/// # Errors
/// When one cannot be waited for.
pub async fn stop(lanes: Vec<Lane>) -> Result<(), BenchError> {
    let mut result = Ok(());
    for Lane { daemon, left, .. } in lanes {
        for mut daemon in left.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().chain([daemon]) {
            let stopped = daemon.stop().await;
            result = result.and(stopped);
        }
    }
    result
}

/// The contestants and the options of the daemons.
type Prepared = (Vec<Contestant>, &'static [(&'static str, &'static str)]);

/// Puts the functions into the registries of an experiment, and returns the contestants and the options of the daemons.
fn prepare(session: &Session, experiment: Experiment, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    match experiment {
        Experiment::Cold => cold::prepare(session, registries),
        Experiment::Warm => warm::prepare(session, registries),
        Experiment::Burst => burst::prepare(session, registries),
        Experiment::Cpu | Experiment::Alloc | Experiment::Read | Experiment::Unzip => {
            work::prepare(session, experiment, registries)
        }
        Experiment::Throughput => throughput::prepare(session, registries),
        Experiment::Load => load::prepare(session, registries),
        Experiment::Transfer => transfer::prepare(session, registries),
        Experiment::Memory => memory::prepare(session, registries),
        Experiment::Idle => idle::prepare(session, registries),
        Experiment::Replay => replay::prepare(session, registries),
    }
}

/// Takes the samples of a contestant in a round.
async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    match turn.experiment {
        Experiment::Cold => cold::take(turn).await,
        Experiment::Warm => warm::take(turn).await,
        Experiment::Burst => burst::take(turn).await,
        Experiment::Cpu | Experiment::Alloc | Experiment::Read | Experiment::Unzip => work::take(turn).await,
        Experiment::Throughput => throughput::take(turn).await,
        Experiment::Load => load::take(turn).await,
        Experiment::Transfer => transfer::take(turn).await,
        Experiment::Memory => memory::take(turn).await,
        Experiment::Idle => idle::take(turn).await,
        Experiment::Replay => replay::take(turn).await,
    }
}
