//! The command line of QEMU. Pure.
//!
//! The serial console and errors go to standard output; QMP runs over standard input (`qmp.rs`).

use std::{net::SocketAddr, path::Path};

use unifaas_actors::spec::{DiskType, Hypervisor, Machine, MicrovmOptions, VmSpec};

use super::firecracker::Files;

/// Addresses in a user-mode network: the guest, the gateway, and the callback listener as the guest reaches it.
pub const USER_GUEST: &str = "10.0.2.15";
pub const USER_GATEWAY: &str = "10.0.2.2";
/// The callback listener is outside, so the guest resolves the gateway's address only. smoltcp resolves one address a second:
/// with two, the first response would come a second late.
pub const USER_NETMASK: &str = "255.255.255.224";
pub const USER_CALLBACK: &str = "10.0.2.100:8124";
/// Mount tag of a root file system that is shared over 9p.
const ROOT_TAG: &str = "/dev/root";
/// Memory for translated code, in MiB. QEMU's default is an eighth of the host's memory.
const TRANSLATION_BUFFER: u32 = 64;

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

/// The network backend.
#[derive(Debug, Clone, Copy)]
pub enum Netdev<'a> {
    Tap {
        name: &'a str,
        mac: &'a str,
    },
    /// User-mode network: `host` is forwarded to the function's port, and `relay` (the daemon's executable) connects the
    /// guest to the callback listener.
    User {
        host: SocketAddr,
        port: u16,
        egress: bool,
        relay: &'a str,
        callback: SocketAddr,
    },
}

/// Everything the command line is made from.
pub struct QemuConfig<'a> {
    pub name: &'a str,
    pub vm: &'a VmSpec,
    pub cmdline: &'a str,
    pub files: Files<'a>,
    /// The format of the root disk, if it is a block device.
    pub format: &'a str,
    pub netdev: Netdev<'a>,
    pub accelerator: Accelerator,
}

impl QemuConfig<'_> {
    /// Returns the arguments. Those of the function come last, because QEMU uses the last of duplicate options.
    pub fn arguments(&self) -> Vec<String> {
        let (qemu, machine, bus) = match &self.vm.hypervisor {
            Hypervisor::Microvm { qemu, options } => (Some(qemu), microvm(options), "device"),
            Hypervisor::Qemu { qemu, machine: Machine::Pc } => (Some(qemu), "pc".to_owned(), "pci"),
            Hypervisor::Qemu { qemu, machine: Machine::Q35 } => (Some(qemu), "q35".to_owned(), "pci"),
            Hypervisor::Firecracker { .. } => (None, "none".to_owned(), "device"),
        };
        let mut line = Arguments::default();
        line.flags("-nodefaults -no-user-config -no-reboot -display none");
        line.option("-name", escaped(self.name));
        line.option("-M", machine);
        match self.accelerator {
            Accelerator::Kvm => line.flags("-accel kvm -cpu host"),
            Accelerator::Tcg => line.flags(&format!("-accel tcg,tb-size={TRANSLATION_BUFFER} -cpu max")),
        }
        line.option("-m", format!("{}M", self.vm.memory));
        line.option("-smp", self.vm.cpus.to_string());
        line.flags("-chardev file,id=console,path=/dev/stdout -serial chardev:console");
        line.flags("-chardev socket,id=monitor,fd=0 -mon chardev=monitor,mode=control");
        line.option("-kernel", path(self.files.kernel));
        if let Some(initrd) = self.files.initrd {
            line.option("-initrd", path(initrd));
        }
        line.option("-append", self.cmdline.to_owned());
        if let (Some((disk, read_only)), Some(qemu)) = (self.files.disk, qemu) {
            self.disk(&mut line, qemu.disk_type, disk, read_only, bus);
        }
        self.network(&mut line, bus);
        line.0.extend(qemu.map(|qemu| qemu.args.clone()).unwrap_or_default());
        line.0
    }

    fn disk(&self, line: &mut Arguments, kind: DiskType, disk: &Path, read_only: bool, bus: &str) {
        let (disk, switch) = (escaped(&path(disk)), on_off(read_only));
        match kind {
            DiskType::Block => {
                let format = self.format;
                // If the host's disk is full, the guest gets an error, as with Firecracker. QEMU's default pauses it.
                let drive = format!("if=none,id=root,format={format},file={disk},readonly={switch},werror=report");
                line.option("-drive", drive);
                line.option("-device", format!("virtio-blk-{bus},drive=root"));
            }
            DiskType::NineP => {
                line.option("-fsdev", format!("local,id=root,path={disk},security_model=none,readonly={switch}"));
                line.option("-device", format!("virtio-9p-{bus},fsdev=root,mount_tag={ROOT_TAG}"));
            }
        }
    }

    fn network(&self, line: &mut Arguments, bus: &str) {
        // The boot ROM is not needed.
        let rom = if bus == "pci" { ",romfile=" } else { "" };
        let mac = match self.netdev {
            Netdev::Tap { name, mac } => {
                line.option("-netdev", format!("tap,id=net,ifname={name},script=no,downscript=no"));
                format!(",mac={mac}")
            }
            Netdev::User { host, port, egress, relay, callback } => {
                let restrict = on_off(!egress);
                let forward = format!("hostfwd=tcp:{host}-{USER_GUEST}:{port}");
                // A process per connection: a restricted network has no other way to the host.
                let back = format!("guestfwd=tcp:{USER_CALLBACK}-cmd:{} relay {callback}", escaped(relay));
                line.option("-netdev", format!("user,id=net,restrict={restrict},{forward},{back}"));
                String::new()
            }
        };
        line.option("-device", format!("virtio-net-{bus},netdev=net{mac}{rom}"));
    }
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flags(&mut self, flags: &str) {
        self.0.extend(flags.split(' ').map(str::to_owned));
    }

    fn option(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }
}

fn microvm(options: &MicrovmOptions) -> String {
    let MicrovmOptions { pic, pit, rtc, acpi, auto_kernel_cmdline } = *options;
    let switches =
        [("pic", pic), ("pit", pit), ("rtc", rtc), ("acpi", acpi), ("auto-kernel-cmdline", auto_kernel_cmdline)];
    let given = switches.into_iter().filter_map(|(name, switch)| Some(format!(",{name}={}", on_off(switch?))));
    format!("microvm{}", given.collect::<String>())
}

fn on_off(switch: bool) -> &'static str {
    if switch { "on" } else { "off" }
}

/// Doubles commas, which separate options.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use unifaas_actors::spec::{FunctionSpec, SandboxSpec};

    use super::*;

    const TAP: Netdev<'_> = Netdev::Tap { name: "faas0", mac: "02:fa:0a:64:00:02" };

    fn vm(hypervisor: &str, keys: &str) -> VmSpec {
        let text = format!("[vm]\nkernel = \"k\"\n{keys}\n[vm.hypervisor]\n{hypervisor}");
        match FunctionSpec::parse("f", Path::new("/f"), &text).unwrap().sandbox {
            SandboxSpec::Vm(vm) => vm,
            other => panic!("{other:?}"),
        }
    }

    fn config<'a>(vm: &'a VmSpec, netdev: Netdev<'a>) -> QemuConfig<'a> {
        let files = Files { kernel: &vm.kernel, initrd: None, disk: None };
        let (name, cmdline, format) = ("f", "a=b c,d", "raw");
        QemuConfig { name, vm, cmdline, files, format, netdev, accelerator: Accelerator::Tcg }
    }

    fn line(config: &QemuConfig<'_>) -> String {
        config.arguments().join(" ")
    }

    #[test]
    fn microvm_has_complete_command_line() {
        let vm =
            vm("type = \"microvm\"\nacpi = false\npic = true\nargs = [\"-global\", \"x=y\"]", "memory = 64\ncpus = 2");
        let expected = "-nodefaults -no-user-config -no-reboot -display none -name f \
            -M microvm,pic=on,acpi=off -accel tcg,tb-size=64 -cpu max -m 64M -smp 2 \
            -chardev file,id=console,path=/dev/stdout -serial chardev:console \
            -chardev socket,id=monitor,fd=0 -mon chardev=monitor,mode=control \
            -kernel /f/k -append a=b c,d \
            -netdev tap,id=net,ifname=faas0,script=no,downscript=no \
            -device virtio-net-device,netdev=net,mac=02:fa:0a:64:00:02 -global x=y";
        assert_eq!(line(&config(&vm, TAP)), expected);
    }

    #[test]
    fn absent_microvm_options_are_left_to_qemu() {
        let plain = vm("type = \"microvm\"", "");
        assert!(line(&config(&plain, TAP)).contains(" -M microvm -accel"));
        let all = "type = \"microvm\"\npic = false\npit = false\nrtc = false\nacpi = false\nauto-kernel-cmdline = true";
        let all = vm(all, "");
        let expected = " -M microvm,pic=off,pit=off,rtc=off,acpi=off,auto-kernel-cmdline=on -accel";
        assert!(line(&config(&all, TAP)).contains(expected));
    }

    #[test]
    fn pc_has_pci_devices_without_boot_roms() {
        for (machine, expected) in [("", " -M pc "), ("machine = \"q35\"", " -M q35 ")] {
            let vm = vm(&format!("type = \"qemu\"\n{machine}"), "");
            let mut config = config(&vm, TAP);
            config.accelerator = Accelerator::Kvm;
            let line = line(&config);
            assert!(line.contains(expected) && line.contains("-accel kvm -cpu host"), "{line}");
            assert!(line.ends_with("virtio-net-pci,netdev=net,mac=02:fa:0a:64:00:02,romfile="), "{line}");
        }
    }

    #[test]
    fn disks_are_block_devices_or_9p_directories() {
        for (hypervisor, bus) in [("qemu", "pci"), ("microvm", "device")] {
            let vm = vm(&format!("type = \"{hypervisor}\""), "image = \"i\"");
            let mut config = config(&vm, TAP);
            config.files.disk = Some((Path::new("/run/a,b/rootfs"), false));
            config.files.initrd = Some(Path::new("/f/initrd"));
            let line = line(&config);
            let drive = format!(
                "-initrd /f/initrd -append a=b c,d \
                 -drive if=none,id=root,format=raw,file=/run/a,,b/rootfs,readonly=off,werror=report -device virtio-blk-{bus},drive=root "
            );
            assert!(line.contains(&drive), "{line}");
        }
        let vm = vm("type = \"qemu\"\ndisk-type = \"9p\"", "image = \"i\"");
        let mut config = config(&vm, TAP);
        config.files.disk = Some((Path::new("/f/i"), true));
        let shared = "-fsdev local,id=root,path=/f/i,security_model=none,readonly=on \
            -device virtio-9p-pci,fsdev=root,mount_tag=/dev/root ";
        assert!(line(&config).contains(shared));
    }

    #[test]
    fn user_network_forwards_one_port_and_callback() {
        let vm = vm("type = \"microvm\"", "");
        let user = |egress| Netdev::User {
            host: ([127, 0, 0, 1], 22_768).into(),
            port: 8080,
            egress,
            relay: "/usr/bin/unifaas",
            callback: ([127, 0, 0, 1], 8124).into(),
        };
        let closed = line(&config(&vm, user(false)));
        let expected = "-netdev user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:22768-10.0.2.15:8080,\
            guestfwd=tcp:10.0.2.100:8124-cmd:/usr/bin/unifaas relay 127.0.0.1:8124 \
            -device virtio-net-device,netdev=net";
        assert!(closed.ends_with(expected), "{closed}");
        assert!(line(&config(&vm, user(true))).contains(",restrict=off,"));
    }
}
