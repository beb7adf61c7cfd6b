//! The checked content of a `function.toml`.
//!
//! The rest of the daemon sees only [`FunctionSpec`], which has passed every check that needs no engine.
//!
//! | file | content |
//! | --- | --- |
//! | `function.rs`, `kinds.rs`, `env.rs` | the spec: the function, its sandbox, its environment |
//! | `files.rs`, `kernel.rs` | reading the file, and checking the files that it names |
//! | `raw.rs` | access to the parsed TOML, with lines and problems |
//! | `check.rs`, `sandbox.rs`, `keys.rs`, `name.rs` | the checks |
//! | `error.rs` | the problems, with file, line and key |

mod check;
mod env;
mod error;
mod files;
mod function;
mod kernel;
mod keys;
mod kinds;
mod name;
mod raw;
mod sandbox;
#[cfg(test)]
mod tests;

pub use env::Environment;
pub use error::{Problem, SpecError};
pub use function::{FunctionSpec, LoadedSpec, Readiness, SPEC_FILE};
pub use kinds::{
    Accel, ContainerSpec, DiskType, Hypervisor, Machine, MicrovmOptions, ProcessSpec, Pull, Qemu, SandboxSpec,
    VmNetwork, VmSpec,
};
pub use name::{NameError, check_name};
