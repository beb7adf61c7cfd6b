//! The checked content of a `function.toml`.
//!
//! The rest of the daemon sees only [`FunctionSpec`], which has passed every check that needs no engine.
//!
//! | file | content |
//! | --- | --- |
//! | `function.rs`, `kinds.rs`, `env.rs` | the spec: the function, its sandbox, its environment |
//! | `async_spec.rs` | `[async]`, with its checks |
//! | `triggers.rs`, `schedule.rs` | what invokes the function besides requests, and when |
//! | `files.rs` | reading the file, and checking what it names on this host |
//! | `kernel.rs`, `program.rs`, `elf.rs` | kernels and programs: what they are built for, and what they need |
//! | `guest.rs` | whether a guest gets what it needs, in `check` and before a start |
//! | `snapshot.rs` | whether clones are restored from a snapshot |
//! | `placeholders.rs` | the `%words` that are replaced for each instance |
//! | `raw.rs` | access to the parsed TOML, with lines and problems |
//! | `check.rs`, `sandbox.rs`, `keys.rs`, `name.rs` | the checks |
//! | `error.rs` | the problems, with file, line and key |

mod async_spec;
mod capabilities;
mod check;
mod cluster_spec;
mod elf;
mod env;
mod error;
mod files;
mod function;
mod guest;
mod kernel;
mod keys;
mod kinds;
mod name;
mod placeholders;
mod program;
mod raw;
mod sandbox;
mod schedule;
mod snapshot;
#[cfg(test)]
mod tests;
mod triggers;

pub use async_spec::{AsyncSpec, Durability, StatusSet};
pub use cluster_spec::{ClusterSpec, is_label_part};
pub use env::Environment;
pub use error::{Problem, SpecError};
pub use function::{FunctionSpec, LoadedSpec, Readiness, SPEC_FILE};
pub use keys::nearest;
pub use kinds::{
    Accel, ContainerSpec, DiskType, Hypervisor, Machine, MicrovmOptions, ProcessSpec, Pull, Qemu, SandboxSpec,
    VmNetwork, VmSpec,
};
pub use name::{NameError, check_name};
pub use placeholders::{CONTAINER_WORDS, PROCESS_WORDS, VM_WORDS, has_placeholder, substitute};
pub use program::{DEFAULT_PATH, foreign_machine};
pub use raw::syntax_error;
pub use schedule::{ExpressionError, Schedule};
pub use snapshot::SnapshotSpec;
pub use triggers::{CronScope, CronSpec, Missed, MqttSpec, NatsSource, NatsSpec, Triggers};
