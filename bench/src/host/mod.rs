//! The machine: what it is (`machine.rs`), what raises variance (`advice.rs`), what else it does (`noise.rs`), what processes
//! use (`usage.rs`), and its page cache.

mod advice;
mod machine;
mod noise;
mod usage;

use std::{fs, io};

pub use machine::{Machine, throttled};
pub use noise::{Noise, NoiseMeter};
pub use usage::{Usage, available_mib, cgroup_mib, own_cpu_ns, proportional_mib, with_descendants};

/// Writes dirty pages to disk and drops the host's page cache. Needs root.
///
/// # Errors
/// When this process may not.
pub fn drop_page_cache() -> io::Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "1")
}
