//! What each function has of the memory, and what another instance of it would find. The page of memory and `/debug/memory`
//! show it.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::task;
use unifaas_actors::{AdmissionReport, FunctionHandle, FunctionSummary, WaitCause, rounded_seconds};

use super::Known;

/// Instances whose use is read without a pause for other tasks.
const SLICE: usize = 16;
const MIB: u64 = 1 << 20;

/// What a function has. Memory is in bytes.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Share {
    pub instances: usize,
    /// Of these, the ones that serve nothing.
    pub idle: usize,
    /// For how long the longest idle one is.
    pub idle_seconds: Option<f64>,
    /// By all instances.
    pub declared_bytes: u64,
    /// What all instances count for the budget: less than declared if some are paused.
    pub charged_bytes: u64,
    /// By all instances. `None`: it is not known of any.
    pub used_bytes: Option<u64>,
    /// The most that one instance has used, of those that exist or are remembered. `None`: likewise.
    pub peak_bytes: Option<u64>,
    /// What one instance declares.
    pub limit_bytes: Option<u64>,
    /// Instances that were ended to make room for other functions.
    pub evicted: u64,
    /// Instances that were paused before their time for the same reason.
    pub early_pauses: u64,
    /// Requests that wait now.
    pub waiting: usize,
    /// Requests that have waited for memory or for a start, and how long in all.
    pub waits: u64,
    pub wait_seconds: f64,
    /// What another instance would find.
    pub next: Option<Next>,
    /// Idle memory that other functions may get.
    #[serde(skip)]
    evictable: u64,
}

/// What another instance of a function would find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Next {
    /// Enough memory is free.
    Fits,
    /// Idle instances of others would be paused or ended.
    Evicts,
    /// It would wait until others end.
    Waits,
    /// It needs more than the budget.
    Never,
}

impl Next {
    /// Returns what an instance of `needed` bytes would find.
    fn of(needed: u64, budget: u64, free: u64, evictable: u64) -> Self {
        match needed {
            needed if needed > budget => Self::Never,
            needed if needed <= free => Self::Fits,
            needed if needed <= free + evictable => Self::Evicts,
            _ => Self::Waits,
        }
    }

    /// Returns it as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Evicts => "evicts idle ones",
            Self::Waits => "waits",
            Self::Never => "never fits",
        }
    }
}

/// Functions by name.
pub type Shares = BTreeMap<Box<str>, Share>;

/// Reads what functions have that have instances, or whose requests wait. `budget`: in MiB.
pub async fn read(known: &Known<'_>, admission: Option<AdmissionReport>, budget: u64) -> Shares {
    let mut shares = of_instances(known).await;
    let sample = known.sample().await;
    for row in &sample.rows {
        if row.summary.waiting > 0 {
            shares.entry(row.handle.name().into()).or_default();
        }
        if let Some(share) = shares.get_mut(row.handle.name()) {
            share.add_function(&row.handle, &row.summary);
            let ended = known.shared.history.instances.ended_of(row.handle.name());
            share.peak_bytes = share.peak_bytes.max(ended.iter().filter_map(|record| record.memory_peak()).max());
        }
    }
    let free = admission.map_or(0, |admission| admission.memory_free * MIB);
    let evictable: u64 = shares.values().map(|share| share.evictable).sum();
    for share in shares.values_mut() {
        let of_others = evictable - share.evictable;
        share.next = share.limit_bytes.map(|limit| Next::of(limit, budget * MIB, free, of_others));
    }
    shares
}

/// Reads what the instances have that exist.
async fn of_instances(known: &Known<'_>) -> Shares {
    let mut shares = Shares::new();
    for slice in known.shared.history.instances.all_live().chunks(SLICE) {
        let turn = known.turns.next().await;
        for record in slice {
            let share = shares.entry((*record.function).into()).or_default();
            share.instances += 1;
            share.declared_bytes += record.memory * MIB;
            share.charged_bytes += record.charged() * MIB;
            if let Some(bytes) = record.memory_used() {
                *share.used_bytes.get_or_insert_default() += bytes;
            }
            share.peak_bytes = share.peak_bytes.max(record.memory_peak());
        }
        drop(turn);
        task::yield_now().await;
    }
    shares
}

impl Share {
    fn add_function(&mut self, handle: &FunctionHandle, summary: &FunctionSummary) {
        self.idle = summary.idle + summary.paused;
        self.idle_seconds = handle.idle_for().map(rounded_seconds);
        self.waiting = summary.waiting;
        if let Some(spec) = handle.spec() {
            let limit = spec.memory() * MIB;
            // Paused instances do not count for the minimum.
            let running = self.instances.saturating_sub(summary.paused);
            let held_by_paused = self.charged_bytes.saturating_sub(running as u64 * limit);
            let idle_beyond_minimum = summary.idle.min(running.saturating_sub(spec.min_instances));
            self.evictable = idle_beyond_minimum as u64 * limit + held_by_paused;
            self.limit_bytes = Some(limit);
        }
        let Some(totals) = handle.used_stats().map(|stats| stats.totals()) else { return };
        self.early_pauses = totals.early_pauses;
        self.evicted = totals.ended().find(|(cause, _)| *cause == "evicted").map_or(0, |(_, count)| count);
        if let Some((_, waits)) = totals.waits().find(|(cause, _)| *cause == WaitCause::Host) {
            self.waits = waits.count();
            self.wait_seconds = rounded_seconds(Duration::try_from_secs_f64(waits.sum()).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_instance_fits_evicts_or_waits() {
        let next = |needed| Next::of(needed, 1000, 100, 200);
        assert_eq!([100, 101, 300].map(next), [Next::Fits, Next::Evicts, Next::Evicts]);
        assert_eq!([301, 1000, 1001].map(next), [Next::Waits, Next::Waits, Next::Never]);
    }
}
