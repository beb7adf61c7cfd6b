//! Stands in for Firecracker where it is missing or cannot run the guest: it accepts the same input, and boots the same
//! guest in QEMU's microvm on the same tap.
//!
//! Like Firecracker it opens its taps about 1 ms after exec, and fails if one is busy; QEMU alone would open them later.
//!
//! It rejects arguments and configuration files that Firecracker 1.17 would reject: unknown, missing and mistyped ones. It
//! also rejects options of Firecracker that these tests do not need.

use std::{
    fs::{self, OpenOptions},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, ExitCode},
};

use nix::libc;
use serde::Deserialize;

mod ioctl {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    boot_source: BootSource,
    drives: Vec<Drive>,
    machine_config: MachineConfig,
    network_interfaces: Vec<NetworkInterface>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BootSource {
    kernel_image_path: String,
    initrd_path: Option<String>,
    boot_args: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drive {
    drive_id: String,
    path_on_host: String,
    is_root_device: bool,
    is_read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineConfig {
    vcpu_count: u8,
    mem_size_mib: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkInterface {
    iface_id: String,
    host_dev_name: String,
    guest_mac: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let why = match prepare(&arguments) {
        Ok(mut qemu) => format!("QEMU cannot be run: {}", qemu.exec()),
        Err(why) => why,
    };
    eprintln!("Error: {why}");
    eprintln!("Firecracker exiting with error. exit_code=1");
    ExitCode::FAILURE
}

/// Returns the path of the configuration file.
fn parse(arguments: &[String]) -> Result<&str, String> {
    let (mut config, mut no_api) = (None, false);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value =
            || words.next().ok_or(format!("The argument '{word}' requires a value, but none was supplied."));
        match word.as_str() {
            "--no-api" if no_api => return Err("The argument 'no-api' was provided more than once.".to_owned()),
            "--no-api" => no_api = true,
            "--config-file" => config = Some(value()?),
            "--id" => check_id(value()?)?,
            other => return Err(format!("Found argument '{other}' which wasn't expected, or isn't valid here.")),
        }
    }
    match config {
        Some(config) if no_api => Ok(config),
        Some(_) => Err("without --no-api there would have to be an API socket".to_owned()),
        None => Err("Argument 'no-api' required, but not found: config-file".to_owned()),
    }
}

fn check_id(id: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let good = (1..=64).contains(&id.len()) && id.bytes().all(allowed);
    good.then_some(()).ok_or(format!("Invalid instance ID: {id}"))
}

fn prepare(arguments: &[String]) -> Result<Command, String> {
    let path = parse(arguments)?;
    let text = fs::read_to_string(path).map_err(|error| format!("Configuration file {path}: {error}"))?;
    let config: Config = serde_json::from_str(&text).map_err(|error| format!("Invalid configuration: {error}"))?;
    let BootSource { kernel_image_path, initrd_path, boot_args } = config.boot_source;
    let mut kernel = [0; 4];
    fs::File::open(&kernel_image_path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut kernel))
        .map_err(|error| format!("The kernel file cannot be opened: {error}"))?;
    if kernel != *b"\x7fELF" {
        return Err("Cannot load kernel due to invalid memory configuration or invalid kernel image: elf".to_owned());
    }
    let MachineConfig { vcpu_count, mem_size_mib } = config.machine_config;
    if !(1..=32).contains(&vcpu_count) || mem_size_mib == 0 {
        return Err("The vCPU number or the memory size is invalid".to_owned());
    }
    let mut cmdline = boot_args.unwrap_or_else(|| "reboot=k panic=1 nomodule 8250.nr_uarts=0".to_owned());
    let mut qemu = Command::new(std::env::var_os("QEMU_EXE").unwrap_or_else(|| "qemu-system-x86_64".into()));
    qemu.args("-M microvm,acpi=off -global virtio-mmio.force-legacy=false -accel tcg,tb-size=64 -cpu max".split(' '));
    qemu.args("-nodefaults -no-user-config -no-reboot -display none".split(' '));
    qemu.args("-chardev file,id=console,path=/dev/stdout -serial chardev:console".split(' '));
    qemu.args(["-m", &format!("{mem_size_mib}M"), "-smp", &vcpu_count.to_string(), "-kernel", &kernel_image_path]);
    if let Some(initrd) = initrd_path {
        qemu.args(["-initrd", &initrd]);
    }
    for Drive { drive_id, path_on_host, is_root_device, is_read_only } in config.drives {
        let switch = if is_read_only { "on" } else { "off" };
        if is_root_device {
            cmdline += if is_read_only { " root=/dev/vda ro" } else { " root=/dev/vda rw" };
        }
        let drive = format!("if=none,format=raw,id={drive_id},file={path_on_host},readonly={switch}");
        qemu.args(["-drive", &drive, "-device", &format!("virtio-blk-device,drive={drive_id}")]);
    }
    for NetworkInterface { iface_id, host_dev_name, guest_mac } in config.network_interfaces {
        open_tap(&host_dev_name).map_err(|error| format!("Open tap device failed: {host_dev_name}: {error}"))?;
        let tap = format!("tap,id={iface_id},ifname={host_dev_name},script=no,downscript=no");
        let mac = guest_mac.map(|mac| check_mac(&mac).map(|()| format!(",mac={mac}"))).transpose()?;
        let device = format!("virtio-net-device,netdev={iface_id}{}", mac.unwrap_or_default());
        qemu.args(["-netdev", &tap, "-device", &device]);
    }
    qemu.args(["-append", &cmdline]);
    // A log line on standard output, like Firecracker's own.
    println!("Running Firecracker's stand-in");
    Ok(qemu)
}

/// Attaches to a tap, and detaches again for QEMU.
fn open_tap(name: &str) -> std::io::Result<()> {
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
    Ok(())
}

fn check_mac(mac: &str) -> Result<(), String> {
    let parts: Vec<_> = mac.split(':').collect();
    let good = parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
    good.then_some(()).ok_or(format!("invalid MAC address: {mac}"))
}
