//! Functions in virtual machines, each test in its own network namespace.
//!
//! The guest is the unikernel of `examples/unikernel`, whose answers are in its `function.rs`. `linux.rs` has a guest that
//! can misbehave more. `firecracker.rs` chooses the Firecracker that they run with.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

use crate::{Daemon, Function, Setup, firecracker::Firecracker, home::shipped};

/// A VMM with its machine type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Firecracker, or its stand-in.
    Firecracker,
    /// QEMU's microvm.
    Microvm,
    /// QEMU's q35.
    Qemu,
}

/// All kinds.
pub const KINDS: [Kind; 3] = [Kind::Firecracker, Kind::Microvm, Kind::Qemu];

impl Kind {
    /// Returns the kind for a test that needs only one: Firecracker itself where there is one, else QEMU's microvm.
    pub fn any() -> Self {
        if Firecracker::chosen().is_real { Kind::Firecracker } else { Kind::Microvm }
    }

    /// Returns the keys of `[vm.hypervisor]`.
    fn hypervisor(self) -> &'static str {
        match self {
            Kind::Firecracker => "type = \"firecracker\"",
            // The guest finds its devices on the command line, as `-M microvm` puts them there without ACPI.
            Kind::Microvm => {
                "type = \"microvm\"\nacpi = false\naccel = \"tcg\"\n\
                 args = [\"-global\", \"virtio-mmio.force-legacy=false\"]"
            }
            Kind::Qemu => "type = \"qemu\"\nmachine = \"q35\"\naccel = \"tcg\"",
        }
    }
}

/// A function in a virtual machine.
#[derive(Debug, Clone)]
pub struct Vm {
    name: String,
    kind: Kind,
    top: String,
    keys: String,
    hypervisor: String,
    cmdline: String,
    kernel: PathBuf,
    memory: u64,
}

impl Vm {
    /// Returns a function with the unikernel, which calls back when it is ready.
    pub fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            top: String::new(),
            keys: String::new(),
            hypervisor: String::new(),
            cmdline: "ip=%ip gw=%gateway mask=%netmask callback=%callback".to_owned(),
            kernel: unikernel(),
            memory: 32,
        }
    }

    /// Sets a top-level key to a TOML value.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.top += &format!("{key} = {}\n", value.to_string());
        self
    }

    /// Ends instances that were idle for so many seconds, rather than pausing them.
    pub fn ends_after(self, seconds: impl ToString) -> Self {
        self.set("keepalive", seconds).set("keep-paused", 0)
    }

    /// Sets a key of `[vm]` to a TOML value.
    pub fn vm(mut self, key: &str, value: impl ToString) -> Self {
        self.keys += &format!("{key} = {}\n", value.to_string());
        self
    }

    /// Sets a key of `[vm.hypervisor]` to a TOML value.
    pub fn hypervisor(mut self, key: &str, value: impl ToString) -> Self {
        self.hypervisor += &format!("{key} = {}\n", value.to_string());
        self
    }

    /// Sets the kernel.
    pub fn kernel(mut self, kernel: &Path) -> Self {
        kernel.clone_into(&mut self.kernel);
        self
    }

    /// Sets the amount of memory, in MiB.
    pub fn memory(mut self, memory: u64) -> Self {
        self.memory = memory;
        self
    }

    /// Sets the kernel command line.
    pub fn cmdline(mut self, cmdline: &str) -> Self {
        cmdline.clone_into(&mut self.cmdline);
        self
    }

    /// Disables the callback: the unikernel does not know this word.
    pub fn silent(self) -> Self {
        self.cmdline("ip=%ip gw=%gateway mask=%netmask unused=%callback")
    }
}

impl From<Vm> for Function {
    fn from(vm: Vm) -> Self {
        let Vm { name, kind, top, keys, hypervisor, cmdline, kernel, memory } = vm;
        let (kernel, kind) = (kernel.display(), kind.hypervisor());
        let text = format!(
            "{top}\n[vm]\nkernel = \"{kernel}\"\nmemory = {memory}\ncmdline = \"{cmdline}\"\n{keys}\n\
             [vm.hypervisor]\n{kind}\n{hypervisor}"
        );
        Function::verbatim(&name, &text)
    }
}

/// Returns the path of the unikernel.
pub fn unikernel() -> PathBuf {
    let path = shipped("examples/unikernel/unikernel.elf");
    path.canonicalize().unwrap_or(path)
}

/// Creates a sparse root disk in a directory.
///
/// # Panics
/// When it cannot be created.
pub fn image(place: &Path, mib: u64) -> PathBuf {
    let path = place.join("disk.img");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(mib << 20).expect("holes take no space");
    path
}

/// Returns settings of a daemon for VMs: guests can call back, and Firecracker is the one of [`Firecracker::chosen`].
pub fn setup() -> Setup {
    prepared(Setup::default())
}

/// Applies the same to existing settings.
pub fn prepared(setup: Setup) -> Setup {
    let firecracker = Firecracker::chosen();
    firecracker.report();
    setup
        .option("--callback-listen", "0.0.0.0:0")
        .variable("FIRECRACKER_EXE", firecracker.program)
        .variable("JAILER_EXE", firecracker.jailer)
}

/// Starts a daemon with one function.
pub async fn daemon(vm: Vm) -> Daemon {
    setup().function(vm.into()).start().await
}

/// Runs a test on its own thread, in a network namespace that ends with it. Skips it where VMs are not possible.
///
/// # Panics
/// When the test does.
pub fn isolated<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if let Some(missing) = obstacle() {
        return skip(&missing);
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip("link set lo up");
        forward(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Prints why a test is skipped; under CI that is a failure.
///
/// # Panics
/// Under CI.
pub fn skip(missing: &str) {
    assert!(!matches!(env::var("CI").as_deref(), Ok("true" | "1")), "{missing}, and this is CI");
    eprintln!("skipped: {missing}");
}

/// Takes CAP_NET_ADMIN from everything that the calling thread executes from now on.
pub fn without_net_admin() {
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    // SAFETY: takes numbers only.
    let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0) };
    assert_eq!(dropped, 0, "the capability cannot be dropped");
}

/// Returns why there can be no VMs here, if so.
pub fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("only root can make network namespaces and taps".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    if !unikernel().is_file() {
        return Some("the guest is missing: run examples/unikernel/build.sh".to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let there = |program: &&str| env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let program = ["qemu-system-x86_64", "nft", "ip"].into_iter().find(|program| !there(program))?;
    Some(format!("{program} is not installed"))
}

/// Runs `ip` in the namespace of the calling thread and returns its output.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    output(Command::new("ip").args(arguments.split(' ')))
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sets whether the namespace of the calling thread forwards packets, on present and later interfaces. A new namespace does
/// as its host, and a host with Docker forwards.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn forward(on: bool) {
    fs::write("/proc/sys/net/ipv4/ip_forward", if on { "1" } else { "0" }).expect("the kernel has this switch");
}

/// Adds an interface with an address and without a peer to the namespace of the calling thread.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn add_interface(name: &str, address: &str) {
    ip(&format!("link add {name} type veth peer name {name}-end"));
    ip(&format!("link set {name}-end up"));
    ip(&format!("addr add {address} dev {name}"));
    ip(&format!("link set {name} up"));
}

/// Returns the tap devices of this namespace.
pub fn taps() -> Vec<String> {
    let links = ip("-o link");
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    names.filter(|name| name.starts_with("faas")).map(str::to_owned).collect()
}

/// Lists everything a daemon could have left in this namespace: addresses, interfaces, routes, tables, processes.
pub fn traces() -> Vec<String> {
    let mut traces = Vec::new();
    let known = |line: &&str| !line.contains(" lo ") && !line.trim().is_empty();
    traces.extend(ip("-4 -o addr").lines().filter(known).map(str::to_owned));
    traces.extend(taps());
    traces.extend(ip("route").lines().map(str::to_owned));
    traces.extend(output(Command::new("nft").args(["list", "tables"])).lines().map(str::to_owned));
    traces.extend(processes().into_iter().map(|pid| format!("process {pid}")));
    traces
}

/// Returns the processes in this namespace, except that of the test.
pub fn processes() -> Vec<u32> {
    let namespace = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let ours = namespace(Path::new("/proc/thread-self/ns/net"));
    let pids = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| ours.is_some() && namespace(Path::new(&format!("/proc/{pid}/ns/net"))) == ours)
        .collect()
}
