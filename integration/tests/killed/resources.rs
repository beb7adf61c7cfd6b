//! Resources of a daemon on this host, seen from outside: processes, taps, rules, containers, cgroups, files, records.
//! `listing.rs` finds them.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use integration::{Daemon, Engine, Home, eventually, vm::ip};
use tokio::time::Instant;

use crate::listing::{
    cgroups, containers, descends, entries, incomplete_snapshots, mark, processes, records, tables, taps,
    unknown_containers,
};

/// Time from the start of the next daemon until no leftover exists. The kernel and the container engine need most of it, on
/// a busy machine several seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// An interface of the host with a default route, which does not forward.
const UPLINK: &str = "uplink";

/// The route that is made with the first tap for clones.
const CLONES: &str = "10.100.255.254 dev lo";

/// The host, as the calling thread sees it.
pub struct Host {
    network: u64,
    /// The identities of all lives of the daemon so far, also of those whose directories are removed.
    identities: RefCell<BTreeSet<String>>,
}

impl Host {
    pub fn prepare() -> Self {
        ip(&format!("link add {UPLINK} type veth peer name beyond"));
        ip("link set beyond up");
        ip(&format!("addr add 198.51.100.1/24 dev {UPLINK}"));
        ip(&format!("link set {UPLINK} up"));
        ip(&format!("route add default dev {UPLINK}"));
        fs::write(forwarding(), "0").unwrap();
        Self { network: network(Path::new("/proc/thread-self")).unwrap(), identities: RefCell::default() }
    }

    /// Notes the identities that exist now, and returns all so far.
    pub fn identities(&self, home: &Home) -> BTreeSet<String> {
        let mut known = self.identities.borrow_mut();
        known.extend(Lives::of(home).identities);
        known.clone()
    }
}

fn forwarding() -> String {
    format!("/proc/sys/net/ipv4/conf/{UPLINK}/forwarding")
}

/// Returns the network namespace of a process.
fn network(process: &Path) -> Option<u64> {
    fs::metadata(process.join("ns/net")).ok().map(|metadata| metadata.ino())
}

/// Lives of the daemon: by their marks, and their directories.
#[derive(Debug)]
pub struct Lives {
    pub identities: BTreeSet<String>,
    pub directories: Vec<PathBuf>,
}

impl Lives {
    /// Returns all lives that have directories: that of the state directory itself, and further ones.
    fn of(home: &Home) -> Self {
        let first = home.path("state");
        let further = entries(&first.join("lives"));
        Self::at([first].into_iter().chain(further).collect())
    }

    /// Returns the lives of daemons that an upgrade has started.
    pub fn further(home: &Home) -> Self {
        Self::at(entries(&home.path("state/lives")))
    }

    /// Returns the lives with these directories.
    pub fn at(directories: Vec<PathBuf>) -> Self {
        let read = |life: &PathBuf| fs::read_to_string(life.join("identity")).ok();
        let identities = directories.iter().filter_map(read).map(|identity| identity.trim().to_owned()).collect();
        Self { identities, directories }
    }
}

/// Resources, each by a name that is never reused.
#[derive(Debug, Default)]
pub struct Resources {
    /// Of functions, including those in containers, by process id and start time.
    processes: BTreeSet<(u32, u64)>,
    /// Of virtual machines.
    vmms: BTreeSet<(u32, u64)>,
    /// By index and name.
    taps: BTreeSet<String>,
    /// By handle and name.
    tables: BTreeSet<String>,
    containers: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    records: BTreeSet<String>,
    /// Incomplete ones. Their names have the run of their daemon.
    snapshots: BTreeSet<PathBuf>,
    /// The directories of further lives.
    lives: BTreeSet<PathBuf>,
    /// Whether the uplink forwards, and whether the subnet and the address of clones are reserved: these have no names.
    forwards: bool,
    reserved: bool,
}

impl Resources {
    /// Lists the resources now. `others` are processes to ignore.
    pub async fn of(host: &Host, engine: &Engine, home: &Home, others: &[u32]) -> Self {
        let lives = Lives { identities: host.identities(home), ..Lives::of(home) };
        Self::of_lives(host, engine, home, &lives, others).await
    }

    async fn of_lives(host: &Host, engine: &Engine, home: &Home, lives: &Lives, others: &[u32]) -> Self {
        let Lives { identities, directories } = lives;
        let marks: Vec<_> = identities.iter().map(|identity| mark(identity)).collect();
        let of_function = |arguments: &[String], _: u32| arguments.iter().any(|argument| argument == home.token());
        let is_vmm = |arguments: &[String], pid: u32| {
            let program = arguments.first().map_or("", String::as_str);
            (program.contains("qemu-system") || program.contains("firecracker"))
                && network(&PathBuf::from(format!("/proc/{pid}"))) == Some(host.network)
        };
        Self {
            processes: processes(others, of_function),
            vmms: processes(others, is_vmm),
            taps: taps(&marks),
            tables: tables(&marks),
            containers: containers(engine, identities).await,
            cgroups: identities
                .iter()
                .flat_map(|identity| cgroups(Path::new("/sys/fs/cgroup"), &format!("unifaas-{identity}-")))
                .collect(),
            directories: directories.iter().flat_map(|life| entries(&life.join("instances"))).collect(),
            records: directories.iter().flat_map(|life| records(&life.join("resources"))).collect(),
            snapshots: incomplete_snapshots(home),
            lives: entries(&home.path("state/lives")).into_iter().filter(|life| directories.contains(life)).collect(),
            forwards: fs::read_to_string(forwarding()).unwrap().trim() == "1",
            reserved: ["unreachable 10.100.0.0/16", CLONES].iter().any(|route| ip("route").contains(route)),
        }
    }

    pub fn is_nothing(&self) -> bool {
        self.to_string() == "nothing"
    }

    /// Waits until these resources, and others that only an earlier daemon can have created, are gone. Returns the time after
    /// `since`.
    ///
    /// # Panics
    /// When something is left after `LIMIT`.
    pub async fn gone(
        &self,
        host: &Host,
        engine: &Engine,
        daemon: &Daemon,
        others: &[u32],
        since: Instant,
    ) -> Duration {
        let left = async || {
            let now = Self::of(host, engine, &daemon.home, others).await;
            let mut left = now.both(self);
            left.containers.extend(unknown_containers(engine, &host.identities(&daemon.home), daemon).await);
            let orphans = |set: &BTreeSet<(u32, u64)>| {
                set.iter().filter(|(pid, _)| !descends(*pid, daemon.pid)).copied().collect::<Vec<_>>()
            };
            left.processes.extend(orphans(&now.processes));
            left.vmms.extend(orphans(&now.vmms));
            left
        };
        eventually(LIMIT, "nothing of the killed daemon is left", left, Self::is_nothing).await;
        since.elapsed()
    }

    /// Waits until nothing is left of a daemon that was killed during an upgrade, beside the other one, which goes on.
    ///
    /// # Panics
    /// When something is left after `LIMIT`.
    pub async fn removed_by(
        host: &Host,
        engine: &Engine,
        home: &Home,
        others: &[u32],
        survivor: u32,
        killed: &Lives,
    ) -> Duration {
        let (since, incomplete) = (Instant::now(), incomplete_snapshots(home));
        let left = async || {
            let mut left = Self::of_lives(host, engine, home, killed, others).await;
            // The other daemon completes its own.
            left.snapshots.retain(|snapshot| incomplete.contains(snapshot));
            left.processes.retain(|(pid, _)| !descends(*pid, survivor));
            left.vmms.retain(|(pid, _)| !descends(*pid, survivor));
            // Both daemons need these.
            (left.forwards, left.reserved) = (false, false);
            left.lives.clear();
            left
        };
        eventually(LIMIT, "nothing of the killed daemon is left beside the other one", left, Self::is_nothing).await;
        since.elapsed()
    }

    /// Returns the resources in both sets.
    fn both(&self, other: &Self) -> Self {
        fn common<T: Ord + Clone>(one: &BTreeSet<T>, other: &BTreeSet<T>) -> BTreeSet<T> {
            one.intersection(other).cloned().collect()
        }
        Self {
            processes: common(&self.processes, &other.processes),
            vmms: common(&self.vmms, &other.vmms),
            taps: common(&self.taps, &other.taps),
            tables: common(&self.tables, &other.tables),
            containers: common(&self.containers, &other.containers),
            cgroups: common(&self.cgroups, &other.cgroups),
            directories: common(&self.directories, &other.directories),
            // These two are the same for every daemon of a state directory.
            snapshots: common(&self.snapshots, &other.snapshots),
            records: common(&self.records, &other.records)
                .into_iter()
                .filter(|record| !["{\"network\"", "{\"forwarding\""].iter().any(|kind| record.starts_with(kind)))
                .collect(),
            // Those that had containers are kept, without records, until the daemon ends that has removed them.
            lives: BTreeSet::new(),
            forwards: false,
            reserved: false,
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("processes", self.processes.len()),
            ("VMMs", self.vmms.len()),
            ("taps", self.taps.len()),
            ("tables", self.tables.len()),
            ("containers", self.containers.len()),
            ("cgroups", self.cgroups.len()),
            ("directories", self.directories.len()),
            ("records", self.records.len()),
            ("incomplete snapshots", self.snapshots.len()),
            ("lives", self.lives.len()),
            ("forwarding", usize::from(self.forwards)),
            ("reserved", usize::from(self.reserved)),
        ];
        let some: Vec<_> = counts.iter().filter(|(_, count)| *count > 0).collect();
        if some.is_empty() {
            return f.write_str("nothing");
        }
        let words: Vec<_> = some.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&words.join(", "))
    }
}
