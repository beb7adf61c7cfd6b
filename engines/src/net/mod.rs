//! The network of virtual machines: a tap and a /30 subnet for each, and firewall rules around all of them.
//!
//! - `network.rs`: the interface of this module, [`Network`] and [`TapLease`].
//! - `tap_manager.rs`: the thread that creates, leases and removes taps; `tap_pool.rs`: taps that are ready for a lease.
//! - `tap_setup.rs`: one tap, from `tap.rs` (devices by ioctl), `netlink.rs` (interfaces and routes) and `sysctl.rs`.
//! - `firewall.rs`: the nftables rules; `monitor.rs`: reports when they are deleted, and when interfaces are removed.
//! - `preflight.rs`: privileges and address conflicts; `cleanup.rs`: removal, also after a daemon that was killed.
//! - `connect.rs` connects to instances; `subnet.rs`: address arithmetic; `error.rs`: why there is no tap.
//!
//! Guests that are cloned from one snapshot have one address. Each has a tap of its own, and all of these taps have the same
//! addresses: sockets are bound to a tap. What is not bound gets nowhere, by a route to the loopback interface.
//!
//! Nothing is created before the first virtual machine needs it. Every resource carries the mark of the state directory:
//! a tap as its group, the route as its metric, the table in its name. One journal entry for the whole network suffices.

mod cleanup;
mod connect;
mod error;
mod firewall;
mod monitor;
mod netlink;
mod network;
mod preflight;
mod subnet;
mod sysctl;
mod tap;
mod tap_manager;
mod tap_pool;
mod tap_setup;
#[cfg(test)]
mod tests;

pub use cleanup::{Leftovers, clean_up};
pub use connect::{connect, connect_first};
pub use error::NetError;
pub use firewall::Mark;
pub use network::{Network, Settings, TapLease};
pub use subnet::{PointToPoint, Subnet};
pub use tap_pool::TapKind;
