//! Checks `[process]`, `[container]` and `[vm]` with its hypervisors.

use std::path::Path;

use super::{
    Accel, ContainerSpec, DiskType, Hypervisor, Machine, MicrovmOptions, ProcessSpec, Pull, Qemu, VmNetwork, VmSpec,
    files::{Reference, Target},
    keys,
    raw::{Section, resolve},
};

const DEFAULT_MEMORY: u64 = 128;
/// 16 TiB in MiB.
const MAX_MEMORY: u64 = 16 << 20;
/// The least that engines accept, in MiB.
const MIN_CONTAINER_MEMORY: u64 = 6;
/// The kernel accepts no smaller share of a CPU.
const MIN_CONTAINER_CPUS: f64 = 0.01;
const MAX_CONTAINER_CPUS: f64 = 1024.0;
/// Enough for a server with threads, and small enough for a fork bomb.
const DEFAULT_PIDS: u32 = 512;
/// The highest process id of Linux.
const MAX_PIDS: u64 = 4_194_304;
/// 1 TiB in MiB.
const MAX_FILE_SIZE: u64 = 1 << 20;
const DEFAULT_LOG_SIZE: u32 = 1;
const MAX_LOG_SIZE: u64 = 1024;
/// The most that Firecracker accepts.
const MAX_VM_CPUS: u64 = 32;

pub(super) fn process(section: &Section<'_>, directory: &Path, references: &mut Vec<Reference>) -> ProcessSpec {
    section.only(&keys::PROCESS);
    section.require("command");
    let command = section.command("command").unwrap_or_default();
    // A bare name is looked up in PATH, and `%` is replaced when an instance starts.
    if let Some(program) = command.first().filter(|program| program.contains('/') && !program.contains('%')) {
        references.push(Reference::new(section, "command", resolve(directory, program), Target::Program));
    }
    ProcessSpec {
        command,
        memory: memory(section, 1),
        pids_limit: pids_limit(section),
        file_size: file_size(section),
        user: user(section),
    }
}

/// Reads a user name or numeric id. System calls take the highest number for "no change".
fn user(section: &Section<'_>) -> Option<String> {
    let user = section.word("user")?;
    let digits = user.bytes().all(|byte| byte.is_ascii_digit());
    if user.contains(':') || (digits && !user.parse().is_ok_and(|id: u32| id < u32::MAX)) {
        return section.mismatch("user", "the name or numeric id of a user", section.value("user")?);
    }
    Some(user)
}

pub(super) fn container(section: &Section<'_>) -> ContainerSpec {
    section.only(&keys::CONTAINER);
    section.require("image");
    let cpus = format!("a number of CPUs from {MIN_CONTAINER_CPUS} to {MAX_CONTAINER_CPUS}");
    ContainerSpec {
        image: section.word("image").unwrap_or_default(),
        command: section.command("command"),
        memory: memory(section, MIN_CONTAINER_MEMORY),
        cpus: section.number("cpus", &cpus, |cpus| (MIN_CONTAINER_CPUS..=MAX_CONTAINER_CPUS).contains(&cpus)),
        runtime: section.word("runtime"),
        network: network(section),
        user: section.word("user"),
        capabilities: capabilities(section),
        no_new_privileges: section.boolean("no-new-privileges").unwrap_or(true),
        pids_limit: pids_limit(section),
        file_size: file_size(section),
        read_only: section.boolean("read-only").unwrap_or(false),
        init: section.boolean("init").unwrap_or(false),
        log_size: small(section, "log-size", "MiB", MAX_LOG_SIZE).unwrap_or(DEFAULT_LOG_SIZE),
        pull: section.choice("pull", &[("never", Pull::Never), ("missing", Pull::Missing)]).unwrap_or(Pull::Never),
    }
}

fn pids_limit(section: &Section<'_>) -> u32 {
    small(section, "pids-limit", "processes and threads", MAX_PIDS).unwrap_or(DEFAULT_PIDS)
}

fn file_size(section: &Section<'_>) -> Option<u32> {
    small(section, "file-size", "MiB", MAX_FILE_SIZE)
}

/// Reads an integer from 1 to `most`, which fits into 32 bits.
fn small(section: &Section<'_>, key: &str, what: &str, most: u64) -> Option<u32> {
    section.integer(key, what, 1..=most).map(|value| value.try_into().unwrap_or(u32::MAX))
}

/// Reads the name of an engine's network, which becomes part of a URL.
fn network(section: &Section<'_>) -> Option<String> {
    let network = section.word("network")?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !network.starts_with(|c: char| c.is_ascii_alphanumeric()) || !network.bytes().all(legal) {
        return section.mismatch("network", "the name of a network of the engine", section.value("network")?);
    }
    Some(network)
}

/// Reads names such as `SYS_PTRACE`, with or without `CAP_`, in either case.
fn capabilities(section: &Section<'_>) -> Vec<String> {
    let given = section.strings("capabilities").unwrap_or_default();
    let names = given.iter().map(|name| {
        let upper = name.to_ascii_uppercase();
        upper.strip_prefix("CAP_").map(str::to_owned).unwrap_or(upper)
    });
    let names: Vec<_> = names.collect();
    let odd = |name: &&String| name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    if let Some(odd) = names.iter().find(odd) {
        section.fail("capabilities", format!("expected names such as \"SYS_PTRACE\", found {odd:?}"));
    }
    names
}

pub(super) fn vm(section: &Section<'_>, directory: &Path, references: &mut Vec<Reference>) -> Option<VmSpec> {
    section.only(&keys::VM);
    section.require("kernel");
    section.require("hypervisor");
    let kernel = section.path("kernel", directory);
    let image = section.path("image", directory);
    let initrd = section.path("initrd", directory);
    let hypervisor = section.section("hypervisor").and_then(|table| hypervisor(&table, section.given("image")));

    let (boots, root) = match &hypervisor {
        Some(Hypervisor::Firecracker { .. }) => (Some(Target::ElfKernel), Some(Target::File)),
        Some(Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. }) => match qemu.disk_type {
            DiskType::NineP => (Some(Target::Kernel), Some(Target::Directory)),
            DiskType::Block => (Some(Target::Kernel), Some(Target::File)),
        },
        None => (None, None),
    };
    let targets = [("kernel", &kernel, boots), ("image", &image, root), ("initrd", &initrd, Some(Target::File))];
    for (key, path, target) in targets {
        if let (Some(path), Some(target)) = (path, target) {
            references.push(Reference::new(section, key, path.clone(), target));
        }
    }
    let memory = memory(section, 1);
    let cpus = section.integer("cpus", "virtual CPUs", 1..=MAX_VM_CPUS);
    let network = section.choice("network", &[("tap", VmNetwork::Tap), ("user", VmNetwork::User)]);
    if let (Some(VmNetwork::User), Some(Hypervisor::Firecracker { .. })) = (network, &hypervisor) {
        section.fail("network", "Firecracker has no user-mode network: \"user\" is for types \"qemu\" and \"microvm\"");
    }
    let cmdline = section.string("cmdline").unwrap_or_default().to_owned();
    let cpus = cpus.and_then(|cpus| cpus.try_into().ok()).unwrap_or(1);
    Some(VmSpec {
        kernel: kernel?,
        image,
        initrd,
        memory,
        cpus,
        cmdline,
        network: network.unwrap_or(VmNetwork::Tap),
        egress: section.boolean("egress").unwrap_or(false),
        hypervisor: hypervisor?,
    })
}

fn memory(section: &Section<'_>, least: u64) -> u64 {
    section.integer("memory", "MiB", least..=MAX_MEMORY).unwrap_or(DEFAULT_MEMORY)
}

/// Reads the table of one type. The flag says whether the VM has an image.
type ReadHypervisor = fn(&Section<'_>, bool) -> Hypervisor;

/// Reads the hypervisor. The known keys depend on its type, so without a type nothing else is checked.
fn hypervisor(table: &Section<'_>, has_image: bool) -> Option<Hypervisor> {
    let types: [(&str, ReadHypervisor); 3] = [("firecracker", firecracker), ("qemu", qemu), ("microvm", microvm)];
    table.require("type");
    let read = table.choice("type", &types)?;
    Some(read(table, has_image))
}

fn firecracker(table: &Section<'_>, has_image: bool) -> Hypervisor {
    table.only(&keys::FIRECRACKER);
    let read_only = root_switch(table, "read-only", has_image).unwrap_or(false);
    let copy_rootfs = root_switch(table, "copy-rootfs", has_image);
    if read_only && copy_rootfs == Some(true) {
        table.fail("copy-rootfs", "a read-only root disk is shared, not copied: read-only and this exclude each other");
    }
    let jailer = table.boolean("jailer").unwrap_or(false);
    if jailer && copy_rootfs == Some(false) {
        table.fail(
            "copy-rootfs",
            "a jail contains its own copy of the root disk: jailer = true and this exclude each other",
        );
    }
    Hypervisor::Firecracker { copy_rootfs: copy_rootfs.unwrap_or(!read_only), read_only, jailer }
}

fn qemu(table: &Section<'_>, has_image: bool) -> Hypervisor {
    table.only(&keys::QEMU);
    let machine = table.choice("machine", &[("pc", Machine::Pc), ("q35", Machine::Q35)]);
    Hypervisor::Qemu { qemu: any_qemu(table, has_image), machine: machine.unwrap_or(Machine::Pc) }
}

fn microvm(table: &Section<'_>, has_image: bool) -> Hypervisor {
    table.only(&keys::MICROVM);
    Hypervisor::Microvm {
        qemu: any_qemu(table, has_image),
        options: MicrovmOptions {
            pic: table.boolean("pic"),
            pit: table.boolean("pit"),
            rtc: table.boolean("rtc"),
            acpi: table.boolean("acpi"),
            auto_kernel_cmdline: table.boolean("auto-kernel-cmdline"),
        },
    }
}

fn any_qemu(table: &Section<'_>, has_image: bool) -> Qemu {
    let disk_type = table.choice("disk-type", &[("block", DiskType::Block), ("9p", DiskType::NineP)]);
    if disk_type == Some(DiskType::NineP) && !has_image {
        table.fail("disk-type", "\"9p\" shares a directory, and vm.image is not given to name it");
    }
    let accel = table.choice("accel", &[("auto", Accel::Auto), ("kvm", Accel::Kvm), ("tcg", Accel::Tcg)]);
    Qemu {
        disk_type: disk_type.unwrap_or(DiskType::Block),
        accel: accel.unwrap_or(Accel::Auto),
        args: table.strings("args").unwrap_or_default(),
        read_only: root_switch(table, "read-only", has_image).unwrap_or(false),
    }
}

/// Reads an option that requires a root disk.
fn root_switch(table: &Section<'_>, key: &str, has_image: bool) -> Option<bool> {
    let switch = table.boolean(key);
    if switch == Some(true) && !has_image {
        table.fail(key, "there is no root disk: vm.image is not given");
    }
    switch
}
