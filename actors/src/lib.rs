//! The domain of UniFaaS, and everything that decides. No HTTP, no engine, no socket: the daemon around it has those.
//!
//! ```text
//!   RegistryActor ──1:n──► FunctionActor ──1:n──► InstanceActor ──1:1──► a sandbox (process, container, VM)
//!        │ writes               │ shares
//!        ▼                      ▼
//!    Directory ──────────►    Desk    ◄── HTTP workers: `acquire` a `Lease`, move bytes, drop it
//! ```
//!
//! All actors live on one thread; the [`Directory`] and the [`Desk`]s are all that other threads touch.
//!
//! # Invariants
//! 1. A guest has exactly one InstanceActor, whose fields own every host resource of it.
//! 2. Only `instance/life.rs` changes an instance's state; only `function/slots.rs` counts slots.
//! 3. Each lease is given back exactly once, by its Drop, also when its holder panics.
//! 4. Each waiter gets exactly one answer; one that has left is skipped, not served.
//! 5. Each alarm carries a serial; a late one changes nothing.
//! 6. No handler awaits another actor: answers come as messages or through a reply port.
//! 7. Nothing here knows an HTTP status; nothing in the front knows a kind of sandbox.
//! 8. Absent on purpose: actix's `Supervisor` and `SystemService`. A child's death is told by `notice.rs`.

mod admission;
mod callback;
mod directory;
mod function;
mod id;
mod instance;
mod messages;
mod notice;
mod output;
mod registry;
pub mod sandbox;
#[cfg(test)]
mod seeds;
pub mod spec;
mod stats;
mod veil;
mod world;

pub use admission::{Admission, AdmissionReport, Limits};
pub use callback::Callbacks;
pub use directory::Directory;
pub use function::{Desk, Endpoint, FailingReport, FunctionActor, FunctionSnapshot, Lease, Refusal};
pub use id::{InstanceId, ReadyToken};
pub use instance::{Cause, InstanceActor, InstanceSnapshot, Verdict};
pub use messages::{Changed, DrainAll, FunctionQuestion, InstanceQuestion, Members};
pub use output::OutputLog;
pub use registry::{Changes, Draft, Follow, RegistryActor, scan_all, scan_one};
pub use stats::{BootReport, FunctionStats, Outcome, StatsReport};
pub use veil::Veil;
pub use world::World;
