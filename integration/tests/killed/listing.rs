//! Lists what a daemon can leave on its host, by the names and marks that it gives everything.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bollard::models::ContainerSummary;
use integration::{Daemon, Engine, Home, processes::arguments, vm::ip};
use serde_json::Value;

/// Returns the mark on network resources, which derives from the daemon's id.
pub fn mark(identity: &str) -> u32 {
    u64::from_str_radix(identity, 16).unwrap() as u32 & 0x7fff_fffe | 0x4000_0000
}

/// Returns processes outside `others`, by arguments and process id.
pub fn processes(others: &[u32], ours: impl Fn(&[String], u32) -> bool) -> BTreeSet<(u32, u64)> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = pids.filter(|pid| !others.contains(pid) && ours(&arguments(*pid), *pid));
    ours.filter_map(|pid| Some((pid, stat(pid)?.1))).collect()
}

/// Returns parent and start time of a living process.
pub fn stat(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (!matches!(fields[0], "Z" | "X")).then(|| Some((fields[1].parse().ok()?, fields[19].parse().ok()?)))?
}

/// Returns whether a process descends from this daemon, or from a container engine, whose containers are listed separately.
pub fn descends(pid: u32, daemon: u32) -> bool {
    let mut pid = pid;
    while let Some((parent, _)) = stat(pid) {
        if parent == daemon || arguments(parent).iter().any(|word| word.contains("containerd")) {
            return true;
        }
        pid = parent;
    }
    false
}

pub fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

pub fn incomplete_snapshots(home: &Home) -> BTreeSet<PathBuf> {
    let all = entries(&home.path("state/snapshots")).into_iter();
    all.filter(|snapshot| snapshot.extension().is_some_and(|it| it == "new")).collect()
}

pub fn taps(marks: &[u32]) -> BTreeSet<String> {
    let links = ip("-d -o link");
    let is_marked = |line: &str| {
        marks
            .iter()
            .flat_map(|mark| [*mark, mark | 1, mark & !0x4000_0000 | 0x2000_0000])
            .any(|group| line.contains(&format!(" group {group} ")))
    };
    let of = |line: &&str| line.contains("faas") && (is_marked(line) || line.contains(" group default "));
    let name = |line: &str| line.split(": ").take(2).collect::<Vec<_>>().join(" ");
    links.lines().filter(of).map(name).collect()
}

pub fn tables(marks: &[u32]) -> BTreeSet<String> {
    let output = Command::new("nft").args(["-j", "list", "tables"]).output().unwrap();
    let tables: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tables = tables["nftables"].as_array().unwrap().iter().map(|entry| &entry["table"]);
    let ours: Vec<_> = marks.iter().map(|mark| format!("unifaas_{mark:08x}")).collect();
    let name = |table: &Value| ours.iter().find(|name| table["name"] == name.as_str()).cloned();
    tables.filter_map(|table| Some(format!("{} {}", table["handle"], name(table)?))).collect()
}

fn label<'c>(container: &'c ContainerSummary, name: &str) -> &'c str {
    container.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
}

pub async fn containers(engine: &Engine, identities: &BTreeSet<String>) -> BTreeSet<String> {
    let all = engine.containers("unifaas-").await.into_iter();
    let ours = all.filter(|container| identities.contains(label(container, "unifaas.daemon")));
    ours.filter_map(|one| one.id).collect()
}

/// Returns containers with labels of this state directory that the daemon does not list.
pub async fn unknown_containers(engine: &Engine, identities: &BTreeSet<String>, daemon: &Daemon) -> Vec<String> {
    let all = engine.containers("unifaas-").await;
    let known = daemon.debug().await.to_string();
    let ours = all.iter().filter(|container| identities.contains(label(container, "unifaas.daemon")));
    ours.map(|one| label(one, "unifaas.instance").to_owned()).filter(|instance| !known.contains(instance)).collect()
}

/// Returns directories below a path whose name has a prefix.
pub fn cgroups(below: &Path, prefix: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let inside = cgroups(&entry.path(), prefix);
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.extend(
                fs::read_dir(entry.path())
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
            found.insert(entry.path());
        }
        found.extend(inside);
    }
    found
}

/// Returns the recorded resources, without origins and numbers of the records. Each is the first line of its file.
pub fn records(directory: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let resource = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?.get("resource")?.to_string());
    texts.filter_map(|text| text.lines().next().and_then(resource)).collect()
}
