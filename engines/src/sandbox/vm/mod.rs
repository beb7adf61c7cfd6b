//! The `vm` sandbox: an instance is a virtual machine, run by a VMM (virtual machine monitor) that is a child of the daemon.
//!
//! - `runtime.rs` launches and supervises VMs.
//! - `plan.rs`, `plan_firecracker.rs` and `plan_snapshot.rs` turn a launch order into a command: `firecracker.rs` and `qemu.rs` write command lines, `program.rs` finds
//!   executables, `run_as.rs` chooses the user, `accel.rs` probes KVM, `disk.rs` copies root disks.
//! - `attachment.rs`: the guest's network, `callback_relay.rs`: the way to the callback listener where clones have one address; `instance_dir.rs`: its files; `handle.rs`: a running instance.
//! - `qmp.rs` speaks to QEMU, `firecracker_api.rs` to Firecracker; `exit_reason.rs` finds out why a machine ended.
//! - `template.rs` takes snapshots, `clone.rs` restores them; `migration.rs` saves guests and restores them; `hooks.rs` requests both from guests.
//!
//! Taps and firewall rules are in `net/`. A VMM is started and supervised like the child processes of `process/`.

mod accel;
mod attachment;
mod callback_relay;
mod clone;
mod disk;
mod exit_reason;
mod firecracker;
mod firecracker_api;
mod handle;
mod hooks;
mod instance_dir;
mod migration;
mod plan;
mod plan_firecracker;
mod plan_snapshot;
mod program;
mod qemu;
mod qmp;
mod run_as;
mod runtime;
mod template;

use std::time::Duration;

pub use accel::probe as probe_kvm;
pub use program::{FIRECRACKER, JAILER, Program, QEMU};
pub use runtime::{VmRuntime, VmSettings};

/// How long saving a guest may take: a guest that changes its memory faster than it is written is never done.
const SAVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a restored guest may take to run, from the start of its VMM on.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(2);
