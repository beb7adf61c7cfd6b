//! What a function is: the checked content of one `function.toml`.
//!
//! [`FunctionSpec`] is the only form the rest of the daemon sees; a value of it has passed every check that needs no
//! engine. `raw.rs` reads the file as it is written, `check.rs` and `sandbox.rs` turn that into a spec, `keys.rs` knows
//! which keys there are, `files.rs` looks at the disk, `kernel.rs` at kernels, `name.rs` says what a function may be called, `env.rs` keeps
//! secrets, and `error.rs` says what is wrong with file, key and value. Which functions exist is `registry/`'s business.

mod check;
mod env;
mod error;
mod files;
mod kernel;
mod keys;
mod name;
mod raw;
mod sandbox;
#[cfg(test)]
mod tests;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

pub use env::Environment;
pub use error::{Problem, SpecError};
pub use name::{NameError, check_name};

/// The name of the file that makes a directory a function.
pub const SPEC_FILE: &str = "function.toml";

/// One function, checked. Two specs are equal when instances of the one can serve for the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionSpec {
    /// Name of the directory, and of the function in `/invoke/<name>/`.
    pub name: String,
    /// Absolute path of the directory; relative paths in the file start here.
    pub directory: PathBuf,
    /// Requests one instance serves at any moment. Always 1 for single-use functions.
    pub concurrent_requests: NonZeroUsize,
    /// Whether an instance ends after its first request.
    pub single_use: bool,
    /// Rest after the last byte of the last response before an idle instance is ended.
    #[serde(serialize_with = "seconds")]
    pub keepalive: Duration,
    /// Instances kept ready even when nobody asks.
    pub min_instances: usize,
    /// Instances alive at once, those that are starting or ending included. `None`: as many as fit into memory.
    pub max_instances: Option<NonZeroUsize>,
    /// From dispatch to the last byte of the response. `None`: no limit.
    #[serde(serialize_with = "optional_seconds")]
    pub timeout: Option<Duration>,
    /// From the order to start an instance to its readiness.
    #[serde(serialize_with = "seconds")]
    pub boot_timeout: Duration,
    /// Between asking an instance to end and killing it.
    #[serde(serialize_with = "seconds")]
    pub stop_grace: Duration,
    /// Requests that may wait for a slot; the next one is refused.
    pub queue: NonZeroUsize,
    /// How long a request may wait for a slot.
    #[serde(serialize_with = "seconds")]
    pub queue_timeout: Duration,
    /// Largest request body, in bytes. `None`: no limit.
    pub max_body: Option<u64>,
    /// Where the function listens in its instance. Process instances get a port each instead.
    pub port: u16,
    /// How an instance tells that it can take requests.
    pub readiness: Readiness,
    /// Environment for containers and processes. The values may be secrets: only the names are ever shown.
    pub env: Environment,
    /// What an instance is.
    pub sandbox: SandboxSpec,
}

impl FunctionSpec {
    /// Reads and checks `directory/function.toml`, and looks whether the files that it names are there. The function is
    /// named like the directory.
    ///
    /// # Errors
    /// Everything that is wrong, or the one reason why the file cannot be read or is no TOML.
    pub fn load(directory: &Path) -> Result<FunctionSpec, SpecError> {
        files::load(directory)
    }

    /// Checks the text of a `function.toml` that belongs into `directory`. Looks at no file.
    ///
    /// # Errors
    /// As for [`load`](Self::load), except for what only the disk can tell.
    pub fn parse(name: &str, directory: &Path, text: &str) -> Result<FunctionSpec, SpecError> {
        check::check(name, directory, text).finish(directory.join(SPEC_FILE))
    }

    /// Memory one instance may use, in MiB.
    pub fn memory(&self) -> u64 {
        match &self.sandbox {
            SandboxSpec::Process(process) => process.memory,
            SandboxSpec::Container(container) => container.memory,
            SandboxSpec::Vm(vm) => vm.memory,
        }
    }
}

/// How an instance tells that it can take requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// It calls the callback URL it was given.
    Callback,
    /// Its port accepts a connection.
    Tcp,
    /// A `GET` of this path answers with a status below 400.
    Http(String),
}

/// What an instance is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxSpec {
    /// A child process of the daemon.
    Process(ProcessSpec),
    /// A container of the local engine.
    Container(ContainerSpec),
    /// A virtual machine.
    Vm(VmSpec),
}

/// `[process]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessSpec {
    /// Program and arguments, `%callback`, `%ip`, `%port` and `%unifaas` not yet replaced. Never empty.
    pub command: Vec<String>,
    /// Memory limit in MiB.
    pub memory: u64,
    /// Processes and threads it may have at once.
    pub pids_limit: u32,
    /// The largest file it may write, in MiB.
    pub file_size: Option<u32>,
    /// The user to run as: a name or a numeric id. `None`: an unprivileged one when the daemon is root.
    pub user: Option<String>,
}

/// `[container]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerSpec {
    /// Image in the local engine.
    pub image: String,
    /// Arguments for the image's entry point, `%callback`, `%ip` and `%port` not yet replaced. `None`: the callback URL is
    /// the only one, or for functions that need no callback, the image's own.
    pub command: Option<Vec<String>>,
    /// Memory limit in MiB.
    pub memory: u64,
    /// CPUs the container may use at once; a fraction is a share of one.
    pub cpus: Option<f64>,
    /// A runtime the engine knows. `None`: the engine's default.
    pub runtime: Option<String>,
    /// A network of the engine. `None`: the engine's default bridge.
    pub network: Option<String>,
    /// The user in the container: a name or a numeric id, and perhaps `:` and a group. `None`: as the image says.
    pub user: Option<String>,
    /// Linux capabilities beyond those that every container keeps, without `CAP_`. `ALL` is all of them.
    pub capabilities: Vec<String>,
    /// Whether set-user-id programs and the like gain nothing.
    pub no_new_privileges: bool,
    /// Processes and threads the container may have at once.
    pub pids_limit: u32,
    /// The largest file it may write, in MiB.
    pub file_size: Option<u32>,
    /// Whether the container's file system is read-only, but for its volumes.
    pub read_only: bool,
    /// Whether the engine's own init is the first process: it passes signals on and reaps orphans.
    pub init: bool,
    /// What the engine keeps of the container's output, in MiB.
    pub log_size: u32,
    /// Whether an image that the engine does not have is fetched.
    pub pull: Pull,
}

/// When an image is fetched from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// Never: without it in the local engine the function cannot be started.
    Never,
    /// When the local engine does not have it.
    Missing,
}

/// `[vm]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmSpec {
    /// Kernel or unikernel image, absolute.
    pub kernel: PathBuf,
    /// Root disk, absolute.
    pub image: Option<PathBuf>,
    /// Initial ramdisk, absolute.
    pub initrd: Option<PathBuf>,
    /// Guest memory in MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Kernel command line, `%ip`, `%gateway`, `%netmask` and `%callback` not yet replaced.
    pub cmdline: String,
    /// How it is attached to the host.
    pub network: VmNetwork,
    /// Whether it may reach beyond this host.
    pub egress: bool,
    /// The machine monitor and its options.
    pub hypervisor: Hypervisor,
}

/// `[vm] network`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VmNetwork {
    /// On a tap device of its own.
    Tap,
    /// By QEMU's user-mode network, with a forwarded port: needs no privileges.
    User,
}

/// `[vm] hypervisor`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Hypervisor {
    /// Firecracker.
    Firecracker {
        /// Whether every instance gets a private copy of the root disk.
        copy_rootfs: bool,
        /// Whether the root disk is attached read-only and shared; no copy is made then.
        read_only: bool,
        /// Whether it is started by Firecracker's jailer.
        jailer: bool,
    },
    /// QEMU with a machine like a PC.
    Qemu {
        /// What it shares with the other QEMU machine.
        #[serde(flatten)]
        qemu: Qemu,
        /// Which PC.
        machine: Machine,
    },
    /// QEMU's minimal machine type.
    Microvm {
        /// What it shares with the other QEMU machine.
        #[serde(flatten)]
        qemu: Qemu,
        /// Switches of the machine type. `None`: as QEMU has it.
        options: MicrovmOptions,
    },
}

/// What both kinds of QEMU machine know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Qemu {
    /// How the root disk is attached.
    pub disk_type: DiskType,
    /// What executes guest instructions.
    pub accel: Accel,
    /// Further arguments for QEMU.
    pub args: Vec<String>,
    /// Whether the root disk is attached read-only and shared; no copy is made then.
    pub read_only: bool,
}

/// A machine of QEMU's that is like a PC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// Of 1996: an i440FX chipset.
    Pc,
    /// Of 2009: an ICH9 chipset with PCI Express.
    Q35,
}

/// How QEMU attaches a root disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum DiskType {
    /// As a block device.
    #[serde(rename = "block")]
    Block,
    /// As a directory over 9p.
    #[serde(rename = "9p")]
    NineP,
}

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where usable, else TCG.
    Auto,
    /// The host's processor.
    Kvm,
    /// QEMU's emulator.
    Tcg,
}

/// Switches of QEMU's microvm machine. `None`: not given in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each is the device of that name")]
pub struct MicrovmOptions {
    pub pic: Option<bool>,
    pub pit: Option<bool>,
    pub rtc: Option<bool>,
    pub acpi: Option<bool>,
    pub auto_kernel_cmdline: Option<bool>,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}
