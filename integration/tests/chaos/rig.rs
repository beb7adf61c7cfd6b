//! The daemon under chaos: functions, clients, a small disk, a shifted clock.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use integration::{
    Census, Daemon, Engine, Function, Home, Setup, Workload, contained, eventually, ms, processes,
    vm::{self, Kind, Vm},
};
use serde_json::Value;

/// Mounts a small file system at the state directory.
const SMALL_DISK: [&str; 6] = [
    "unshare",
    "--mount",
    "--propagation=private",
    "sh",
    "-c",
    "mount -t tmpfs -o size=24m,mode=755 none \"$STATE\" && exec \"$0\" \"$@\"",
];
/// Path of Debian's library that shifts a program's clock.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Time until only `min-instances` are left, and ready again: failing functions are backed off for up to a minute.
const CALM_TIMEOUT: Duration = Duration::from_secs(150);
/// Functions with an instance that is kept ready.
const KEPT: [&str; 3] = ["lasting", "boxed", "machine"];
/// Seconds after which an idle instance is paused, of the functions for which that is so.
const PAUSED_AFTER: f64 = 0.1;
/// Number of prepared taps.
const TAP_POOL: usize = 2;
/// Descriptors and threads that come and go without instances: idle connections and blocking threads. A leak has one per fault.
const SPARE: u64 = 4;

/// A function that never becomes ready.
pub const LOST: &str = "lost";
/// A function whose file is rewritten and broken.
pub const EDITED: &str = "edited";
/// A function whose instances are restored from a snapshot.
pub const CLONED: &str = "machine-cloned";
/// A function whose directory is removed and restored.
pub const FLEETING: &str = "fleeting";

pub const WORKLOADS: [Workload; 19] = [
    workload("GET", "/invoke/lasting/sleep?ms=20", 2),
    workload("POST", "/invoke/lasting/sleep?ms=20", 2),
    workload("GET", "/invoke/once/pid", 1),
    workload("POST", "/invoke/descendants/sleep?ms=30", 1),
    workload("POST", "/invoke/boxed/sleep?ms=30", 2),
    workload("GET", "/invoke/boxed-once/pid", 1),
    workload("POST", "/invoke/machine/echo", 2),
    workload("GET", "/invoke/machine-once/", 1),
    workload("GET", "/invoke/disk-once/", 1),
    workload("GET", "/invoke/machine-cloned/", 1),
    workload("GET", "/invoke/doubled/pid", 1),
    workload("GET", "/invoke/lost/pid", 1),
    workload("GET", "/invoke/edited/pid", 1),
    workload("GET", "/invoke/fleeting/pid", 1),
    rare("GET", "/invoke/pausing/pid"),
    rare("POST", "/invoke/pausing/pid"),
    rare("POST", "/invoke/boxed-pausing/pid"),
    rare("POST", "/invoke/boxed-guarded/pid"),
    rare("POST", "/invoke/machine-pausing/echo"),
];

const fn workload(method: &'static str, path: &'static str, clients: usize) -> Workload {
    Workload { method, path, clients, pause: ms(30) }
}

/// Returns requests between which the instance is paused.
const fn rare(method: &'static str, path: &'static str) -> Workload {
    Workload { method, path, clients: 1, pause: ms(250) }
}

/// Resources that belong to a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub daemon: Census,
    pub processes: usize,
    pub taps: usize,
    pub containers: usize,
    pub directories: usize,
    /// Snapshots that are being written.
    pub incomplete: usize,
}

impl Held {
    /// Returns whether only the kept instances hold resources: a process, a container with a process, a virtual machine. There
    /// are two pools of taps, one for clones.
    fn is_calm(&self) -> bool {
        let Self { processes, containers, taps, directories, incomplete, .. } = *self;
        (processes, containers, taps, directories, incomplete) == (2, 1, 1 + 2 * TAP_POOL, 0, 0)
    }

    /// Returns whether no resource of the daemon has grown. Memory is checked separately.
    fn is_no_more_than(&self, before: &Self) -> bool {
        self.daemon.descriptors <= before.daemon.descriptors + SPARE
            && self.daemon.threads <= before.daemon.threads + SPARE
            && self.daemon.children <= before.daemon.children
    }
}

pub struct Rig {
    /// Dropped before the engine, which it needs for an orderly end.
    pub daemon: Daemon,
    pub engine: Arc<Engine>,
    pub home: Arc<Home>,
    /// Whether the daemon's clock can be shifted.
    pub clock: bool,
}

impl Rig {
    pub async fn set(engine: Engine) -> Self {
        let home = Home::new();
        let state = home.path("state");
        fs::create_dir(&state).unwrap();
        functions(&home).iter().for_each(|function| home.put(function));
        let setup = vm::prepared(Setup::at(&home))
            .variable("DOCKER_HOST", engine.host())
            .option("--tap-pool", TAP_POOL.to_string());
        let mut setup = setup.run_by(SMALL_DISK).variable("STATE", &state);
        let clock = Path::new(FAKETIME).is_file();
        if clock {
            fs::write(home.path("clock"), "+0").unwrap();
            setup = setup
                .variable("LD_PRELOAD", FAKETIME)
                .variable("FAKETIME_TIMESTAMP_FILE", home.path("clock"))
                .variable("FAKETIME_NO_CACHE", "1")
                .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        Self { daemon: setup.start().await, engine: Arc::new(engine), home, clock }
    }

    /// Returns a path of the state directory, as the daemon sees it.
    pub fn state(&self, name: &str) -> PathBuf {
        let state = self.home.path("state").join(name);
        PathBuf::from(format!("/proc/{}/root{}", self.daemon.pid, state.display()))
    }

    /// Counts the resources now.
    pub async fn held(&self) -> Held {
        Held {
            daemon: Census::of(self.daemon.pid),
            processes: self.home.processes().len(),
            taps: vm::taps().len(),
            containers: self.engine.containers("unifaas-").await.len(),
            directories: fs::read_dir(self.state("instances")).unwrap().count(),
            incomplete: fs::read_dir(self.state("snapshots")).unwrap().flatten().filter(is_incomplete).count(),
        }
    }

    /// Returns a line about each process that should be the only ones left: of functions, and of the daemon.
    fn described(&self) -> Vec<String> {
        [self.home.described(), processes::tree(self.daemon.pid)].concat()
    }

    /// Waits until only `min-instances` are left, and no more resources than `before`.
    pub async fn calm(&self, before: Option<&Held>) -> Held {
        let look = async || {
            let debug = self.daemon.debug().await;
            let functions = debug["functions"].as_object().expect("functions").iter();
            let busy = functions.filter(|(name, function)| !is_calm(name, function)).map(|(_, busy)| busy.to_string());
            (busy.collect::<Vec<_>>(), self.held().await, before.copied(), self.described())
        };
        let is_calm = |(busy, held, before, _): &(Vec<String>, Held, Option<Held>, Vec<String>)| {
            busy.is_empty() && held.is_calm() && before.is_none_or(|before| held.is_no_more_than(&before))
        };
        eventually(CALM_TIMEOUT, "only what is kept ready is left", look, is_calm).await.1
    }
}

fn is_incomplete(snapshot: &fs::DirEntry) -> bool {
    snapshot.path().extension().is_some_and(|it| it == "new")
}

/// Returns whether a function of `/debug` has only its `min-instances`.
fn is_calm(name: &str, function: &Value) -> bool {
    let kept = usize::from(KEPT.contains(&name));
    function["instances"].as_array().map_or(0, Vec::len) == kept && function["waiting"] == 0
}

/// Returns the functions. Their processes carry the token of `home`.
fn functions(home: &Home) -> Vec<Function> {
    let image = home.path("disk.img");
    fs::write(&image, vec![7; 1 << 20]).unwrap();
    let image = format!("{image:?}");
    let token = ["--token", home.token()];
    let times = |function: Function| function.ends_after(1).set("timeout", 5);
    let boxed =
        |name, top: &str| contained(name, &token, &format!("keepalive = 1\nkeep-paused = 0\ntimeout = 5\n{top}"), "");
    let paused = format!("keepalive = {PAUSED_AFTER}\nkeep-paused = 1\ntimeout = 5");
    let boxed_pausing = |name, runtime: &str| contained(name, &token, &paused, &format!("runtime = {runtime:?}"));
    let machine = |name, kind| Vm::new(name, kind).ends_after(1).set("timeout", 5);
    vec![
        times(Function::new("lasting").set("min-instances", 1).set("concurrent-requests", 4)),
        times(Function::new("once").set("single-use", true)),
        times(Function::new("descendants").flag("--descendant").flag("own-session").flag("--ignore-sigterm")),
        boxed("boxed", "min-instances = 1"),
        boxed("boxed-once", "single-use = true"),
        machine("machine", Kind::Microvm).set("min-instances", 1).into(),
        machine("machine-once", Kind::Microvm).set("single-use", true).into(),
        machine("disk-once", Kind::Firecracker).vm("image", &image).set("single-use", true).into(),
        machine(CLONED, Kind::Microvm).vm("snapshot", "{ settle = 0.5 }").set("single-use", true).into(),
        times(Function::new("doubled").set("single-use", true).flag("--callbacks").flag("3")),
        times(Function::new(LOST).set("boot-timeout", 0.4).flag("--callbacks").flag("0")),
        edited(0),
        fleeting(),
        times(Function::new("pausing"))
            .set("keepalive", PAUSED_AFTER)
            .set("keep-paused", 1)
            .flag("--descendant")
            .flag("own-session"),
        boxed_pausing("boxed-pausing", "runc"),
        boxed_pausing("boxed-guarded", "runsc"),
        Vm::new("machine-pausing", Kind::Microvm)
            .set("keepalive", PAUSED_AFTER)
            .set("keep-paused", 1)
            .set("timeout", 5)
            .into(),
    ]
}

/// Returns the valid version of the edited function.
pub fn edited(value: u32) -> Function {
    Function::new(EDITED).ends_after(1).set("timeout", 5).env("VALUE", &value.to_string())
}

/// Returns the function that is removed and restored.
pub fn fleeting() -> Function {
    Function::new(FLEETING).ends_after(1).set("timeout", 5)
}

/// Removes an interface without the daemon; returns whether it existed.
pub fn remove_link(name: &str) -> bool {
    Command::new("ip").args(["link", "del", name]).output().unwrap().status.success()
}
