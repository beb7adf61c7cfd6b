//! The domain of UniFaaS and everything that decides. No HTTP, no engine and no socket: those are in the daemon around it.
//!
//! ```text
//!   RegistryActor ──1:n──► FunctionActor ──1:n──► InstanceActor ──1:1──► SandboxHandle (process, container, VM)
//!        │ writes               │ writes     ▲                 │ owns
//!        ▼                      ▼            │ grants, evicts  ▼
//!    Directory ─────────► FunctionHandle   AdmissionActor ◄── Permit
//!                               ▲
//!                          HTTP workers: `acquire` a `Lease`, forward bytes, drop it
//! ```
//!
//! All actors run on one thread and own their facts. Everything that other threads touch:
//!
//! | type | shared state | written by |
//! | --- | --- | --- |
//! | [`Directory`] | the functions by name | RegistryActor |
//! | [`FunctionHandle`] | slot table with the spec in force, counters | FunctionActor; [`Lease`] (slots); HTTP workers (requests) |
//! | [`UsageTable`] | the counters of all functions that were used | [`FunctionHandle`], at the first use |
//! | [`Endpoint`] | where an instance listens, whether it serves, when it was resumed, how it exited | InstanceActor |
//! | [`Callbacks`] | the tokens of ready callbacks | InstanceActor |
//! | [`OutputLog`] | the last lines of output | the sandbox's reader; InstanceActor (lines of the platform) |
//! | [`Feed`] | queues of followers | OutputLog; admin pages |
//! | [`History`] | the instances by id, and the last ended ones | InstanceActor; FunctionActor (requests served) |
//! | [`MemoryUsage`] | the greatest use of memory that was seen | whatever reads it: admin pages; the sandbox at its end |
//! | [`BootClock`] | the times of a start | the sandbox; InstanceActor; HTTP workers (first response) |
//! | [`History`] | failures, grouped | HTTP workers; FunctionActor (those that no request waits for) |
//! | [`inbox::InboxHandle`] | the queue of the store's thread, which owns the invocations | HTTP workers, triggers, InboxActor |
//! | `Addr` of an actor | its mailbox | every thread |
//!
//! A warm request takes its slot from the slot table and releases it there without a message. That is on purpose: waking
//! the actors' thread twice per request costs a third of the throughput.
//!
//! # Invariants
//! 1. An instance has exactly one InstanceActor, whose fields own every host resource of it.
//! 2. Only `instance/lifecycle.rs` changes an instance's state. Only the FunctionActor and the Lease write the slot table.
//! 3. Each lease is released exactly once by its Drop, even if its owner panics. So is each permit.
//! 4. Each waiting caller gets exactly one answer. A caller that has given up is skipped.
//! 5. Each alarm of an instance carries a serial; a late alarm has no effect.
//! 6. No handler awaits another actor: answers are messages or go through a reply channel.
//! 7. Messages are defined beside the actor that receives them, and the facts that an actor reports beside that actor,
//!    which holds a `Recipient` for them. So modules depend on each other in one direction.
//! 8. Nothing here knows an HTTP status; nothing in the front knows a kind of sandbox.
//! 9. actix's `Supervisor` and `SystemService` are not used. `notice.rs` reports the end of a child. Without the RegistryActor
//!    or the AdmissionActor nothing can start: the daemon ends with a failure, and its service manager starts another.

mod admission;
mod boot;
mod callback;
pub mod cluster;
mod directory;
mod endpoint;
mod feed;
mod function;
mod history;
mod id;
pub mod inbox;
mod inspect;
mod instance;
mod memory_usage;
mod notice;
mod output;
mod redact;
mod refusal;
mod registry;
pub mod sandbox;
#[cfg(test)]
mod seeds;
mod services;
pub mod site;
pub mod spec;
mod start_tracker;
mod stats;
mod stop_reason;
pub mod trigger;
mod wall_time;
mod warmth;

pub use admission::{AdmissionActor, AdmissionQuestion, AdmissionReport, ForeignMemory, HostLimits};
pub use boot::{
    BootClock, BootRecord, BootReport, BootSpan, EvictedInstance, GuestMark, Origin, Phase, Phases, StartCause,
};
pub use callback::{CallbackOutcome, Callbacks};
pub use directory::Directory;
pub use endpoint::Endpoint;
pub use feed::{Feed, FeedItem, Follower, LineBatch, LineFilter};
pub use function::{
    AnnouncedSlots, FailingReport, FunctionActor, FunctionGauges, FunctionHandle, FunctionSnapshot, FunctionSummary,
    Lease, PrewarmReport, SnapshotReport, Wait, WaitedFor,
};
pub use history::{
    BootHistory, EndedReport, ErrorHistory, ErrorReport, Failed, History, InstanceHistory, InstanceRecord, PhaseTimes,
};
pub use id::{InstanceId, ReadyToken};
pub use inspect::FunctionReport;
pub use instance::{InstanceActor, InstanceSnapshot};
pub use memory_usage::MemoryUsage;
pub use notice::{EndGuard, ended};
pub use output::{OutputLine, OutputLog, OutputStream};
pub use redact::Redactor;
pub use refusal::Refusal;
pub use registry::{
    CURRENT, ChangeSource, Changes, DrainAll, FilesChanged, FollowTriggers, RegistryActor, Rescan, RescanReply,
    Rescanned, Roots, TriggersChanged, check_all, scan_all, scan_one,
};
pub use services::Services;
pub use spec::LoadedSpec;
pub use start_tracker::StartTracker;
pub use stats::{
    CommitTimes, Exemplar, FunctionStats, FunctionTotals, HistogramTotals, Outcome, PrewarmResult, RequestEnd,
    StartHistogram, StartTimes, StatsReport, UsageTable, WaitCause,
};
pub use stop_reason::StopReason;
pub use wall_time::{WallTime, rounded_ms, rounded_seconds};
pub use warmth::Rung;
