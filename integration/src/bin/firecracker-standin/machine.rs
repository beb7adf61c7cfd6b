//! Puts the machine together in the order of Firecracker, and runs it in QEMU.

use std::{
    env,
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
    process::Command,
};

use nix::{errno::Errno, libc};
use serde::{Deserialize, Serialize};

use crate::{
    cmdline::Cmdline,
    config::{BlockDeviceConfig, HugePageConfig, NetworkInterfaceConfig, VmmConfig},
    kernel,
    refusal::{Refusal, parsing, starting, wrapped},
};

mod ioctl {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
}

const MIB: u64 = 1 << 20;
/// Addresses of a process have this many bits.
const ADDRESS_SPACE: u64 = 1 << 47;
/// Memory that a guest gets at most, in MiB: QEMU emulates no larger machine here.
const MAX_MEMORY: usize = 1024;
/// Longest name of an interface, with a NUL.
const IFNAMSIZ: usize = 16;

/// A machine that can be started.
#[derive(Debug)]
pub struct Machine {
    pub kernel: String,
    pub initrd: Option<String>,
    pub layout: Layout,
    /// Held open until QEMU is executed.
    pub taps: Vec<File>,
}

/// What a snapshot has of a machine, besides its memory and the files that it was booted from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layout {
    cmdline: String,
    memory: usize,
    vcpus: u8,
    /// Paths and whether they are read-only, the root disk first.
    pub disks: Vec<(String, bool)>,
    pub networks: Vec<Network>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    pub iface_id: String,
    pub tap: String,
    mac: String,
}

impl Layout {
    /// Returns the bytes of memory.
    pub fn memory(&self) -> u64 {
        self.memory as u64 * MIB
    }
}

impl Machine {
    pub fn build(config: &VmmConfig) -> Result<Self, Refusal> {
        let source = &config.boot_source;
        let boot_source = |kind: &str, error: &io::Error| {
            wrapped(
                &format!("BootSource({kind}("),
                error,
                &format!("Boot source error: a file cannot be opened: {error}"),
            )
        };
        let kernel_file =
            File::open(&source.kernel_image_path).map_err(|error| boot_source("InvalidKernelPath", &error))?;
        let initrd = source.initrd_path.as_deref();
        let initrd_file =
            initrd.map(File::open).transpose().map_err(|error| boot_source("InvalidInitrdPath", &error))?;
        let mut cmdline = Cmdline::new(source.boot_args.as_deref())?;
        let drives = drives(&config.drives)?;
        let (networks, taps) = networks(&config.network_interfaces)?;

        let machine = config.machine();
        let memory = machine.mem_size_mib as u64 * MIB;
        if memory > ADDRESS_SPACE {
            let error = io::Error::from(Errno::ENOMEM);
            let debug_form = format!("GuestMemory(MmapRegionError(Mmap({error:?})))");
            return Err(starting(&debug_form, &format!("Cannot allocate guest memory: {error}")));
        }
        if machine.huge_pages == HugePageConfig::Hugetlbfs2M {
            return Err(kernel::unbacked());
        }
        kernel::check(&kernel_file, memory)?;
        if let Some(file) = initrd_file {
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            let kind = if size == 0 { "Load" } else { "Address" };
            if size == 0 || size > memory {
                return Err(starting(&format!("Initrd({kind})"), "Cannot load initrd"));
            }
        }
        cmdline.append("pci=off")?;
        for (index, drive) in drives.iter().enumerate() {
            if drive.is_root_device {
                cmdline.append("root=/dev/vda")?;
                cmdline.append(if drive.is_read_only == Some(true) { "ro" } else { "rw" })?;
            }
            cmdline.append_device(index)?;
        }
        for index in 0..networks.len() {
            cmdline.append_device(drives.len() + index)?;
        }
        let disk = |drive: &&BlockDeviceConfig| {
            (drive.path_on_host.clone().unwrap_or_default(), drive.is_read_only == Some(true))
        };
        // A guest that needs the address that it did not get resets itself, as it does without a device.
        let network = |network: &&NetworkInterfaceConfig| {
            let (iface_id, tap) = (network.iface_id.clone(), network.host_dev_name.clone());
            Some(Network { iface_id, tap, mac: network.guest_mac.as_ref()?.0.clone() })
        };
        let layout = Layout {
            cmdline: cmdline.finish()?,
            memory: machine.mem_size_mib.min(MAX_MEMORY),
            vcpus: machine.vcpu_count,
            disks: drives.iter().map(disk).collect(),
            networks: networks.iter().filter_map(network).collect(),
        };
        Ok(Self {
            kernel: kernel::for_qemu(&source.kernel_image_path, &kernel_file).map_err(|_| kernel::unbacked())?,
            initrd: source.initrd_path.clone(),
            layout,
            taps,
        })
    }

    /// Returns QEMU with the same machine.
    pub fn qemu(&self) -> Command {
        let mut qemu = Command::new(env::var_os("QEMU_EXE").unwrap_or_else(|| "qemu-system-x86_64".into()));
        qemu.args(
            "-M microvm,acpi=off -global virtio-mmio.force-legacy=false -accel tcg,tb-size=64 -cpu max".split(' '),
        );
        qemu.args("-nodefaults -no-user-config -no-reboot -display none".split(' '));
        qemu.args("-chardev file,id=console,path=/dev/stdout -serial chardev:console".split(' '));
        let Layout { cmdline, memory, vcpus, disks, networks } = &self.layout;
        qemu.args(["-m", &format!("{memory}M"), "-smp", &vcpus.to_string(), "-kernel", &self.kernel]);
        qemu.args(self.initrd.iter().flat_map(|initrd| ["-initrd", initrd]));
        for (index, (path, is_read_only)) in disks.iter().enumerate() {
            let (path, switch) = (path.replace(',', ",,"), if *is_read_only { "on" } else { "off" });
            let drive = format!("if=none,format=raw,id=disk{index},file={path},readonly={switch}");
            qemu.args(["-drive", &drive, "-device", &format!("virtio-blk-device,drive=disk{index}")]);
        }
        for (index, Network { tap, mac, .. }) in networks.iter().enumerate() {
            let netdev = format!("tap,id=net{index},ifname={tap},script=no,downscript=no");
            qemu.args(["-netdev", &netdev, "-device", &format!("virtio-net-device,netdev=net{index},mac={mac}")]);
        }
        qemu.args(["-append", cmdline]);
        qemu
    }
}

/// Opens the drives once. Returns them with the root drive first; a later one with the same id replaces an earlier one.
fn drives(all: &[BlockDeviceConfig]) -> Result<Vec<&BlockDeviceConfig>, Refusal> {
    let mut drives: Vec<&BlockDeviceConfig> = Vec::new();
    for drive in all {
        let same = drives.iter().position(|other| other.drive_id == drive.drive_id);
        let has_root = drives.first().is_some_and(|first| first.is_root_device);
        if drive.is_root_device && has_root && same != Some(0) {
            let words = "Block device error: A root block device already exists!";
            return Err(parsing("BlockDevice(RootBlockDeviceAlreadyAdded)", words));
        }
        let Some(path) = &drive.path_on_host else {
            let words = "Block device error: Unable to create the virtio block device: Invalid block config.";
            return Err(parsing("BlockDevice(CreateBlockDevice(InvalidBlockConfig))", words));
        };
        let writes = drive.is_read_only != Some(true);
        OpenOptions::new().read(true).write(writes).open(path).map_err(|error| {
            let words = format!("Block device error: Error opening the backing file: {error}");
            wrapped("BlockDevice(CreateBlockDevice(VirtioBackend(BackingFile(", &error, &words)
        })?;
        if let Some(same) = same {
            drives.remove(same);
        }
        drives.insert(if drive.is_root_device { 0 } else { drives.len() }, drive);
    }
    Ok(drives)
}

/// Attaches to the taps. A later interface with the same id replaces an earlier one.
fn networks(all: &[NetworkInterfaceConfig]) -> Result<(Vec<&NetworkInterfaceConfig>, Vec<File>), Refusal> {
    let mut networks: Vec<(&NetworkInterfaceConfig, File)> = Vec::new();
    for network in all {
        networks.retain(|(other, _)| other.iface_id != network.iface_id);
        let outer = "NetDevice(CreateNetworkDevice(TapOpen(";
        let name = &network.host_dev_name;
        if name.len() >= IFNAMSIZ {
            let words = "Network device error: Invalid interface name";
            return Err(parsing(&format!("{outer}InvalidIfname)))"), words));
        }
        let tap = open_tap(name).map_err(|error| {
            let words = format!("Network device error: Error while creating ifreq structure: {error}");
            wrapped(&format!("{outer}IfreqExecuteError("), &error, &words)
        })?;
        networks.push((network, tap));
    }
    Ok(networks.into_iter().unzip())
}

pub fn open_tap(name: &str) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an all-zero `ifreq` is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let length = request.ifr_name.len() - 1;
    for (target, byte) in request.ifr_name[..length].iter_mut().zip(name.bytes()) {
        *target = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`, which outlives the call.
    unsafe { ioctl::tun_set_iff(device.as_raw_fd(), &raw const request) }?;
    Ok(device)
}
