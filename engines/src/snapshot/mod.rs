//! Snapshots of virtual machines on disk: what they are of, and where they are kept.
//!
//! - `key.rs`: the key of a snapshot, a hash of everything that it depends on.
//! - `manifest.rs`: what is written beside the files of a snapshot.
//! - `store.rs`: the directory with all snapshots, its budget, and what is removed from it.
//! - `files.rs`: their files, while they are written, verified and removed.
//! - `zeros.rs`: gives back the space of zeros in their files.
//! - `budget.rs`: how much of the disk they may take.
//! - `error.rs`: why one cannot be used or kept.
//!
//! `sandbox/vm/` takes and restores them. The actors decide when.

mod budget;
mod error;
mod files;
mod key;
mod manifest;
mod store;
mod zeros;

pub use budget::SnapshotBudget;
pub use key::{KeyBuilder, SnapshotKey};
pub use manifest::Part;
pub use store::{Found, SnapshotEntry, SnapshotStore};
