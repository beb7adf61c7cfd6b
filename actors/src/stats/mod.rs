//! Counters and histograms of functions, written without locks by any thread.
//!
//! `outcome.rs` names how requests end, `histogram.rs` counts durations, `function.rs` has the counters of one function.
//! `starts.rs` times starts by their origin, `prewarm.rs` names the results of those ahead of requests, `commits.rs` commits of the inbox.
//! `usage.rs` finds them all for `/metrics`, and keeps the counts of removed functions; `totals.rs` is what it returns.

mod commits;
mod function;
mod histogram;
mod outcome;
mod prewarm;
mod starts;
mod totals;
mod usage;

pub use commits::CommitTimes;
pub use function::{FunctionStats, RequestEnd, StatsReport};
pub(crate) use histogram::PHASE_BUCKETS;
pub use histogram::{Exemplar, HistogramTotals};
pub use outcome::Outcome;
pub use prewarm::PrewarmResult;
pub use starts::{StartHistogram, StartTimes};
pub use totals::{FunctionTotals, WaitCause};
pub use usage::UsageTable;
