//! Counters of requests that were forwarded from this node, or served by it for others.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use foldhash::HashMap;
use serde::Serialize;

use crate::stats::{FunctionStats, UsageTable};

/// Functions with counters of their own. Others share those of `*`.
const MAX_FUNCTIONS: usize = 1000;
const REST: &str = "*";

/// The counters of all functions that were forwarded, by name.
#[derive(Debug, Default)]
pub struct ForwardTable(Mutex<HashMap<Arc<str>, Arc<ForwardStats>>>);

/// The counters of a function.
#[derive(Debug, Default)]
pub struct ForwardStats {
    /// Attempts to have a request served by another node.
    pub forwarded: AtomicU64,
    /// Of these, the ones with a response.
    pub ok: AtomicU64,
    /// Of these, the ones that the other node has refused without touching the request.
    pub refused: AtomicU64,
    /// Of these, the ones without a response, whether or not the other node was reached.
    pub failed: AtomicU64,
    /// Requests that were served here for other nodes.
    pub served: AtomicU64,
    /// The counters of requests to a function that this node does not have.
    requests: OnceLock<Arc<FunctionStats>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "see `ForwardStats`")]
pub struct ForwardCounts {
    pub forwarded: u64,
    pub forwarded_ok: u64,
    pub forward_refused: u64,
    pub forward_failed: u64,
    pub served_for_peers: u64,
}

impl ForwardCounts {
    /// Adds what was counted of another function.
    pub fn add(&mut self, other: Self) {
        self.forwarded += other.forwarded;
        self.forwarded_ok += other.forwarded_ok;
        self.forward_refused += other.forward_refused;
        self.forward_failed += other.forward_failed;
        self.served_for_peers += other.served_for_peers;
    }
}

impl ForwardTable {
    /// Returns the counters of a function.
    pub fn of(&self, function: &str) -> Arc<ForwardStats> {
        let mut table = self.lock();
        if let Some(stats) = table.get(function) {
            return stats.clone();
        }
        let name = if table.len() < MAX_FUNCTIONS { function } else { REST };
        table.entry(name.into()).or_default().clone()
    }

    /// Returns the counters of requests to a function that this node does not have.
    pub fn requests_of(&self, function: &str, usage: &UsageTable) -> Arc<FunctionStats> {
        self.of(function).requests.get_or_init(|| usage.enter(function)).clone()
    }

    /// Returns what was counted of a function.
    pub fn counts_of(&self, function: &str) -> Option<ForwardCounts> {
        self.lock().get(function).map(|stats| stats.counts())
    }

    /// Returns what was counted, by function.
    pub fn counts(&self) -> Vec<(Arc<str>, ForwardCounts)> {
        let mut counts: Vec<_> = self.lock().iter().map(|(name, stats)| (name.clone(), stats.counts())).collect();
        counts.sort_by(|(one, _), (other, _)| one.cmp(other));
        counts
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<ForwardStats>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ForwardStats {
    fn counts(&self) -> ForwardCounts {
        ForwardCounts {
            forwarded: self.forwarded.load(Relaxed),
            forwarded_ok: self.ok.load(Relaxed),
            forward_refused: self.refused.load(Relaxed),
            forward_failed: self.failed.load(Relaxed),
            served_for_peers: self.served.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_counters_is_bounded() {
        let table = ForwardTable::default();
        for number in 0..MAX_FUNCTIONS + 10 {
            table.of(&format!("f{number}")).forwarded.fetch_add(1, Relaxed);
        }
        assert_eq!(table.counts().len(), MAX_FUNCTIONS + 1);
        assert_eq!(table.counts_of(REST).unwrap().forwarded, 10);
        assert_eq!(table.counts_of("f0").unwrap().forwarded, 1);
        assert!(table.counts_of("f1005").is_none());
    }
}
