//! What the function can do for requests of other nodes, and what is compared with them. Read from its handle.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use super::{FunctionHandle, slots::Intake};
use crate::{
    boot::Origin,
    cluster::{FunctionLoad, OfferedFunction},
    spec::FunctionSpec,
};

impl FunctionHandle {
    /// Returns what other nodes may count on. `None`: they are not to forward requests to it.
    pub(crate) fn offered(&self) -> Option<OfferedFunction> {
        let slots = self.slots();
        match slots.intake() {
            Intake::Open(spec) if spec.cluster.forward => Some(offered(spec)),
            _ => None,
        }
    }

    /// Returns what is going on with the function.
    pub fn load(&self) -> FunctionLoad {
        let slots = self.slots();
        let (activity, counts) = (slots.activity(), slots.counts());
        let max_instances = match slots.intake() {
            Intake::Open(spec) => spec.max_instances.map_or(usize::MAX, usize::from),
            Intake::Misconfigured(_) | Intake::Draining => 0,
        };
        // What is paused is there sooner than a new instance, and needs no place for one.
        let is_full = counts.paused == 0 && slots.len() + activity.booting + activity.ending >= max_instances;
        let load = FunctionLoad {
            free: count(slots.free()),
            capacity: count(slots.capacity()),
            waiting: count(slots.waiting()),
            is_failing: activity.failing.is_some(),
            is_full,
            ..FunctionLoad::default()
        };
        drop(slots);
        let Some(stats) = self.used_stats() else { return load };
        let origins =
            if counts.paused > 0 { [Origin::Resumed, Origin::Restored] } else { [Origin::Restored, Origin::Cold] };
        let boot = origins.into_iter().find_map(|origin| stats.usual_start(origin));
        FunctionLoad { service_us: micros(stats.usual_service()), boot_us: boot.map(micros), ..load }
    }

    /// Returns what a heartbeat says of the function, and notes that it does. `None`: there are neither instances nor
    /// waiting requests.
    pub(crate) fn announce(&self) -> Option<FunctionLoad> {
        let load = (!self.is_inactive()).then(|| self.load());
        self.announced.set(load.map_or(0, |load| load.free));
        load
    }
}

/// The free slots that the last heartbeat has told of, less those that are known to be used since.
#[derive(Debug, Default)]
pub struct AnnouncedSlots(AtomicU32);

impl AnnouncedSlots {
    fn set(&self, free: u32) {
        self.0.store(free, Relaxed);
    }

    /// Notes that a request was served for another node. Returns whether that was the last of the slots.
    pub fn note_served(&self) -> bool {
        let before = self.0.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1));
        before == Ok(1)
    }

    /// Notes that no slot is free. Returns whether other nodes believe otherwise.
    pub fn note_none_free(&self) -> bool {
        self.0.swap(0, Relaxed) > 0
    }

    /// Notes that a slot is free. Returns whether other nodes believe otherwise.
    pub fn note_free(&self) -> bool {
        self.0.compare_exchange(0, 1, Relaxed, Relaxed).is_ok()
    }
}

fn offered(spec: &FunctionSpec) -> OfferedFunction {
    let answer =
        spec.timeout.map(|timeout| spec.queue_timeout.saturating_add(spec.boot_timeout).saturating_add(timeout));
    OfferedFunction {
        memory: spec.memory(),
        answer_ms: answer.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        version: None,
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_nodes_are_told_once_of_each_change() {
        let slots = AnnouncedSlots::default();
        assert!(!slots.note_none_free(), "they believe that already");
        assert!(slots.note_free());
        assert!(!slots.note_free());
        slots.set(2);
        assert!(!slots.note_free());
        assert_eq!([slots.note_served(), slots.note_served(), slots.note_served()], [false, true, false]);
        slots.set(2);
        assert_eq!([slots.note_none_free(), slots.note_none_free()], [true, false]);
    }
}
