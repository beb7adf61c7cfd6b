//! What the idle instances of a function are worth: how often they are wanted, and what it costs to do without them.

use std::time::Duration;

use slog::info;
use tokio::time::Instant;

use super::{FunctionActor, slots::IdleSlots};
use crate::{
    admission::{EvictionOutcome, IdleInstance, Pausable},
    boot::Origin,
    id::InstanceId,
    instance::Pause,
    stats::FunctionStats,
    stop_reason::StopReason,
    warmth::{Rung, Use},
};

/// How long a resumption takes, until one was measured.
const USUAL_RESUMPTION: Duration = Duration::from_millis(1);

impl FunctionActor {
    /// Returns idle instances with their worth.
    pub(super) fn valued(&self, idle: &[IdleSlots], now: Instant) -> Vec<IdleInstance> {
        let resume = self.handle.used_stats().and_then(|stats: &FunctionStats| stats.usual_start(Origin::Resumed));
        let (resume, start) = (resume.unwrap_or(USUAL_RESUMPTION), self.usual_start());
        let comebacks = self.comebacks.per_second(now);
        let valued = idle.iter().filter_map(|idle| {
            let IdleSlots { instance, idle_since, runs, is_pausable, served } = *idle;
            let record = &self.instances.get(instance)?.record;
            let (age, idle_for) = (record.age(), now.saturating_duration_since(idle_since));
            let rate = Use { comebacks, instances: self.instances.len(), runs, served, age, idle_for }.rate();
            let footprint = self.expected_footprint(record.memory);
            let pause = is_pausable.then_some(Pausable { footprint, delay: resume });
            let delay = if runs && !is_pausable { start } else { start.saturating_sub(resume) };
            Some(IdleInstance { instance, idle_since, rate, pause, delay })
        });
        valued.collect()
    }

    /// Returns what an instance that declares so much is expected to hold while it is paused, in MiB.
    fn expected_footprint(&self, declared: u64) -> u64 {
        self.footprint.unwrap_or(declared / 2).clamp(1, declared.max(1))
    }

    /// Pauses or stops an instance for other functions, if it is still idle.
    pub(super) fn evict(&self, id: InstanceId, to: Rung) -> EvictionOutcome {
        match to {
            Rung::Paused if self.handle.slots().pause_idle(id, Instant::now()) => {
                let Some(instance) = self.instances.get(id) else { return EvictionOutcome::Refused };
                instance.address.do_send(Pause);
                self.handle.stats().count_early_pause();
                info!(self.log, "idle instance is being paused for another function"; "instance" => %id);
                EvictionOutcome::Pausing { footprint: self.expected_footprint(instance.record.memory) }
            }
            Rung::Ended if self.instances.get(id).is_some_and(|instance| instance.is_template) => {
                info!(self.log, "the template ends, as a request needs its memory"; "instance" => %id);
                self.stop(id, StopReason::Evicted, true);
                EvictionOutcome::Ending
            }
            Rung::Ended if self.handle.slots().retire_idle(id) => {
                self.handle.stats().count_eviction();
                self.stop(id, StopReason::Evicted, false);
                EvictionOutcome::Ending
            }
            Rung::Paused | Rung::Ended => EvictionOutcome::Refused,
        }
    }
}
