//! Compares what a guest needs with what it gets: memory, initial ramdisk and command line. `check` does it with what the
//! file says, a start with the command line of its instance; so both say the same.

use std::{fs, path::Path};

use super::{
    DiskType, Hypervisor, Readiness, VmNetwork, VmSpec,
    files::{self, Target},
    kernel::{self, Kernel, Vmm},
    placeholders::{has_placeholder, substitute},
};

const MIB: u64 = 1 << 20;
/// Longest command line that Firecracker takes, with what it appends.
const FIRECRACKER_CMDLINE: u64 = 2047;
/// What Firecracker appends: for each guest, for a root disk, and for each device.
const APPENDED: &str = " pci=off";
const APPENDED_ROOT: &str = " root=/dev/vda rw";
const APPENDED_DEVICE: &str = " virtio_mmio.device=4K@0xc0001000:5";
/// What QEMU's microvm appends for each device, unless devices are listed in ACPI tables.
const MICROVM_DEVICE: &str = " virtio_mmio.device=512@0xfeb00e00:12";
/// Longest argument of a program in Linux, in bytes.
const MAX_ARGUMENT: u64 = 131_071;
/// As short as a callback URL can be.
const SHORTEST_CALLBACK: &str = "http://1.0.0.1:1/ready/00000000000000000000000000000000";

/// A kernel command line.
#[derive(Debug, Clone, Copy)]
enum Cmdline<'a> {
    /// As the file has it.
    Template(&'a str),
    /// Of one instance.
    Replaced(&'a str),
}

impl VmSpec {
    /// Checks before a start that the guest can boot: its files may have changed, and only now `cmdline` is known, in which
    /// the placeholders are replaced.
    ///
    /// # Errors
    /// The first key that cannot work, and why, in the words of `unifaas check`.
    pub fn check_start(&self, cmdline: &str) -> Result<(), String> {
        for (key, path, target) in self.files() {
            files::look(path, target).map_err(|reason| format!("vm.{key}: {path:?} {reason}"))?;
        }
        self.check_memory().map_err(|reason| format!("vm.memory: {reason}"))?;
        self.check_length(Cmdline::Replaced(cmdline)).map_err(|reason| format!("vm.cmdline: {reason}"))
    }

    /// Returns its files, with their keys and what they have to be.
    pub(super) fn files(&self) -> Vec<(&'static str, &Path, Target)> {
        let root = match &self.hypervisor {
            Hypervisor::Firecracker { .. } => Target::RawDisk,
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => match qemu.disk_type {
                DiskType::NineP => Target::Directory,
                DiskType::Block => Target::File,
            },
        };
        let image = self.image.as_deref().map(|image| ("image", image, root));
        let initrd = self.initrd.as_deref().map(|initrd| ("initrd", initrd, Target::Initrd));
        let kernel = ("kernel", self.kernel.as_path(), Target::Kernel(self.vmm()));
        [kernel].into_iter().chain(image).chain(initrd).collect()
    }

    /// Checks that the kernel and the initial ramdisk fit into the memory. Files that cannot be read need none.
    pub(super) fn check_memory(&self) -> Result<(), String> {
        if self.overrides("kernel") || self.overrides("m") {
            return Ok(());
        }
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let initrd = self.initrd.as_deref().filter(|_| !self.overrides("initrd")).map_or(0, size);
        let (end, given) = (self.inspect().end, self.memory);
        let needed = end.saturating_add(initrd).div_ceil(MIB);
        if needed <= given {
            return Ok(());
        }
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let initrd = if initrd == 0 { String::new() } else { format!(", and the initrd has {:.1} MiB", mib(initrd)) };
        let kernel = mib(end);
        Err(format!("{given} MiB are too few: the kernel occupies {kernel:.1} MiB{initrd}; at least {needed} MiB"))
    }

    /// Checks the command line as far as the file shows it.
    pub(super) fn check_cmdline(&self, readiness: &Readiness) -> Result<(), String> {
        let calls_back = has_placeholder(&self.cmdline, "callback") || self.overrides("append");
        if *readiness == Readiness::Callback && !calls_back {
            let reason = "without %callback, the guest cannot report that it is ready: add it, or set `readiness`";
            return Err(reason.to_owned());
        }
        self.check_length(Cmdline::Template(&self.cmdline))
    }

    fn check_length(&self, cmdline: Cmdline<'_>) -> Result<(), String> {
        if self.overrides("kernel") || self.overrides("append") {
            return Ok(());
        }
        let (length, least) = match cmdline {
            Cmdline::Template(template) => (substitute(template, |word| self.shortest(word)).trim().len(), "at least "),
            Cmdline::Replaced(cmdline) => (cmdline.trim().len(), ""),
        };
        let (limit, taker) = match (&self.hypervisor, self.inspect().cmdline) {
            (Hypervisor::Firecracker { .. }, _) => (FIRECRACKER_CMDLINE, "Firecracker"),
            (_, Some(limit)) => (limit, "this kernel"),
            (_, None) => (MAX_ARGUMENT, "an argument of QEMU"),
        };
        let appended = self.appended();
        let room = limit.saturating_sub(appended as u64);
        if length as u64 <= room {
            return Ok(());
        }
        let replaced = if self.cmdline.contains('%') { " once its placeholders are replaced" } else { "" };
        let beside = if appended == 0 { String::new() } else { format!(" beside {appended} that the VMM appends") };
        Err(format!("has {least}{length} bytes{replaced}, and {taker} takes {room}{beside}"))
    }

    /// Returns the number of bytes that the VMM appends to the command line.
    fn appended(&self) -> usize {
        let disks = usize::from(self.image.is_some());
        match &self.hypervisor {
            Hypervisor::Firecracker { .. } => {
                APPENDED.len() + disks * APPENDED_ROOT.len() + (1 + disks) * APPENDED_DEVICE.len()
            }
            Hypervisor::Microvm { options, .. }
                if options.acpi == Some(false) && options.auto_kernel_cmdline != Some(false) =>
            {
                (1 + disks) * MICROVM_DEVICE.len()
            }
            _ => 0,
        }
    }

    fn vmm(&self) -> Vmm {
        match &self.hypervisor {
            Hypervisor::Firecracker { .. } => Vmm::Firecracker,
            Hypervisor::Qemu { .. } | Hypervisor::Microvm { .. } => Vmm::Qemu,
        }
    }

    /// Returns what the kernel needs; nothing if it cannot be read.
    fn inspect(&self) -> Kernel {
        files::open(&self.kernel).and_then(|file| kernel::inspect(&file, self.vmm())).unwrap_or_default()
    }

    /// Returns the shortest value of a placeholder.
    fn shortest(&self, word: &str) -> Option<&'static str> {
        match (word, self.network) {
            ("callback", _) => Some(SHORTEST_CALLBACK),
            ("ip" | "gateway", _) => Some("1.0.0.1"),
            ("netmask", VmNetwork::Tap) => Some("255.255.255.252"),
            ("netmask", VmNetwork::User) => Some("255.255.255.224"),
            _ => None,
        }
    }

    /// Returns whether the function's own arguments of QEMU replace this one.
    fn overrides(&self, option: &str) -> bool {
        match &self.hypervisor {
            Hypervisor::Firecracker { .. } => false,
            Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } => {
                qemu.args.iter().any(|argument| argument.starts_with('-') && argument.trim_start_matches('-') == option)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::{
        super::{FunctionSpec, SandboxSpec, elf::tests::kernel, kernel::tests::bzimage},
        *,
    };

    const FIRECRACKER: &str = "type = \"firecracker\"";
    const QEMU: &str = "type = \"qemu\"";

    /// A guest with its files.
    struct Guest {
        place: TempDir,
        hypervisor: &'static str,
        keys: String,
    }

    impl Guest {
        fn new(hypervisor: &'static str, kernel: &[u8]) -> Self {
            let guest = Self { place: tempfile::tempdir().unwrap(), hypervisor, keys: String::new() };
            fs::write(guest.path("kernel"), kernel).unwrap();
            guest
        }

        fn path(&self, name: &str) -> PathBuf {
            self.place.path().join(name)
        }

        /// Adds a file of this size.
        fn file(mut self, key: &str, size: u64) -> Self {
            fs::File::create(self.path(key)).unwrap().set_len(size).unwrap();
            self.keys += &format!("{key} = \"{key}\"\n");
            self
        }

        fn spec(&self, memory: u64, cmdline: &str) -> VmSpec {
            let Self { hypervisor, keys, .. } = self;
            let text = format!(
                "[vm]\nkernel = \"kernel\"\nmemory = {memory}\ncmdline = \"{cmdline}\"\n{keys}[vm.hypervisor]\n{hypervisor}"
            );
            match FunctionSpec::parse("f", self.place.path(), &text).unwrap().sandbox {
                SandboxSpec::Vm(vm) => vm,
                other => panic!("{other:?}"),
            }
        }

        fn takes(&self, cmdline: &str) -> bool {
            let vm = self.spec(64, cmdline);
            assert_eq!(vm.check_cmdline(&Readiness::Tcp).is_ok(), vm.check_start(cmdline).is_ok(), "{cmdline}");
            vm.check_start(cmdline).is_ok()
        }
    }

    #[test]
    fn memory_holds_kernel_and_initrd() {
        // From 1 MiB on, 2.5 MiB.
        let guest = Guest::new(FIRECRACKER, &kernel(5 << 19));
        let said = guest.spec(3, "").check_memory().unwrap_err();
        assert_eq!(said, "3 MiB are too few: the kernel occupies 3.5 MiB; at least 4 MiB");
        assert_eq!(guest.spec(3, "").check_start(""), Err(format!("vm.memory: {said}")));
        assert_eq!(guest.spec(4, "").check_start(""), Ok(()));
        let guest = guest.file("initrd", 2 << 20);
        let said = guest.spec(5, "").check_memory().unwrap_err();
        assert!(said.ends_with("3.5 MiB, and the initrd has 2.0 MiB; at least 6 MiB"), "{said}");
        assert_eq!(guest.spec(6, "").check_memory(), Ok(()));
        let linux = Guest::new(QEMU, &bzimage((70 << 20) - 1));
        assert!(linux.spec(69, "").check_memory().is_err() && linux.spec(70, "").check_memory().is_ok());
    }

    #[test]
    fn empty_initrd_is_named() {
        for hypervisor in [FIRECRACKER, QEMU] {
            let guest = Guest::new(hypervisor, &kernel(1)).file("initrd", 0);
            assert!(guest.spec(4, "").check_start("").unwrap_err().ends_with("initrd\" is empty"));
        }
    }

    #[test]
    fn command_line_fits_with_what_firecracker_appends() {
        let guest = Guest::new(FIRECRACKER, &kernel(1));
        assert!(guest.takes(&"x".repeat(2004)) && !guest.takes(&"x".repeat(2005)));
        let said = guest.spec(4, "").check_start(&"x".repeat(2005)).unwrap_err();
        assert_eq!(said, "vm.cmdline: has 2005 bytes, and Firecracker takes 2004 beside 43 that the VMM appends");
        let guest = guest.file("image", 512);
        assert!(guest.takes(&"x".repeat(1952)) && !guest.takes(&"x".repeat(1953)));
    }

    #[test]
    fn command_line_fits_kernel_of_qemu() {
        let linux = Guest::new(QEMU, &bzimage(2 << 20));
        assert!(linux.takes(&"x".repeat(2047)) && !linux.takes(&"x".repeat(2048)));
        let other = Guest::new(QEMU, &kernel(1));
        assert!(other.takes(&"x".repeat(50_000)));
        assert!(other.spec(4, "").check_start(&"x".repeat(131_072)).is_err());
        let microvm = Guest::new("type = \"microvm\"\nacpi = false", &bzimage(2 << 20));
        assert!(microvm.takes(&"x".repeat(2010)) && !microvm.takes(&"x".repeat(2011)));
    }

    #[test]
    fn placeholders_count_with_their_shortest_values() {
        let guest = Guest::new(FIRECRACKER, &kernel(1));
        let line = |rest: usize| format!("%callback {}", "x".repeat(rest));
        let shortest = SHORTEST_CALLBACK.len() + 1;
        assert_eq!(guest.spec(4, &line(2004 - shortest)).check_cmdline(&Readiness::Callback), Ok(()));
        let said = guest.spec(4, &line(2005 - shortest)).check_cmdline(&Readiness::Callback).unwrap_err();
        assert!(
            said.starts_with("has at least 2005 bytes once its placeholders are replaced, and Firecracker"),
            "{said}"
        );
    }

    #[test]
    fn guest_needs_callback_or_another_readiness() {
        let guest = Guest::new(FIRECRACKER, &kernel(1));
        let vm = guest.spec(4, "ip=%ip");
        assert!(vm.check_cmdline(&Readiness::Callback).unwrap_err().contains("%callback"));
        assert_eq!(vm.check_cmdline(&Readiness::Tcp), Ok(()));
        assert_eq!(guest.spec(4, "c=%callback").check_cmdline(&Readiness::Callback), Ok(()));
    }

    #[test]
    fn own_arguments_of_qemu_replace_what_is_checked() {
        let args = "type = \"qemu\"\nargs = [\"-m\", \"512\", \"-append\", \"quiet\"]";
        let guest = Guest::new(args, &bzimage(70 << 20));
        let vm = guest.spec(1, &"x".repeat(3000));
        assert_eq!((vm.check_cmdline(&Readiness::Callback), vm.check_start(&vm.cmdline)), (Ok(()), Ok(())));
    }
}
