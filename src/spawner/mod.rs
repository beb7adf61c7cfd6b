//! Starts all child processes of the daemon, in a process of its own: `unifaas spawner`.
//!
//! fork(2) of the daemon would copy many page tables, and give a child a copy of every descriptor of the daemon until it
//! executes its program. Meanwhile a tap stays busy, a lock held, a port bound, a written file cannot be executed. The
//! spawner process is small, and has only descriptors that were passed to it.
//!
//! - `client.rs`: the daemon's side, which starts that process again if it ends; `server.rs`: that process.
//! - `protocol.rs`: their messages; `confinement.rs`: what a child does before it executes its program.

mod client;
mod confinement;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Child, Spawner};
pub use confinement::Confinement;
pub use protocol::{EXEC, Failure, Invocation, Launch};
pub use server::run;

/// The daemon's own program, even after its file was replaced or removed.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// The first argument of the spawner process.
pub const ARGUMENT: &str = "spawner";
