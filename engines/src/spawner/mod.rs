//! Starts all child processes of the daemon, in a process of its own: `unifaas spawner`.
//!
//! A child has a copy of every descriptor of its creator until it executes its program. Were the daemon its creator, a tap
//! would stay busy meanwhile, a lock held, a port bound, and a written file could not be executed. The spawner process has
//! only descriptors that were passed to it.
//!
//! - `client.rs`: what engines use; `connection.rs`: the thread behind it, which starts that process again if it ends.
//! - `server.rs`: that process.
//! - `protocol.rs`: their messages; `invocation.rs`: the commands of engines.
//! - `syscalls/`: a child until it executes its program.

mod client;
mod connection;
mod invocation;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Child, Spawner};
pub use invocation::Invocation;
pub use protocol::{Failure, receive, receive_blocking, send};
pub use server::run;

/// The daemon's own program, even after its file was replaced or removed.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// The first argument of the spawner process.
pub const ARGUMENT: &str = "spawner";
