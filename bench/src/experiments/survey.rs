//! Before the experiments: which functions can be measured, and whether the client's clock agrees with a known delay.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{CONTROL, Session, until_instances};
use crate::{
    daemon::Daemon,
    error::BenchError,
    registry::{DerivedRegistry, Overrides, Source},
    stats::median,
};

/// Paths that are tried without `--path`.
const PATHS: [&str; 2] = ["/hello", "/"];
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// The function of the calibration, in its own registry.
const DELAYED: &str = "calibration";
const DELAY_US: u32 = 10_000;
const CALIBRATION_SAMPLES: u32 = 50;
/// What the client's median may exceed that of the function's own clock by.
const MAX_EXCESS_US: f64 = 200.0;

/// A function that takes part.
#[derive(Debug, Clone)]
pub struct Entrant {
    /// The user's function.
    pub source: Source,
    /// The request that it answers with 200.
    pub path: String,
}

/// The client beside a delay of known length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Requests.
    pub count: usize,
    /// The delay that was asked for, in microseconds.
    pub delay_us: f64,
    /// The median by the clock of the function.
    pub function_us: f64,
    /// The median by the clock of the client.
    pub client_us: f64,
    /// Whether they agree.
    pub is_reliable: bool,
}

/// Starts a daemon on all functions, without sending any request, and returns those that are misconfigured, with the reason.
///
/// # Errors
/// When the daemon does not start.
pub async fn configuration_problems(daemon: &Daemon) -> Result<Vec<(String, String)>, BenchError> {
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

/// Sends a request to each function, and returns those that answer with 200, and the others with the reason.
///
/// # Errors
/// When the daemon ends, or a signal does.
pub async fn survey(
    session: &mut Session,
    sources: Vec<Source>,
) -> Result<(Vec<Entrant>, Vec<(String, String)>), BenchError> {
    let registry = DerivedRegistry::create(&session.out.join("registry").join("survey"))?;
    let keys = vec![
        ("min-instances", None),
        ("single-use", Some(toml::Value::Boolean(true))),
        ("keep-paused", Some(toml::Value::Integer(0))),
    ];
    let overrides = Overrides { memory: session.plan.memory, cpus: session.plan.cpus, keys };
    for source in &sources {
        registry.add(&source.name, source, &overrides)?;
    }
    // Networks are needed if any function does not run as a process.
    session.entrants = sources.iter().map(|source| Entrant { source: source.clone(), path: String::new() }).collect();
    let mut daemon = session.daemon(registry.path(), &[]).await?;
    let result = probe_all(session, &mut daemon, sources).await;
    let ended = daemon.stop().await;
    let found = result?;
    ended.map(|_| found)
}

async fn probe_all(
    session: &mut Session,
    daemon: &mut Daemon,
    sources: Vec<Source>,
) -> Result<(Vec<Entrant>, Vec<(String, String)>), BenchError> {
    let mut left_out = configuration_problems(daemon).await?;
    let mut entrants = Vec::new();
    for source in sources {
        session.interrupt.check()?;
        if left_out.iter().any(|(name, _)| *name == source.name) {
            continue;
        }
        if source.name.ends_with(CONTROL) {
            left_out.push((source.name, format!("names ending in {CONTROL} are those of the A/A control")));
            continue;
        }
        session.progress.sample("survey", 0, 0, &source.name);
        match probe(session, daemon, &source.name).await? {
            Ok(path) => entrants.push(Entrant { source, path }),
            Err(reason) => left_out.push((source.name, reason)),
        }
        daemon.check()?;
    }
    Ok((entrants, left_out))
}

/// Returns the path that a function answers with 200, or why there is none.
async fn probe(session: &Session, daemon: &Daemon, name: &str) -> Result<Result<String, String>, BenchError> {
    let chosen = session.plan.path.as_deref();
    let paths = chosen.map_or_else(|| PATHS.to_vec(), |path| vec![path]);
    let mut reason = String::new();
    for path in paths {
        let answered = daemon.invoke(name, path, PROBE_TIMEOUT).await;
        until_instances(daemon, name, END_TIMEOUT, <[_]>::is_empty).await?;
        match answered {
            Ok(response) if response.status == 200 => return Ok(Ok(path.to_owned())),
            Ok(response) => {
                let mut sample = crate::sample::Sample::default();
                sample.fill(&response, session.begin);
                reason = format!("{path} is answered with {}: {}", response.status, sample.error.unwrap_or_default());
            }
            Err(error) => reason = format!("{path}: {error}"),
        }
    }
    Ok(Err(reason))
}

/// Measures a delay of known length in a process.
///
/// # Errors
/// When the daemon ends, or a signal does.
pub async fn calibrate(session: &Session) -> Result<Calibration, BenchError> {
    let registry = DerivedRegistry::create(&session.out.join("registry").join(DELAYED))?;
    let text = "process.command = [\"%unifaas\", \"bench-function\", \"%callback\"]\n";
    let table = text.parse().map_err(|error: toml::de::Error| BenchError::Usage(error.to_string()))?;
    registry.add_table(DELAYED, &table)?;
    let daemon = session.daemon(registry.path(), &[]).await?;
    let result = delays(session, &daemon).await;
    let ended = daemon.stop().await;
    let (client, function) = result?;
    ended?;
    let (client_us, function_us) = (median(&client).unwrap_or(f64::NAN), median(&function).unwrap_or(f64::NAN));
    let is_reliable = client_us - function_us <= MAX_EXCESS_US;
    Ok(Calibration { count: client.len(), delay_us: DELAY_US.into(), function_us, client_us, is_reliable })
}

/// Returns the times of each request by the client's clock and by that of the function, in microseconds.
async fn delays(session: &Session, daemon: &Daemon) -> Result<(Vec<f64>, Vec<f64>), BenchError> {
    let (mut client, mut function) = (Vec::new(), Vec::new());
    let failed = |error: String| BenchError::Daemon(format!("does not serve the calibration: {error}"));
    let target = format!("/delay?us={DELAY_US}");
    // Starts the instance. It is reached directly then, as the daemon is not what is calibrated.
    daemon.invoke(DELAYED, &target, PROBE_TIMEOUT).await.map_err(|error| failed(error.to_string()))?;
    let instances = daemon.instances(DELAYED).await?;
    let address = instances.first().and_then(|instance| instance["address"].as_str()?.parse().ok());
    let address = address.ok_or_else(|| failed("there is no instance".to_owned()))?;
    let connected = crate::client::Connection::open(address).await;
    let mut connection = connected.map_err(|error| failed(error.to_string()))?;
    for _ in 0..CALIBRATION_SAMPLES {
        session.interrupt.check()?;
        let response = connection.send(hyper::Method::GET, &target, PROBE_TIMEOUT).await;
        let response = response.map_err(|error| failed(error.to_string()))?;
        let Some(function_us) = response.function_us.filter(|_| response.status == 200) else {
            return Err(failed(String::from_utf8_lossy(&response.body).into_owned()));
        };
        client.push((response.times.first_byte - response.times.sent) as f64 / 1000.0);
        function.push(function_us);
        sleep(Duration::from_millis(1)).await;
    }
    Ok((client, function))
}
