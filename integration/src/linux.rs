//! The function under test in a Linux guest: the guest of `examples/linux-microvm` with another program as its function.
//! It makes every misbehaviour of a process or container available in a virtual machine.
//!
//! Under emulation it takes seconds to boot, and much longer beside others: see [`turn`]. `vm.rs` has the faster unikernel.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, OnceLock},
    thread,
};

use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    home::{built, shipped},
    root,
    vm::{Kind, Vm},
};

/// The start script that replaces the shipped function. The kernel passes unknown arguments on as variables.
const START: &str = "#!/bin/sh\nexport HOST=0.0.0.0\nIFS=,\nexec /testfn \"$1\" $FLAGS\n";

/// Memory of a guest, in MiB.
pub const MEMORY: u64 = 128;

/// Seconds that a guest may take to boot: some five on an idle machine.
pub const BOOT_TIMEOUT: u64 = 100;

/// One for each processor: that many guests boot in the time of one, and more would slow each other down.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(thread::available_parallelism().map_or(1, usize::from)));

/// Waits until a test of this process may have Linux guests. It may until the permit is dropped.
pub async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.expect("it is never closed")
}

/// Returns a virtual machine that runs the function under test. `flags` are its arguments, without blanks and commas.
///
/// # Panics
/// When the guest cannot be built.
pub fn linux(name: &str, flags: &[&str]) -> Vm {
    // On a busy machine, Linux takes the emulated timer for a broken one and panics, unless it does not check it.
    let cmdline = format!(
        "console=ttyS0 quiet panic=-1 no_timer_check callback=%callback ip=%ip::%gateway:%netmask:vm:eth0:off FLAGS={}",
        flags.join(",")
    );
    let vm = Vm::new(name, Kind::Qemu).kernel(&out("vmlinuz")).cmdline(&cmdline).memory(MEMORY);
    vm.vm("initrd", format!("{:?}", initrd())).set("boot-timeout", BOOT_TIMEOUT)
}

/// Returns why there can be no such guest here, if so.
pub fn obstacle() -> Option<String> {
    let missing = ["vmlinuz", "initramfs.cpio.gz"].into_iter().any(|file| !out(file).exists());
    missing.then(|| "the Linux guest is missing: run examples/linux-microvm/build.sh".to_owned())
}

fn out(file: &str) -> PathBuf {
    let path = shipped("examples/linux-microvm/out").join(file);
    path.canonicalize().unwrap_or(path)
}

/// Returns the shipped root file system with a second archive appended, which the kernel unpacks on top. Each process
/// builds it once and renames it into place, because another process may be reading it.
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
