//! The network of virtual machines: a tap and a /30 subnet for each, and firewall rules around all of them.
//!
//! - `network.rs`: the interface of this module, [`Network`] and [`TapLease`].
//! - `tap_manager.rs`: the thread that creates, leases and removes taps; `tap_pool.rs`: taps that are ready for a lease.
//! - `tap_setup.rs`: one tap, from `tap.rs` (devices by ioctl), `netlink.rs` (interfaces and routes) and `sysctl.rs`.
//! - `firewall.rs`: the nftables rules; `nft_monitor.rs`: reports when they are deleted.
//! - `preflight.rs`: privileges and address conflicts; `cleanup.rs`: removal, also after a daemon that was killed.
//! - `subnet.rs`: address arithmetic; `error.rs`: why there is no tap.
//!
//! Nothing is created before the first virtual machine needs it. Every resource carries the mark of the state directory:
//! a tap as its group, the route as its metric, the table in its name. One journal entry for the whole network suffices.

mod cleanup;
mod error;
mod firewall;
mod netlink;
mod network;
mod nft_monitor;
mod preflight;
mod subnet;
mod sysctl;
mod tap;
mod tap_manager;
mod tap_pool;
mod tap_setup;

pub use cleanup::{Leftovers, clean_up};
pub use error::NetError;
pub use firewall::Mark;
pub use network::{Network, Settings, TapLease};
pub use subnet::{PointToPoint, Subnet};
