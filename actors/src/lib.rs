//! The domain of UniFaaS, and everything that decides. No HTTP, no engine, no socket: the daemon around it has those.
//!
//! ```text
//!   RegistryActor ──1:n──► FunctionActor ──1:n──► InstanceActor ──1:1──► a sandbox (process, container, VM)
//!        │ writes               │ shares
//!        ▼                      ▼
//!    Directory ──────────►    FunctionHandle    ◄── HTTP workers: `acquire` a `Lease`, move bytes, drop it
//! ```
//!
//! All actors live on one thread; the [`Directory`] and the [`FunctionHandle`]s are all that other threads touch.
//!
//! # Invariants
//! 1. A guest has exactly one InstanceActor, whose fields own every host resource of it.
//! 2. Only `instance/lifecycle.rs` changes an instance's state; only `function/slots.rs` counts slots.
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
mod redact;
mod registry;
pub mod sandbox;
#[cfg(test)]
mod seeds;
mod services;
pub mod spec;
mod stats;

pub use admission::{Admission, AdmissionReport, HostLimits};
pub use callback::Callbacks;
pub use directory::Directory;
pub use function::{Endpoint, FailingReport, FunctionActor, FunctionHandle, FunctionSnapshot, Lease, Refusal};
pub use id::{InstanceId, ReadyToken};
pub use instance::{CallbackOutcome, InstanceActor, InstanceSnapshot, StopReason};
pub use messages::{DrainAll, FilesChanged, FunctionQuestion, InstanceAddrs, InstanceQuestion};
pub use output::OutputLog;
pub use redact::Redactor;
pub use registry::{ChangeSource, Changes, LoadedSpec, RegistryActor, scan_all, scan_one};
pub use services::Services;
pub use stats::{BootReport, FunctionStats, Outcome, StatsReport};
