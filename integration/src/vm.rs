//! Functions that are virtual machines, each test in a network namespace of its own.
//!
//! The guest is the unikernel of `examples/unikernel`; what it answers is in its `function.rs`. Another one, which can do
//! more harm, is in `linux.rs`. Firecracker is played by `src/bin/firecracker-standin.rs`, which boots the same guest in QEMU.

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

use crate::{
    Daemon, Function, Setup,
    home::{built, shipped},
};

/// A machine monitor with its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Firecracker, or rather its stand-in.
    Firecracker,
    /// QEMU's microvm.
    Microvm,
    /// QEMU's q35.
    Qemu,
}

/// All of them.
pub const KINDS: [Kind; 3] = [Kind::Firecracker, Kind::Microvm, Kind::Qemu];

impl Kind {
    /// The keys of `[vm] hypervisor`.
    fn hypervisor(self) -> &'static str {
        match self {
            Kind::Firecracker => "type = \"firecracker\"",
            // As `-M microvm` boots a guest that finds its devices on the command line.
            Kind::Microvm => {
                "type = \"microvm\"\nacpi = false\naccel = \"tcg\"\n\
                 args = [\"-global\", \"virtio-mmio.force-legacy=false\"]"
            }
            Kind::Qemu => "type = \"qemu\"\nmachine = \"q35\"\naccel = \"tcg\"",
        }
    }
}

/// A function that is a virtual machine.
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
    /// The unikernel, which calls back when it is ready.
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

    /// Boots something else.
    pub fn kernel(mut self, kernel: &Path) -> Self {
        kernel.clone_into(&mut self.kernel);
        self
    }

    /// Has another amount of memory, in MiB.
    pub fn memory(mut self, memory: u64) -> Self {
        self.memory = memory;
        self
    }

    /// Says something else on the command line.
    pub fn cmdline(mut self, cmdline: &str) -> Self {
        cmdline.clone_into(&mut self.cmdline);
        self
    }

    /// Never calls back.
    pub fn silent(self) -> Self {
        self.cmdline("ip=%ip gw=%gateway mask=%netmask")
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

/// The guest.
pub fn unikernel() -> PathBuf {
    let path = shipped("examples/unikernel/unikernel.elf");
    path.canonicalize().unwrap_or(path)
}

/// A root disk that has no blocks yet, made in a directory.
///
/// # Panics
/// When it cannot be made.
pub fn image(place: &Path, mib: u64) -> PathBuf {
    let path = place.join("disk.img");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(mib << 20).expect("holes take no space");
    path
}

/// A daemon for VMs, yet to be started: guests can call back to it, and Firecracker is the stand-in.
pub fn setup() -> Setup {
    prepared(Setup::default())
}

/// The same for a setup that is there already.
pub fn prepared(setup: Setup) -> Setup {
    setup
        .option("--callback-listen", "0.0.0.0:0")
        .variable("FIRECRACKER_EXE", built("firecracker-standin"))
        .variable("JAILER_EXE", built("jailer-standin"))
}

/// A daemon with one function.
pub async fn daemon(vm: Vm) -> Daemon {
    setup().function(vm.into()).start().await
}

/// Runs a test in a network namespace that ends with it, on a thread of its own. Without the means for VMs it says so and
/// does nothing; under CI that is a failure.
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Says why a test did nothing; under CI that is a failure.
///
/// # Panics
/// Under CI.
#[allow(clippy::print_stderr, reason = "the test runner shows it")]
pub fn skip(missing: &str) {
    assert!(!matches!(env::var("CI").as_deref(), Ok("true" | "1")), "{missing}, and this is CI");
    eprintln!("skipped: {missing}");
}

/// Whatever the calling thread starts from now on may not change the network.
pub fn without_net_admin() {
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    // SAFETY: takes numbers only.
    let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0) };
    assert_eq!(dropped, 0, "the capability cannot be dropped");
}

/// Why there can be no VMs here.
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

/// Runs `ip` in the namespace of the calling thread; what it prints.
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

/// Gives the namespace of the calling thread another address, at an interface that leads nowhere.
///
/// # Panics
/// When that cannot be.
#[track_caller]
pub fn add_interface(name: &str, address: &str) {
    ip(&format!("link add {name} type veth peer name {name}-end"));
    ip(&format!("link set {name}-end up"));
    ip(&format!("addr add {address} dev {name}"));
    ip(&format!("link set {name} up"));
}

/// The tap devices of this namespace.
pub fn taps() -> Vec<String> {
    let links = ip("-o link");
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    names.filter(|name| name.starts_with("faas")).map(str::to_owned).collect()
}

/// Everything that a daemon could have left in this namespace: interfaces, addresses, routes, rules, processes.
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

/// The processes in this namespace, but for the one of the test.
pub fn processes() -> Vec<u32> {
    let namespace = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let ours = namespace(Path::new("/proc/thread-self/ns/net"));
    let pids = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| ours.is_some() && namespace(Path::new(&format!("/proc/{pid}/ns/net"))) == ours)
        .collect()
}
