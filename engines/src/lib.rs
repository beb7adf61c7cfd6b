//! Touches the host for the daemon: runs instances, and keeps what exists outside of the daemon. No HTTP server, no command line.
//!
//! | module | contents |
//! | --- | --- |
//! | [`sandbox`] | the engines of processes, containers and virtual machines |
//! | [`net`] | the network of virtual machines |
//! | [`snapshot`] | snapshots of virtual machines, on disk |
//! | [`state`] | the state directory: what a daemon has created, for the cleanup after a crash |
//! | [`spawner`] | the process that starts all children; `syscalls` is a child until it executes its program |
//! | [`host`] | limits and facts of the host, and what the daemon may do there |
//! | [`worker`] | background loops beside the actors |

pub mod host;
pub mod net;
pub mod sandbox;
pub mod snapshot;
pub mod spawner;
pub mod state;
mod syscalls;
pub mod worker;
