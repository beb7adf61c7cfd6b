//! Before the experiments: which functions can be measured, and which experiments each of them supports.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CONTROL, Entrant, Lane, Session, contestants::Enrolment, original, stop, transfer, turn::until_instances, work,
};
use crate::{
    client::Response,
    daemon::Daemon,
    error::BenchError,
    options::Experiment,
    registry::{Damaged, Source},
    sample::reason,
};

/// Paths that are tried without `--path`.
const PATHS: [&str; 2] = ["/hello", "/"];
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// An experiment that a function does not support, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsupported {
    /// The experiment.
    pub experiment: Experiment,
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
    let entrant =
        |source: &Source| Entrant { source: source.clone(), path: String::new(), supports: BTreeSet::default() };
    session.entrants = sources.iter().map(entrant).collect();
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
    for source in sources {
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
        match probe(session, daemon, &name).await {
            Ok(path) => {
                let (supports, unsupported) = supports(session, daemon, &name).await?;
                found.unsupported.extend(unsupported);
                found.entrants.push(Entrant { source, path, supports });
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

/// Returns the path that a function answers with 200, or why there is none.
async fn probe(session: &Session, daemon: &Daemon, name: &str) -> Result<String, String> {
    let chosen = session.plan.path.as_deref();
    let paths = chosen.map_or_else(|| PATHS.to_vec(), |path| vec![path]);
    let mut last = Err(String::new());
    for path in paths {
        last = ask(daemon, name, path).await.map(|_| path.to_owned());
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Returns a response with 200, or why there is none.
async fn ask(daemon: &Daemon, name: &str, path: &str) -> Result<Response, String> {
    match daemon.invoke(name, path, PROBE_TIMEOUT).await {
        Ok(response) if response.status == 200 => Ok(response),
        Ok(response) => Err(format!("{path} is answered with {}: {}", response.status, reason(&response.body))),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// Returns the requests that show whether a function supports an experiment: small ones of the same kind.
fn probes(experiment: Experiment) -> Vec<&'static str> {
    match experiment {
        Experiment::Cpu => vec!["/fib?n=10", "/fft?n=8", "/matrix?n=2"],
        Experiment::Alloc => vec!["/alloc?mib=1"],
        Experiment::Read | Experiment::Unzip => work::tasks(experiment).iter().map(|(_, path)| *path).collect(),
        Experiment::Transfer => vec![transfer::PATH],
        Experiment::Replay => vec!["/burn?us=1"],
        _ => Vec::new(),
    }
}

/// Returns the experiments of the plan that a function supports, and the others with the reason.
async fn supports(
    session: &Session,
    daemon: &Daemon,
    name: &str,
) -> Result<(BTreeSet<Experiment>, Vec<Unsupported>), BenchError> {
    let (mut supports, mut unsupported) = (BTreeSet::new(), Vec::new());
    for experiment in &session.plan.experiments {
        session.interrupt.check()?;
        let mut reason = None;
        if experiment.needs_host() && !daemon.is_own() {
            reason = Some("it needs the host of the daemon".to_owned());
        }
        for path in probes(*experiment) {
            // Any server may answer any path with 200, but only the benchmark function says how long it worked.
            let worked = ask(daemon, name, path).await.and_then(|response| {
                response.function_us.map(drop).ok_or_else(|| format!("{path} is not that of the benchmark function"))
            });
            if let Err(why) = worked {
                reason = Some(why);
                break;
            }
        }
        match reason {
            None => drop(supports.insert(*experiment)),
            Some(reason) => {
                unsupported.push(Unsupported { experiment: *experiment, function: name.to_owned(), reason });
            }
        }
    }
    Ok((supports, unsupported))
}
