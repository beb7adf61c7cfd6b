//! `/debug/summary`: the daemon, and one line per function.
//!
//! A summary asks no function's actor. [`Sampler`] keeps the last summaries for streams, which send what has changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, MutexGuard},
    task,
    time::{Instant, timeout},
};
use unifaas_actors::{AdmissionQuestion, AdmissionReport, Directory, FunctionHandle, FunctionSummary};

use super::{
    access::{AdminAccess, reject},
    format::json,
    query::query_of,
};
use crate::{
    failure::{Failure, Rejection},
    http::{ConnectionReport, ListenerKind},
    shared::Shared,
};

/// How long the admission actor may take to answer.
const ACTOR_TIMEOUT: Duration = Duration::from_secs(2);
/// Functions that are read without a pause for other tasks.
const SLICE: usize = 64;
/// The least time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Samples after which it is forgotten that a function was removed.
const REMOVAL_MEMORY: u64 = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    state: Option<String>,
    limit: Option<usize>,
}

/// The state of the daemon in short.
#[derive(Debug, PartialEq, Serialize)]
pub struct DaemonSummary {
    version: &'static str,
    draining: bool,
    connections: ConnectionReport,
    callbacks_refused: u64,
    #[serde(flatten)]
    admission: Option<AdmissionReport>,
}

/// Serves the page.
pub async fn summary(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, Rejection> {
    let Query { state, limit } = query_of(&request)?;
    if let Some(state) = state.as_deref().filter(|state| !FunctionSummary::STATES.contains(state)) {
        let why = format!("state={state}: expected one of {}", FunctionSummary::STATES.join(", "));
        return Err(reject(&request, Failure::BadQuery { why }));
    }
    let mut page = format!("{{\"daemon\":{},\"functions\":{{", json(&daemon(&shared).await));
    let mut left = limit.unwrap_or(usize::MAX);
    let mut separator = "\n";
    for slice in sorted(&shared.directory).chunks(SLICE) {
        for handle in slice {
            let summary = handle.summary();
            if left > 0 && state.as_ref().is_none_or(|state| state == summary.state) {
                page += &format!("{separator}{}:{}", json(handle.name()), json(&summary));
                left -= 1;
                separator = ",\n";
            }
        }
        task::yield_now().await;
    }
    page.push_str("\n}}\n");
    Ok(HttpResponse::Ok().content_type("application/json").body(page))
}

/// Returns the state of the daemon in short.
pub async fn daemon(shared: &Shared) -> DaemonSummary {
    let admission = timeout(ACTOR_TIMEOUT, shared.admission.send(AdmissionQuestion)).await.ok().and_then(Result::ok);
    DaemonSummary {
        version: env!("CARGO_PKG_VERSION"),
        draining: shared.is_draining(),
        connections: shared.server.connections(ListenerKind::Front).report(),
        callbacks_refused: shared.callbacks_refused(),
        admission,
    }
}

/// Returns all functions, by name.
pub fn sorted(directory: &Directory) -> Vec<Arc<FunctionHandle>> {
    let mut handles: Vec<_> = directory.all().values().cloned().collect();
    handles.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    handles
}

/// Reads all summaries at most twice a second, however many streams there are.
#[derive(Debug, Default)]
pub struct Sampler(Mutex<Sample>);

/// The last summaries, and which are newer than others.
#[derive(Debug, Default)]
pub struct Sample {
    taken: Option<Instant>,
    version: u64,
    functions: BTreeMap<String, Sampled>,
}

#[derive(Debug)]
struct Sampled {
    /// The version of the sample in which it changed last.
    changed: u64,
    /// `None`: the function was removed.
    summary: Option<FunctionSummary>,
    json: String,
}

impl Sampler {
    /// Returns a recent sample.
    pub async fn sample(&self, directory: &Directory) -> MutexGuard<'_, Sample> {
        let mut sample = self.0.lock().await;
        if sample.taken.is_none_or(|taken| taken.elapsed() >= SAMPLE_INTERVAL) {
            sample.refresh(directory).await;
        }
        sample
    }

    /// Forgets the sample when no stream needs it any more.
    pub fn clear(&self) {
        if let Ok(mut sample) = self.0.try_lock() {
            sample.functions.clear();
            sample.taken = None;
        }
    }
}

impl Sample {
    /// Reads all functions. If it is cancelled, the next call completes it.
    async fn refresh(&mut self, directory: &Directory) {
        self.version += 1;
        let all = directory.all();
        for (position, handle) in all.values().enumerate() {
            self.update(handle.name(), Some(handle.summary()));
            if position % SLICE == SLICE - 1 {
                task::yield_now().await;
            }
        }
        let removed = self.functions.iter().filter(|(name, it)| it.summary.is_some() && !all.contains_key(*name));
        for name in removed.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.update(&name, None);
        }
        let oldest = self.version.saturating_sub(REMOVAL_MEMORY);
        self.functions.retain(|_, sampled| sampled.summary.is_some() || sampled.changed > oldest);
        self.taken = Some(Instant::now());
    }

    fn update(&mut self, name: &str, summary: Option<FunctionSummary>) {
        if self.functions.get(name).is_some_and(|sampled| sampled.summary == summary) {
            return;
        }
        let sampled = Sampled { changed: self.version, json: json(&summary), summary };
        self.functions.insert(name.to_owned(), sampled);
    }

    /// Returns the version, to be passed to [`changes`](Self::changes) later.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the functions that have changed since a version, as the members of a JSON object: a removed one is `null`.
    /// `None`: that version is too old, so that the reader needs all.
    pub fn changes(&self, since: u64, wanted: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        if self.version > since + REMOVAL_MEMORY {
            return None;
        }
        let changed = self.functions.iter().filter(|(name, sampled)| sampled.changed > since && wanted(name));
        Some(changed.map(|(name, sampled)| format!("{}:{}", json(name), sampled.json)).collect())
    }

    /// Returns all functions that exist, in the same form.
    pub fn all(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let existing = self.functions.iter().filter(|(name, sampled)| sampled.summary.is_some() && wanted(name));
        existing.map(|(name, sampled)| format!("{}:{}", json(name), sampled.json)).collect()
    }
}
