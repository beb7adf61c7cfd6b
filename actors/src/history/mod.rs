//! What the daemon remembers of its instances, bounded, for the admin pages.
//!
//! The actors write it, and HTTP workers the failures of requests. Any thread reads it. Locks are held for a few
//! instructions, and no request that succeeds takes one. `instances.rs` finds instances by id and keeps the ended ones,
//! `record.rs` is what is kept of one instance; `errors.rs` groups failures, `boots.rs` keeps
//! records of starts. The counters of functions that were used are found
//! here as well.

mod boots;
mod errors;
mod instances;
mod record;

use std::sync::Arc;

pub use boots::{BootHistory, PhaseTimes};
pub use errors::{ErrorHistory, ErrorReport, Failed};
pub use instances::InstanceHistory;
pub(crate) use instances::LiveInstance;
pub use record::{EndedReport, InstanceRecord};

use crate::{
    feed::Feed,
    stats::{StartTimes, UsageTable},
};

/// What the daemon remembers.
#[derive(Debug)]
pub struct History {
    /// The instances that exist, and the last ones that ended.
    pub instances: InstanceHistory,
    /// Their output, as it is printed.
    pub feed: Arc<Feed>,
    /// Failures of requests, grouped.
    pub errors: ErrorHistory,
    /// The last starts.
    pub boots: BootHistory,
    /// How long the starts of all functions took.
    pub starts: StartTimes,
    /// The counters of the functions that were used.
    pub usage: UsageTable,
}

impl Default for History {
    fn default() -> Self {
        Self::new(UsageTable::default())
    }
}

impl History {
    /// Makes a history without entries.
    pub fn new(usage: UsageTable) -> Self {
        let feed = Arc::<Feed>::default();
        let (errors, boots) = (ErrorHistory::new(feed.clone()), BootHistory::new(feed.clone()));
        Self { instances: InstanceHistory::default(), feed, errors, boots, starts: StartTimes::default(), usage }
    }
}
