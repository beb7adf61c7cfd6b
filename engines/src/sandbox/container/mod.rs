//! The `container` sandbox: an instance is a container of the local engine, Docker or another that speaks its protocol,
//! under any runtime that the engine knows.
//!
//! A cold start costs three calls: create with everything in it, start, and inspect. All else happens beside or before
//! them.
//!
//! ```text
//!   launch.rs        the steps of a cold start; create.rs and address.rs are two of them
//!   request.rs       what the engine is asked to create
//!   engine.rs        the client of the engine; engine_error.rs its errors
//!   inspection.rs    what an inspection tells of a container
//!   networks.rs      the address of this host in the networks of containers
//!   exit_watcher.rs  waits for exits, and for pauses by other programs; exit.rs says what counts as an exit
//!   handle.rs        the running container
//!   pause.rs         pauses it: first_process.rs finds its processes, stopped_tree.rs stops them by signals
//!   reaper.rs        removes containers, with retries
//!   recovery.rs      removes the containers of earlier daemons
//! ```

mod address;
mod create;
mod engine;
mod engine_error;
mod exit;
mod exit_watcher;
mod first_process;
mod handle;
mod inspection;
mod launch;
#[cfg(test)]
mod mock_engine;
mod networks;
mod pause;
mod reaper;
mod recovery;
mod request;
mod stopped_tree;

pub use engine::DEFAULT_HOST as DEFAULT_ENGINE;
pub use launch::Containers;
