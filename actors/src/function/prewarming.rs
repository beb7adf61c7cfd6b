//! Instances that are started ahead of requests, and paused until one comes. `warmth/prewarming.rs` decides when.
//!
//! A request that finds an instance running is not noticed by the FunctionActor. So such an instance is paused under the lock
//! under which it gets its slots.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use slog::debug;
use tokio::time::Instant;

use super::{FunctionActor, USUAL_START};
use crate::{
    boot::Origin, endpoint::Endpoint, id::InstanceId, instance::Pause, spec::LoadedSpec, stats::PrewarmResult,
    warmth::Window,
};

/// What `/debug` shows of the predictions of a function.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PrewarmReport {
    /// Idle times that are known, of which older ones count less.
    pub idle_times: u32,
    /// After so many idle seconds an instance is wanted. `None`: the times are too few, or differ too much.
    pub from_seconds: Option<f64>,
    /// After so many idle seconds it is not wanted any more.
    pub until_seconds: Option<f64>,
}

impl FunctionActor {
    /// Begins or ends to predict requests, as the spec wants. What is known stays.
    pub(super) fn configure_prewarming(&mut self) {
        let is_wanted = wants_prewarming(&self.loaded);
        self.prewarming = self.prewarming.take().or_else(|| Some(Box::default())).filter(|_| is_wanted);
    }

    /// Notes a request that came while nothing of the function ran.
    pub(super) fn note_request(&mut self) {
        if let (Some(prewarming), Some(head)) = (&mut self.prewarming, self.waiters.head()) {
            prewarming.requested(head.since);
        }
    }

    /// Notes whether anything of the function runs.
    pub(super) fn note_idleness(&mut self) {
        let Some(prewarming) = &mut self.prewarming else { return };
        let slots = self.handle.slots();
        let is_idle = slots.waiting() == 0 && !slots.is_running();
        match slots.last_served() {
            Some(since) if is_idle => prewarming.went_idle(since),
            _ if is_idle => {}
            _ => prewarming.interrupted(),
        }
    }

    /// Returns whether an instance should be started now: there is none, nor anything that prevents starts.
    pub(super) fn wants_prewarm(&self, now: Instant) -> bool {
        let is_due = self.prewarm_window().is_some_and(|window| window.contains(now));
        is_due && self.instances.is_empty() && self.waiters.len() == 0 && self.backoff.refusal(now).is_none()
    }

    /// Returns when the actor has to look whether an instance should be started, or is not wanted any more.
    pub(super) fn prewarm_due(&self, now: Instant) -> Option<Instant> {
        self.prewarm_window()?.next_edge(now)
    }

    fn prewarm_window(&self) -> Option<Window> {
        self.prewarming.as_ref()?.start_window(self.usual_start())
    }

    /// Returns until when an idle instance is kept, because a request is expected.
    pub(super) fn expected_until(&self, now: Instant) -> Option<Instant> {
        let window = self.prewarming.as_ref()?.window(self.usual_start())?;
        window.contains(now).then_some(window.until)
    }

    /// Returns how long it takes to start an instance. What has been restored will be restored again.
    pub(super) fn usual_start(&self) -> Duration {
        let usual = |origin| self.handle.used_stats().and_then(|stats| stats.usual_start(origin));
        usual(Origin::Restored).or(usual(Origin::Cold)).unwrap_or(USUAL_START)
    }

    /// Adds an instance that was started ahead of requests, and pauses it unless it is wanted already.
    pub(super) fn add_prewarmed(&mut self, endpoint: Arc<Endpoint>, now: Instant) {
        let id = endpoint.instance;
        let until = self.expected_until(now).unwrap_or(now);
        let mut slots = self.handle.slots();
        slots.add(endpoint, now);
        let is_paused = slots.pause_unused(id, until);
        drop(slots);
        match self.instances.get(id).filter(|_| is_paused) {
            Some(instance) => instance.address.do_send(Pause),
            None => self.prewarm_ended(id, PrewarmResult::Used),
        }
    }

    /// Counts what an instance that was started ahead of requests was good for, once.
    pub(super) fn prewarm_ended(&mut self, id: InstanceId, result: PrewarmResult) {
        if self.instances.take_prewarmed(id) {
            debug!(self.log, "instance was started ahead of requests"; "instance" => %id, "result" => result.as_str());
            self.handle.stats().count_prewarm(result);
        }
    }

    pub(super) fn prewarm_report(&self) -> Option<PrewarmReport> {
        let (idle_times, expected) = self.prewarming.as_ref()?.expected();
        let from_seconds = expected.map(|it| it.from.saturating_sub(self.usual_start()).as_secs_f64());
        Some(PrewarmReport { idle_times, from_seconds, until_seconds: expected.map(|it| it.until.as_secs_f64()) })
    }
}

/// Returns whether a spec wants instances ahead of requests.
pub(super) fn wants_prewarming(loaded: &LoadedSpec) -> bool {
    loaded.as_ref().is_ok_and(|spec| spec.prewarm)
}
