//! The record of one start: what was started and why, its times, and how it ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde::{Serialize, Serializer, ser::SerializeMap};
use tokio::time::Instant;

use super::{BootClock, Origin, Phase};
use crate::{id::InstanceId, stop_reason::StopReason, wall_time::WallTime, warmth::Rung};

/// The result of a start that has succeeded.
const READY: &str = "ready";
/// The result of a start that has not ended yet.
const UNDER_WAY: &str = "booting";

/// Why an instance was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StartCause {
    /// A request waited.
    Caller,
    /// The function keeps `min-instances` ready.
    Minimum,
    /// A request is expected soon.
    Prewarm,
    /// A snapshot is taken of it.
    Template,
}

/// The record of one start. Its InstanceActor writes it.
#[derive(Debug)]
pub struct BootRecord {
    /// The function.
    pub function: Arc<str>,
    /// The kind of its sandbox.
    pub kind: &'static str,
    /// The version of its spec.
    pub revision: u64,
    /// The instance.
    pub instance: InstanceId,
    /// Why it was started.
    pub cause: StartCause,
    /// The times.
    pub clock: BootClock,
    /// The idle instances that made room for it.
    evicted: Vec<EvictedInstance>,
    /// When the instance was first wanted.
    wanted: WallTime,
    result: OnceLock<BootResult>,
}

/// An idle instance that was paused or ended to make room for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EvictedInstance {
    /// Its function.
    pub function: Arc<str>,
    /// Its id.
    pub instance: InstanceId,
    /// What it became.
    pub to: Rung,
}

#[derive(Debug)]
struct BootResult {
    code: &'static str,
    /// How the instance ended, or why it was not started.
    exit: Option<String>,
    /// From the origin of the clock.
    at: Duration,
}

impl BootRecord {
    pub(crate) fn new(
        function: Arc<str>,
        kind: &'static str,
        revision: u64,
        instance: InstanceId,
        cause: StartCause,
        clock: BootClock,
    ) -> Self {
        let wanted = WallTime::before(clock.origin().elapsed());
        let (evicted, result) = Default::default();
        Self { function, kind, revision, instance, cause, clock, evicted, wanted, result }
    }

    /// Adds the instances that made room for it.
    pub(crate) fn with_evicted(self, evicted: &[EvictedInstance]) -> Self {
        Self { evicted: evicted.to_vec(), ..self }
    }

    /// Notes that the instance became ready at `at`. Returns whether the start had not ended before.
    pub(crate) fn set_ready(&self, at: Instant) -> bool {
        self.clock.mark_at(Phase::Ready, at);
        self.end(READY, None)
    }

    /// Notes that the start failed, or was given up. Returns whether it had not ended before.
    pub(crate) fn set_lost(&self, reason: &StopReason) -> bool {
        let exit = match reason {
            StopReason::LaunchFailed(error) => Some(error.to_string()),
            StopReason::BootFailed(exit) => Some(exit.to_string()),
            StopReason::BootTimedOut(why) | StopReason::Unreachable(why) => Some(why.clone()),
            _ => None,
        };
        self.end(reason.code(), exit)
    }

    fn end(&self, code: &'static str, exit: Option<String>) -> bool {
        let at = self.clock.origin().elapsed();
        self.result.set(BootResult { code, exit, at }).is_ok()
    }

    /// Returns whether the start has succeeded.
    pub(crate) fn is_ready(&self) -> bool {
        self.result.get().is_some_and(|result| result.code == READY)
    }

    /// Returns how long the start took, or has taken so far.
    pub(crate) fn took(&self) -> Duration {
        let until = self.clock.offset(Phase::Ready).or(self.result.get().map(|result| result.at));
        until.unwrap_or_else(|| self.clock.origin().elapsed())
    }

    /// Returns how many bytes it takes.
    pub(crate) fn size(&self) -> usize {
        let exit = self.result.get().and_then(|result| result.exit.as_ref());
        size_of::<Self>() + self.clock.size() + size_of_val(&*self.evicted) + exit.map_or(0, String::len)
    }

    /// Returns what the admin pages show.
    pub fn report(&self) -> BootReport {
        let result = self.result.get();
        let offsets = Phase::ALL.into_iter().filter_map(|phase| Some((phase, self.clock.offset(phase)?)));
        let marks = self.clock.marks().map(|(name, at)| GuestMark { name: name.to_owned(), at_us: micros(at) });
        BootReport {
            function: self.function.clone(),
            kind: self.kind,
            revision: self.revision,
            instance: self.instance,
            cause: self.cause,
            origin: self.clock.started_from(),
            evicted: self.evicted.clone(),
            wanted: self.wanted,
            result: result.map_or(UNDER_WAY, |result| result.code),
            exit: result.and_then(|result| result.exit.clone()),
            took_us: micros(self.took()),
            phases: Phases(offsets.map(|(phase, offset)| (phase, micros(offset))).collect()),
            marks: marks.collect(),
            trace_id: self.clock.claimed().map(|span| format!("{:032x}", span.trace_id)),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A start, as the admin pages show it. Times are microseconds from the moment when the instance was first wanted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BootReport {
    /// The function.
    pub function: Arc<str>,
    /// The kind of its sandbox.
    pub kind: &'static str,
    /// The version of its spec.
    pub revision: u64,
    /// The instance.
    pub instance: InstanceId,
    /// Why it was started.
    pub cause: StartCause,
    /// What it was started from: `cold` or `restored`.
    pub origin: Origin,
    /// The idle instances that made room for it, the first ones if there were many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<EvictedInstance>,
    /// When the instance was first wanted.
    pub wanted: WallTime,
    /// `ready`, `booting`, or why it failed, as [`StopReason::code`] has it.
    pub result: &'static str,
    /// How the instance ended before it was ready, or why it was not started.
    pub exit: Option<String>,
    /// Until it was ready or had failed.
    pub took_us: u64,
    /// The end of each phase that was reached.
    pub phases: Phases,
    /// The instance's own marks.
    pub marks: Vec<GuestMark>,
    /// The trace of the request that has caused it, if that is exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// The ends of phases, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phases(BTreeMap<Phase, u64>);

impl Phases {
    /// Returns when a phase ended, in microseconds, if it was reached.
    pub fn end(&self, phase: Phase) -> Option<u64> {
        self.0.get(&phase).copied()
    }
}

impl Serialize for Phases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (phase, offset) in &self.0 {
            map.serialize_entry(phase.as_str(), offset)?;
        }
        map.end()
    }
}

/// A mark that an instance has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestMark {
    /// Its name.
    pub name: String,
    /// When the line was read.
    pub at_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::SandboxExit;

    fn record() -> BootRecord {
        let clock = BootClock::new(Instant::now());
        BootRecord::new("f".into(), "process", 3, InstanceId::random(), StartCause::Caller, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_reported_with_its_phases_and_its_result() {
        let record = record();
        for (phase, after) in [(Phase::Admitted, 5), (Phase::Resources, 1), (Phase::Started, 2)] {
            tokio::time::advance(Duration::from_millis(after)).await;
            record.clock.mark(phase);
        }
        record.clock.mark_guest("imports");
        assert_eq!((record.report().result, record.report().took_us), ("booting", 8000));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(record.set_ready(Instant::now()));
        assert!(!record.set_lost(&StopReason::Idle), "it had ended before");
        let report = serde_json::to_value(record.report()).unwrap();
        let phases = serde_json::json!({ "admitted": 5000, "resources": 6000, "started": 8000, "ready": 18000 });
        assert_eq!(
            (&report["phases"], &report["result"], &report["took_us"]),
            (&phases, &"ready".into(), &18000.into())
        );
        assert_eq!(report["marks"], serde_json::json!([{ "name": "imports", "at_us": 8000 }]));
        assert_eq!((&report["cause"], &report["kind"]), (&"caller".into(), &"process".into()));
        assert_eq!(report["origin"], "cold");
        record.clock.set_restored();
        assert_eq!(record.report().origin, Origin::Restored);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_start_ends_at_its_last_phase() {
        let record = record();
        record.clock.mark(Phase::Admitted);
        tokio::time::advance(Duration::from_millis(3)).await;
        assert!(record.set_lost(&StopReason::BootFailed(SandboxExit::Code(3))));
        tokio::time::advance(Duration::from_millis(3)).await;
        let report = record.report();
        assert_eq!((report.result, report.exit.as_deref()), ("boot_failed", Some("exited with status 3")));
        assert_eq!((report.took_us, report.phases.0.len()), (3000, 1));
    }
}
