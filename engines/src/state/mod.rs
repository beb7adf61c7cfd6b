//! The state directory: its owner, and what a daemon has created outside of itself, for the cleanup after a crash.
//!
//! ```text
//!   lock        held while a daemon runs; a second daemon on the same directory refuses to start
//!   identity    a random number: the mark of everything that can carry one (labels of containers, groups of taps, names)
//!   resources/  a record for each resource, written before the resource is created
//!   instances/  the files of instances, a directory each, which is its own record
//!   lives/      directories like this one, each of a daemon that has taken over from another one (see `upgrade/`)
//! ```
//!
//! Each engine records its resources before it creates them, and removes the records when it has released them. What a
//! killed daemon has left, the next one finds in [`Recovered`], and `sandbox/reclaim.rs` removes it.
//!
//! `directory.rs` opens the directory, `file.rs` its files, `lock.rs` its lock, and `recovery.rs` reads what was left.
//! `resource.rs` says what is recorded, `record_dir.rs` keeps the files, `journal_files.rs` chooses them, `journal.rs` is the interface of the engines,
//! and `legacy_journal.rs` reads what earlier versions wrote. Processes are recognized by `process_tree.rs`, in the
//! process table of `processes.rs`.

mod directory;
mod error;
pub mod file;
mod journal;
mod journal_files;
mod legacy_journal;
mod lock;
mod process_tree;
mod processes;
mod record_dir;
mod recovery;
mod resource;

pub use directory::{State, create_life, default_directory, identity_of, lives};
pub use error::{JournalError, StateError, is_full};
pub use journal::{Journal, JournalEntry};
pub use process_tree::MARK;
pub use processes::{
    ProcessId, boot_clock, is_killed, kill_container_processes, kill_process_trees, pids_of, send_signal,
};
#[cfg(test)]
pub use recovery::recorded;
pub use recovery::{Damage, Recovered};
pub use resource::{ProcessTree, Resource, SessionLeader};
