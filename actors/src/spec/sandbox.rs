//! Checks `[process]`, `[container]` and `[vm]` with its hypervisors.

use std::path::Path;

use super::{
    Accel, ContainerSpec, DiskType, Environment, Hypervisor, Machine, MicrovmOptions, ProcessSpec, Pull, Qemu,
    Readiness, VmNetwork, VmSpec,
    capabilities::capabilities,
    files::{Reference, Subject, Target},
    keys,
    placeholders::{CONTAINER_WORDS, PROCESS_WORDS, VM_WORDS, objection, strict_objection},
    raw::{Section, resolve},
    snapshot,
};

const DEFAULT_MEMORY: u64 = 128;
/// 16 TiB in MiB.
const MAX_MEMORY: u64 = 16 << 20;
/// The least that engines accept, in MiB.
const MIN_CONTAINER_MEMORY: u64 = 6;
/// The kernel accepts no smaller share of a CPU.
const MIN_CPUS: f64 = 0.01;
const MAX_CPUS: f64 = 1024.0;
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

pub(super) fn process(
    section: &Section<'_>,
    directory: &Path,
    env: &Environment,
    references: &mut Vec<Reference>,
) -> ProcessSpec {
    section.only(&keys::PROCESS);
    section.require("command");
    let command = section.command("command").unwrap_or_default();
    placeholders(section, &command, &PROCESS_WORDS);
    // `%` is replaced when an instance starts.
    if let Some(program) = command.first().filter(|program| !program.contains('%')) {
        let subject = if program.contains('/') {
            Subject::Path(resolve(directory, program), Target::Program)
        } else {
            let (name, path) = (program.clone(), env.get("PATH").cloned());
            Subject::Program { name, path, directory: directory.to_owned() }
        };
        references.push(Reference::new(section, "command", subject));
    }
    let user = user(section);
    references.extend(user.clone().map(|user| Reference::new(section, "user", Subject::User(user))));
    ProcessSpec {
        command,
        memory: memory(section, 1),
        cpus: cpus(section),
        pids_limit: pids_limit(section),
        file_size: file_size(section),
        user,
    }
}

/// Reports words of a command that are most likely meant to be placeholders.
fn placeholders(section: &Section<'_>, command: &[String], known: &[&'static str]) {
    if let Some(objection) = command.iter().find_map(|word| objection(word, known)) {
        section.fail("command", objection);
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
    let command = section.command("command");
    placeholders(section, command.as_deref().unwrap_or_default(), &CONTAINER_WORDS);
    ContainerSpec {
        image: section.word("image").unwrap_or_default(),
        command,
        memory: memory(section, MIN_CONTAINER_MEMORY),
        cpus: cpus(section),
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

/// Reads the share of the processors that a process or a container may use.
fn cpus(section: &Section<'_>) -> Option<f64> {
    let expected = format!("a number of CPUs from {MIN_CPUS} to {MAX_CPUS}");
    section.number("cpus", &expected, |cpus| (MIN_CPUS..=MAX_CPUS).contains(&cpus))
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

/// `is_single`: the function has one instance at most.
pub(super) fn vm(
    section: &Section<'_>,
    directory: &Path,
    readiness: &Readiness,
    is_single: bool,
    references: &mut Vec<Reference>,
) -> Option<VmSpec> {
    section.only(&keys::VM);
    section.require("kernel");
    section.require("hypervisor");
    let kernel = section.path("kernel", directory);
    let image = section.path("image", directory);
    let initrd = section.path("initrd", directory);
    let given = Given { image: section.given("image"), is_single };
    let hypervisor = section.section("hypervisor").and_then(|table| hypervisor(&table, given));
    let memory = section.integer("memory", "MiB", 1..=MAX_MEMORY);
    let cpus = section.integer("cpus", "virtual CPUs", 1..=MAX_VM_CPUS);
    let network = section.choice("network", &[("tap", VmNetwork::Tap), ("user", VmNetwork::User)]);
    if let (Some(VmNetwork::User), Some(Hypervisor::Firecracker { .. })) = (network, &hypervisor) {
        section.fail("network", "Firecracker has no user-mode network: \"user\" is for types \"qemu\" and \"microvm\"");
    }
    let cmdline = section.string("cmdline");
    if let Some(objection) = cmdline.and_then(|cmdline| strict_objection(cmdline, &VM_WORDS)) {
        section.fail("cmdline", objection);
    }
    let vm = VmSpec {
        kernel: kernel?,
        image,
        initrd,
        memory: memory.unwrap_or(DEFAULT_MEMORY),
        cpus: cpus.and_then(|cpus| cpus.try_into().ok()).unwrap_or(1),
        cmdline: cmdline.unwrap_or_default().to_owned(),
        network: network.unwrap_or(VmNetwork::Tap),
        egress: section.boolean("egress").unwrap_or(false),
        snapshot: snapshot::read(section),
        hypervisor: hypervisor?,
    };
    if let Some(obstacle) = vm.snapshot.as_ref().and_then(|_| snapshot::obstacle(&vm, readiness)) {
        section.fail("snapshot", obstacle);
    }
    for (key, path, target) in vm.files() {
        references.push(Reference::new(section, key, Subject::Path(path.to_owned(), target)));
    }
    // Not for the placeholder of a wrong value.
    if memory.is_some() || !section.given("memory") {
        references.push(Reference::new(section, "memory", Subject::Memory(vm.clone())));
    }
    if cmdline.is_some() || !section.given("cmdline") {
        references.push(Reference::new(section, "cmdline", Subject::Cmdline(vm.clone(), readiness.clone())));
    }
    Some(vm)
}

fn memory(section: &Section<'_>, least: u64) -> u64 {
    section.integer("memory", "MiB", least..=MAX_MEMORY).unwrap_or(DEFAULT_MEMORY)
}

/// What the options of a hypervisor depend on.
#[derive(Debug, Clone, Copy)]
struct Given {
    /// Whether the VM has an image.
    image: bool,
    /// Whether the function has one instance at most.
    is_single: bool,
}

/// Reads the table of one type.
type ReadHypervisor = fn(&Section<'_>, Given) -> Hypervisor;

/// Reads the hypervisor. The known keys depend on its type, so without a type nothing else is checked.
fn hypervisor(table: &Section<'_>, given: Given) -> Option<Hypervisor> {
    let types: [(&str, ReadHypervisor); 3] = [("firecracker", firecracker), ("qemu", qemu), ("microvm", microvm)];
    table.require("type");
    let read = table.choice("type", &types)?;
    Some(read(table, given))
}

fn firecracker(table: &Section<'_>, given: Given) -> Hypervisor {
    table.only(&keys::FIRECRACKER);
    let read_only = root_switch(table, "read-only", given).unwrap_or(false);
    let copy_rootfs = root_switch(table, "copy-rootfs", given);
    let jailer = table.boolean("jailer").unwrap_or(false);
    let mistake = match copy_rootfs {
        Some(false) if jailer => {
            "a jail contains its own copy of the root disk: jailer = true and this exclude each other"
        }
        Some(true) if read_only && !jailer => {
            "a read-only root disk is shared, not copied: read-only and this exclude each other"
        }
        Some(false) if given.image && !read_only && !given.is_single => {
            "without a copy, all instances would write to one disk: set read-only = true, or max-instances = 1"
        }
        _ => "",
    };
    if !mistake.is_empty() {
        table.fail("copy-rootfs", mistake);
    }
    Hypervisor::Firecracker { copy_rootfs: copy_rootfs.unwrap_or(jailer || !read_only), read_only, jailer }
}

fn qemu(table: &Section<'_>, given: Given) -> Hypervisor {
    table.only(&keys::QEMU);
    let machine = table.choice("machine", &[("pc", Machine::Pc), ("q35", Machine::Q35)]);
    Hypervisor::Qemu { qemu: any_qemu(table, given), machine: machine.unwrap_or(Machine::Pc) }
}

fn microvm(table: &Section<'_>, given: Given) -> Hypervisor {
    table.only(&keys::MICROVM);
    Hypervisor::Microvm {
        qemu: any_qemu(table, given),
        options: MicrovmOptions {
            pic: table.boolean("pic"),
            pit: table.boolean("pit"),
            rtc: table.boolean("rtc"),
            acpi: table.boolean("acpi"),
            auto_kernel_cmdline: table.boolean("auto-kernel-cmdline"),
        },
    }
}

fn any_qemu(table: &Section<'_>, given: Given) -> Qemu {
    let disk_type = table.choice("disk-type", &[("block", DiskType::Block), ("9p", DiskType::NineP)]);
    if disk_type == Some(DiskType::NineP) && !given.image {
        table.fail("disk-type", "\"9p\" shares a directory, and vm.image is not given to name it");
    }
    let accel = table.choice("accel", &[("auto", Accel::Auto), ("kvm", Accel::Kvm), ("tcg", Accel::Tcg)]);
    Qemu {
        disk_type: disk_type.unwrap_or(DiskType::Block),
        accel: accel.unwrap_or(Accel::Auto),
        args: table.strings("args").unwrap_or_default(),
        read_only: root_switch(table, "read-only", given).unwrap_or(false),
    }
}

/// Reads an option that requires a root disk.
fn root_switch(table: &Section<'_>, key: &str, given: Given) -> Option<bool> {
    let switch = table.boolean(key);
    if switch == Some(true) && !given.image {
        table.fail(key, "there is no root disk: vm.image is not given");
    }
    switch
}
