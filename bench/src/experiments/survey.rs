//! Before the experiments: which functions can be measured, which experiments each of them supports, and how fast they are.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CONTROL, Entrant, Lane, REQUEST_TIMEOUT, Session, contestants::Enrolment, original, stop, transfer,
    turn::until_instances, work,
};
use crate::{
    client::{Response, reason},
    clock,
    daemon::Daemon,
    error::BenchError,
    options::Experiment,
    plan::Speed,
    registry::{Damaged, Source},
};

/// Paths that are tried without `--path`.
const PATHS: [&str; 2] = ["/hello", "/"];
/// Why something was not tried.
const LATE: &str = "it was not tried, as the part of the time limit for the survey is over";
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// An experiment that a function does not support, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsupported {
    /// The experiment.
    pub experiment: Experiment,
    /// The part of its work that is not supported. `None`: nothing is.
    #[serde(default)]
    pub task: Option<String>,
    /// The function.
    pub function: String,
    /// Why.
    pub reason: String,
}

/// What a survey has found.
#[derive(Debug, Default)]
pub struct Survey {
    /// The functions that can be measured.
    pub entrants: Vec<Entrant>,
    /// Those that cannot.
    pub left_out: Vec<Damaged>,
    /// Experiments that measured functions do not support.
    pub unsupported: Vec<Unsupported>,
}

/// Returns the functions that are misconfigured, with the reason. Sends no request to any.
///
/// # Errors
/// When the daemon does not start.
pub async fn configuration_problems(session: &mut Session, sources: &[Source]) -> Result<Vec<Damaged>, BenchError> {
    let scratch = tempfile::tempdir().map_err(|error| BenchError::Write(std::env::temp_dir(), error))?;
    session.out = scratch.path().to_owned();
    let lanes = start(session, sources).await?;
    let mut problems = Ok(Vec::new());
    for lane in &lanes {
        problems = problems_of(&lane.daemon).await;
    }
    let ended = stop(lanes).await;
    let problems = problems?;
    ended.map(|()| problems)
}

/// Starts a daemon with all functions, with a single instance each.
async fn start(session: &mut Session, sources: &[Source]) -> Result<Vec<Lane>, BenchError> {
    let mut registries = session.registries("survey")?;
    registries.truncate(1);
    let Enrolment { keys, vm, .. } = Enrolment::single_instance("");
    let overrides = session.overrides(keys, vm);
    for registry in &registries {
        sources.iter().try_for_each(|source| registry.add(&source.name, source, &overrides))?;
    }
    // Networks are needed if any function does not run as a process.
    session.entrants = sources.iter().cloned().map(Entrant::unknown).collect();
    session.lanes(registries, &[]).await
}

async fn problems_of(daemon: &Daemon) -> Result<Vec<Damaged>, BenchError> {
    let page = daemon.page("/debug/summary").await?;
    let functions = page["functions"].as_object().into_iter().flatten();
    let is_bad = |state: &serde_json::Value| state["state"] == "misconfigured";
    // Path and line are those of the derived file, which the user has not written.
    let own = |why: &str| match why.split_once("function.toml:").and_then(|(_, rest)| rest.split_once(": ")) {
        Some((_, reason)) => reason.to_owned(),
        None => why.to_owned(),
    };
    let reason = |state: &serde_json::Value| own(state["why"].as_str().unwrap_or("misconfigured"));
    Ok(functions.filter(|(_, state)| is_bad(state)).map(|(name, state)| (name.clone(), reason(state))).collect())
}

/// Sends requests to each function, and returns what it answers with 200.
///
/// # Errors
/// When the daemon ends, or a signal does.
pub async fn survey(session: &mut Session, sources: Vec<Source>) -> Result<Survey, BenchError> {
    let mut lanes = start(session, &sources).await?;
    let result = probe_all(session, &mut lanes, sources).await;
    let ended = stop(lanes).await;
    let found = result?;
    ended.map(|()| found)
}

async fn probe_all(session: &mut Session, lanes: &mut [Lane], sources: Vec<Source>) -> Result<Survey, BenchError> {
    let mut found = Survey::default();
    let Some(Lane { daemon, .. }) = lanes.first_mut() else { return Ok(found) };
    found.left_out = problems_of(daemon).await?;
    let (count, end) = (sources.len(), session.survey_end());
    for (place, source) in sources.into_iter().enumerate() {
        session.interrupt.check()?;
        if found.left_out.iter().any(|(name, _)| *name == source.name) {
            continue;
        }
        if original(&source.name) != source.name {
            found.left_out.push((source.name, format!("names ending in {CONTROL} are those of the A/A control")));
            continue;
        }
        session.progress.sample("survey", 0, 0, &source.name);
        let name = source.name.clone();
        // What earlier functions have left of their parts is for the later ones.
        let now = session.elapsed();
        let asked = Asked { session, daemon, name: &name, until: now + (end - now) / (count - place) as f64 };
        match asked.probe().await {
            Ok((path, speed)) => {
                let mut entrant = Entrant { path, speed, ..Entrant::unknown(source) };
                found.unsupported.extend(asked.note_support(&mut entrant).await?);
                found.entrants.push(entrant);
            }
            Err(reason) => found.left_out.push((source.name, reason)),
        }
        daemon.check()?;
        if daemon.is_own() {
            daemon.stop_instances(&name).await?;
            until_instances(daemon, &name, END_TIMEOUT, <[_]>::is_empty).await?;
        }
    }
    Ok(found)
}

/// A function that is asked what it can do.
struct Asked<'a> {
    session: &'a Session,
    daemon: &'a Daemon,
    name: &'a str,
    /// When that has to end, in seconds since the begin of the run.
    until: f64,
}

impl Asked<'_> {
    /// Returns the path that it answers with 200, with its speed, or why there is none.
    async fn probe(&self) -> Result<(String, Speed), String> {
        let chosen = self.session.plan.path.as_deref();
        let paths = chosen.map_or_else(|| PATHS.to_vec(), |path| vec![path]);
        let mut last = Err(LATE.to_owned());
        for path in paths {
            if self.left() <= 0.0 {
                break;
            }
            let began = clock::now();
            last = self.ask(path).await.map(|_| (path, seconds_since(began)));
            if last.is_ok() {
                break;
            }
        }
        let (path, start_s) = last?;
        let began = clock::now();
        // A function that fails now and then takes part, and its failures are counted.
        let request_s = self.ask(path).await.map_or(start_s, |_| seconds_since(began));
        Ok((path.to_owned(), Speed { start_s, request_s, work_s: BTreeMap::new() }))
    }

    /// Returns how many seconds are left.
    fn left(&self) -> f64 {
        self.until - self.session.elapsed()
    }

    /// Returns a response with 200, or why there is none.
    async fn ask(&self, path: &str) -> Result<Response, String> {
        let left = self.left();
        if left <= 0.0 {
            return Err(format!("{path}: {LATE}"));
        }
        let limit = PROBE_TIMEOUT.min(Duration::try_from_secs_f64(left).unwrap_or(PROBE_TIMEOUT));
        match self.daemon.invoke(self.name, path, limit).await {
            Ok(response) if response.status == 200 => Ok(response),
            Ok(response) => Err(format!("{path} is answered with {}: {}", response.status, reason(&response.body))),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }

    /// Notes which experiments of the plan it supports, and how fast it works. Returns the others with the reason.
    async fn note_support(&self, entrant: &mut Entrant) -> Result<Vec<Unsupported>, BenchError> {
        let mut unsupported = Vec::new();
        for experiment in self.session.plan.experiments.iter().copied() {
            let function = entrant.source.name.clone();
            if experiment.needs_host() && !self.daemon.is_own() {
                let reason = "it needs the host of the daemon".to_owned();
                unsupported.push(Unsupported { experiment, task: None, function, reason });
                continue;
            }
            let (probes, mut seconds, mut missing) = (probes(experiment), 0.0, Vec::new());
            for probe in &probes {
                self.session.interrupt.check()?;
                match self.work_seconds(probe).await {
                    Ok(took) => seconds += took,
                    Err(reason) => missing.push((probe.task, reason)),
                }
            }
            let is_some = missing.is_empty() || missing.len() < probes.len();
            if is_some {
                entrant.speed.work_s.insert(experiment, seconds);
                entrant.supports.insert(experiment);
            } else {
                // The first reason stands for all of the work.
                missing.truncate(1);
            }
            entrant.lacks.extend(missing.iter().map(|(task, _)| *task));
            unsupported.extend(missing.into_iter().map(|(task, reason)| Unsupported {
                experiment,
                task: is_some.then(|| task.to_owned()),
                function: function.clone(),
                reason,
            }));
        }
        Ok(unsupported)
    }

    /// Returns how many seconds work takes, or why it is not supported.
    async fn work_seconds(&self, probe: &Probe) -> Result<f64, String> {
        let response = self.ask(probe.path).await?;
        // Any server may answer any path with 200, but only the benchmark function says how long it worked.
        let worked = response.function_us;
        let worked = worked.ok_or_else(|| format!("{} is not that of the benchmark function", probe.path))?;
        let took = response.times.last_byte.saturating_sub(response.times.sent) as f64 / 1e9;
        // What is not the work does not grow with it.
        let seconds = took + (probe.factor - 1.0) * worked / 1e6;
        let is_possible = seconds < REQUEST_TIMEOUT.as_secs_f64();
        if is_possible { Ok(seconds) } else { Err(format!("it would take {seconds:.0} s, by {}", probe.path)) }
    }
}

fn seconds_since(began: u64) -> f64 {
    clock::now().saturating_sub(began) as f64 / 1e9
}

/// A small request of the same kind as work, which shows whether a function supports it.
struct Probe {
    /// The work's name.
    task: &'static str,
    path: &'static str,
    /// How many times as long the work takes.
    factor: f64,
}

/// Returns the requests that show whether a function supports an experiment.
fn probes(experiment: Experiment) -> Vec<Probe> {
    let probe = |task, path, factor| Probe { task, path, factor };
    match experiment {
        // n, n log n, n³.
        Experiment::Cpu => vec![
            probe("fib", "/fib?n=10000000", 100.0),
            probe("fft", "/fft?n=16384", 91.4),
            probe("matrix", "/matrix?n=128", 512.0),
        ],
        Experiment::Alloc => vec![probe("alloc", "/alloc?mib=5", 10.0)],
        Experiment::Read | Experiment::Unzip => {
            work::tasks(experiment).iter().map(|(task, path)| probe(task, path, 1.0)).collect()
        }
        Experiment::Transfer => vec![probe("transfer", transfer::PATH, 1.0)],
        Experiment::Replay => vec![probe("replay", "/burn?us=1", 1.0)],
        _ => Vec::new(),
    }
}
