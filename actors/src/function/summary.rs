//! One line about a function, for lists of many: read from its handle, without a message to its actor.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    FunctionActor, FunctionHandle, Phase,
    cloning::CloningStatus,
    instances::InstancePhase,
    prewarming::PrewarmReport,
    slots::{Intake, ReadyCounts, Slots},
};
use crate::{cluster::BlobId, refusal::Refusal, spec::FunctionSpec, stats::FunctionStats};

/// What the FunctionActor publishes in the slot table, besides the slots.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// The function has instances or waiters, or keeps failing to start: only the actor knows the details.
    pub active: bool,
    pub booting: usize,
    pub ending: usize,
    /// The last error of a function that keeps failing to start.
    pub failing: Option<Arc<Refusal>>,
    /// Its snapshot, if its spec wants one.
    pub cloning: Option<CloningStatus>,
    /// When its requests are expected, if its spec wants to know.
    pub prewarm: Option<PrewarmReport>,
}

/// One line about a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FunctionSummary {
    /// One of [`STATES`](Self::STATES).
    pub state: &'static str,
    /// Why it is failing or misconfigured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The kind of its sandbox, if it has a valid spec.
    pub kind: Option<&'static str>,
    /// The first digits of its version, if it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Versions of its file so far.
    pub revision: u64,
    /// Instances that are starting.
    pub booting: usize,
    /// Instances that are ready and serve nothing.
    pub idle: usize,
    /// Instances that serve requests.
    pub busy: usize,
    /// Instances that are paused, or being resumed.
    pub paused: usize,
    /// Instances that serve no more, and still hold resources.
    pub ending: usize,
    /// Callers that wait for a slot.
    pub waiting: usize,
    /// Requests that have ended.
    pub requests: u64,
    /// Of these, the ones that the platform answered with an error.
    pub failed: u64,
}

/// The present figures of a function that was used, for `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionGauges {
    /// `serving`, `failing`, `misconfigured` or `draining`.
    pub state: &'static str,
    /// Instances by state.
    pub instances: [(&'static str, usize); 5],
    /// Requests that are being served.
    pub in_flight: usize,
    /// Callers that wait for a slot.
    pub waiting: usize,
}

impl FunctionSummary {
    /// All states of a function.
    pub const STATES: [&str; 4] = ["serving", "failing", "misconfigured", "draining"];
}

impl FunctionHandle {
    /// Returns the spec in force. `None`: there is no valid one, or the function is being removed.
    pub fn spec(&self) -> Option<Arc<FunctionSpec>> {
        match self.slots().intake() {
            Intake::Open(spec) => Some(spec.clone()),
            Intake::Misconfigured(_) | Intake::Draining => None,
        }
    }

    /// Returns how many requests have ended, and how many of them the platform answered with an error.
    pub fn requests(&self) -> (u64, u64) {
        self.used_stats().map_or((0, 0), FunctionStats::requests)
    }

    /// Returns the present figures. `None`: the function was never used.
    pub fn gauges(&self) -> Option<FunctionGauges> {
        self.used_stats()?;
        let slots = self.slots();
        let Activity { booting, ending, failing, .. } = slots.activity();
        let ReadyCounts { idle, busy, paused } = slots.counts();
        let (state, _) = state(&slots, slots.file().1.as_deref(), failing.as_deref());
        let instances =
            [("booting", *booting), ("idle", idle), ("busy", busy), ("paused", paused), ("ending", *ending)];
        Some(FunctionGauges { state, instances, in_flight: slots.in_flight(), waiting: slots.waiting() })
    }

    /// Returns one line about the function.
    pub fn summary(&self) -> FunctionSummary {
        let (requests, failed) = self.requests();
        let slots = self.slots();
        let Activity { booting, ending, failing, .. } = slots.activity();
        let ReadyCounts { idle, busy, paused } = slots.counts();
        let (revision, invalid) = slots.file();
        let (state, why) = state(&slots, invalid.as_deref(), failing.as_deref());
        let spec = match slots.intake() {
            Intake::Open(spec) => Some(spec),
            Intake::Misconfigured(_) | Intake::Draining => None,
        };
        let (kind, version) = (spec.map(|spec| spec.sandbox.kind()), spec.and_then(|spec| published_version(spec)));
        let (booting, ending, waiting) = (*booting, *ending, slots.waiting());
        FunctionSummary {
            state,
            why,
            kind,
            version,
            revision,
            booting,
            idle,
            busy,
            paused,
            ending,
            waiting,
            requests,
            failed,
        }
    }
}

/// Returns the first digits of the version that a function is of. A directory of the registry is named like its function, that
/// of a published version by its id.
fn published_version(spec: &FunctionSpec) -> Option<String> {
    let directory = spec.directory.file_name()?.to_str().filter(|name| *name != spec.name)?;
    directory.parse::<BlobId>().ok().map(|version| version.short())
}

impl FunctionHandle {
    /// Returns for how long the longest idle instance has been idle. `None`: no instance is.
    pub fn idle_for(&self) -> Option<Duration> {
        self.slots().idle_since().map(|since| since.elapsed())
    }

    /// Returns whether the function starts instances for its minimum, and does not keep failing at it.
    pub fn lacks_minimum(&self) -> bool {
        let slots = self.slots();
        match slots.intake() {
            Intake::Open(spec) => spec.min_instances > slots.usable(0) && slots.activity().failing.is_none(),
            Intake::Misconfigured(_) | Intake::Draining => false,
        }
    }
}

fn state(slots: &Slots, invalid: Option<&str>, failing: Option<&Refusal>) -> (&'static str, Option<String>) {
    let first_line = |reason: &str| reason.lines().next().map(str::to_owned);
    match (slots.intake(), invalid, failing) {
        (Intake::Draining, ..) => ("draining", None),
        (Intake::Misconfigured(reason), ..) => ("misconfigured", first_line(reason)),
        (Intake::Open(_), Some(reason), _) => ("misconfigured", first_line(reason)),
        (Intake::Open(_), None, Some(refusal)) => ("failing", Some(refusal.to_string())),
        (Intake::Open(_), None, None) => ("serving", None),
    }
}

impl FunctionActor {
    /// Publishes what summaries show, and whether `/debug` has to ask the actor.
    pub(super) fn publish_activity(&self) {
        let is_queued = self.waiters.len() > 0 || !self.expired.is_empty();
        let of_phase = |wanted| self.instances.iter().filter(|(_, instance)| instance.phase == wanted).count();
        let failing = self.backoff.last_failure().filter(|_| self.phase == Phase::Serving);
        let activity = Activity {
            active: !self.instances.is_empty() || is_queued || failing.is_some(),
            booting: of_phase(InstancePhase::Booting),
            ending: of_phase(InstancePhase::Ending),
            failing,
            cloning: self.cloning.status(),
            prewarm: self.prewarm_report(),
        };
        self.handle.slots().set_activity(activity);
    }
}
