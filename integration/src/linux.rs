//! The function under test in a small Linux, in a virtual machine: the guest of `examples/linux-microvm`, with another
//! program in the place of its function. So a virtual machine can do whatever a process or a container can.
//!
//! Where instructions are emulated it takes some seconds to boot. What the unikernel can do as well is quicker: `vm.rs`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::{
    home::{built, shipped},
    root,
    vm::{Kind, Vm},
};

/// What is started instead of the shipped function. The kernel hands on what it does not know as variables.
const START: &str = "#!/bin/sh\nexport HOST=0.0.0.0\nIFS=,\nexec /testfn \"$1\" $FLAGS\n";

/// Memory of a guest, in MiB.
pub const MEMORY: u64 = 128;

/// A virtual machine with the function under test in it. `flags` are its own, without blanks and commas.
///
/// # Panics
/// When the guest cannot be put together.
pub fn linux(name: &str, flags: &[&str]) -> Vm {
    let cmdline = format!(
        "console=ttyS0 quiet panic=-1 callback=%callback ip=%ip::%gateway:%netmask:vm:eth0:off FLAGS={}",
        flags.join(",")
    );
    let vm = Vm::new(name, Kind::Qemu).kernel(&out("vmlinuz")).cmdline(&cmdline).memory(MEMORY);
    vm.vm("initrd", format!("{:?}", initrd()))
}

/// Why there can be no such guest here.
pub fn obstacle() -> Option<String> {
    let missing = ["vmlinuz", "initramfs.cpio.gz"].into_iter().any(|file| !out(file).exists());
    missing.then(|| "the Linux guest is missing: run examples/linux-microvm/build.sh".to_owned())
}

fn out(file: &str) -> PathBuf {
    let path = shipped("examples/linux-microvm/out").join(file);
    path.canonicalize().unwrap_or(path)
}

/// The shipped root file system with another one on top: a kernel unpacks one archive after the other. Every process makes
/// it anew, beside the function under test, and puts it there in one step, as another one may be reading it.
fn initrd() -> &'static Path {
    static INITRD: OnceLock<PathBuf> = OnceLock::new();
    INITRD.get_or_init(|| {
        let testfn = built("testfn");
        let stage = TempDir::with_prefix("unifaas-linux-").expect("a temporary directory");
        let top = stage.path().join("top");
        fs::create_dir(&top).expect("a directory");
        root::make(&testfn, &top);
        fs::write(top.join("hello"), START).expect("a file");
        fs::set_permissions(top.join("hello"), Permissions::from_mode(0o755)).expect("it is ours");
        let pack = "cd \"$1\" && find . | \"$2/root/bin/busybox\" cpio -o -H newc -R 0:0 | gzip -1 | \
                    cat \"$2/initramfs.cpio.gz\" - >\"$3\" && mv \"$3\" \"$4\"";
        let initrd = testfn.with_file_name("linux-testfn.cpio.gz");
        let new = initrd.with_extension(std::process::id().to_string());
        let pack = ["-o", "pipefail", "-c", pack, "pack"];
        root::run(Command::new("bash").args(pack).args([&top, &out(""), &new, &initrd]));
        initrd
    })
}
