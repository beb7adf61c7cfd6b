//! What an instance runs in: `[process]`, `[container]` and `[vm]`, checked. `sandbox.rs` creates them.

use std::path::PathBuf;

use serde::Serialize;

use super::SnapshotSpec;

/// The kind of sandbox that an instance runs in.
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

impl SandboxSpec {
    /// Returns the stable name of the kind, as the hypervisor has it for virtual machines.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Process(_) => "process",
            Self::Container(_) => "container",
            Self::Vm(vm) => match vm.hypervisor {
                Hypervisor::Firecracker { .. } => "firecracker",
                Hypervisor::Qemu { .. } => "qemu",
                Hypervisor::Microvm { .. } => "microvm",
            },
        }
    }
}

/// `[process]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessSpec {
    /// Program and arguments, `%callback`, `%ip`, `%port` and `%unifaas` not yet replaced. Never empty.
    pub command: Vec<String>,
    /// Memory limit in MiB.
    pub memory: u64,
    /// Processors it may use. `None`: all.
    pub cpus: Option<f64>,
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
    /// Arguments for the image's entry point, `%callback`, `%ip` and `%port` not yet replaced. `None`: the callback URL
    /// alone, or the image's own arguments if the function needs no callback.
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
    /// Linux capabilities in addition to the default ones, without `CAP_`. `ALL`: all of them.
    pub capabilities: Vec<String>,
    /// Whether set-user-id programs gain no privileges.
    pub no_new_privileges: bool,
    /// Processes and threads the container may have at once.
    pub pids_limit: u32,
    /// The largest file it may write, in MiB.
    pub file_size: Option<u32>,
    /// Whether the container's file system is read-only, except for its volumes.
    pub read_only: bool,
    /// Whether the engine's init is the first process. It forwards signals and reaps orphans.
    pub init: bool,
    /// How much of the container's output the engine keeps, in MiB.
    pub log_size: u32,
    /// Whether a missing image is pulled.
    pub pull: Pull,
}

/// When an image is pulled from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// Never: the function cannot start without the image in the local engine.
    Never,
    /// If the local engine does not have it.
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
    /// How it is connected to the host.
    pub network: VmNetwork,
    /// Whether it may reach beyond this host.
    pub egress: bool,
    /// Whether instances are clones that are restored from a snapshot.
    pub snapshot: Option<SnapshotSpec>,
    /// The VMM and its options.
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
        /// Whether the root disk is attached read-only. It is shared then, except in a jail.
        read_only: bool,
        /// Whether it is started by Firecracker's jailer.
        jailer: bool,
    },
    /// QEMU with a PC machine type.
    Qemu {
        /// The options of both QEMU machines.
        #[serde(flatten)]
        qemu: Qemu,
        /// The machine type.
        machine: Machine,
    },
    /// QEMU's minimal machine type.
    Microvm {
        /// The options of both QEMU machines.
        #[serde(flatten)]
        qemu: Qemu,
        /// Options of the machine type.
        options: MicrovmOptions,
    },
}

/// The options of both QEMU machines.
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

/// A PC machine type of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// With an i440FX chipset.
    Pc,
    /// With an ICH9 chipset and PCI Express.
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
    /// KVM if it is usable, else TCG.
    Auto,
    /// The host's processor (KVM).
    Kvm,
    /// QEMU's emulator (TCG).
    Tcg,
}

/// Options of QEMU's microvm machine. `None`: not given in the file.
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
