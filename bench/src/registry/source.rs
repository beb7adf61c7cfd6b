//! The functions of the user's registry, and what an experiment changes in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::BenchError;

/// The file of a function.
pub(super) const FILE: &str = "function.toml";

/// What isolates the instances of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// What tables and plots call it, such as `process`, `runc`, `firecracker`.
    pub name: String,
    /// Whether the processor is emulated, which takes many times as long.
    pub emulated: bool,
}

/// A function of the user's registry.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its directory, absolute.
    pub directory: PathBuf,
    /// Its file.
    pub table: Table,
    /// Its sandbox.
    pub sandbox: Sandbox,
}

/// A key and its value. `None` removes the key.
pub type Key = (&'static str, Option<Value>);

/// The variable with the directory of the benchmark function's files.
const FILES: &str = "BENCH_FILES";

/// What an experiment changes in a function.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Keys of the file itself. `None` removes a key.
    pub keys: Vec<Key>,
    /// Keys of `[vm]`, of functions that have it.
    pub vm: Vec<Key>,
    /// Whether the disk of a Firecracker VM is not copied. QEMU reads the disk itself.
    pub shares_disk: bool,
    /// Processes and threads that an instance may have, where that is limited.
    pub pids: Option<u32>,
    /// Where processes find the files of the benchmark function, unless they say so themselves.
    pub files: Option<PathBuf>,
    /// Memory of each instance, in MiB.
    pub memory: Option<u32>,
    /// Processors of each instance.
    pub cpus: Option<u32>,
}

/// Names a function that cannot be read, with the reason.
pub type Damaged = (String, String);

/// Reads the functions of a registry whose names one of `patterns` matches; without patterns, all. Functions that cannot be
/// parsed come second, with the reason. Without KVM that runs guests on the processor, QEMU emulates it.
///
/// # Errors
/// When the directory cannot be read.
pub fn read(registry: &Path, patterns: &[String], has_kvm: bool) -> Result<(Vec<Source>, Vec<Damaged>), BenchError> {
    let failed = |error| BenchError::Read(registry.to_owned(), error);
    let root = registry.canonicalize().map_err(failed)?;
    let (mut sources, mut damaged) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&root).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if !path.join(FILE).is_file() || !is_chosen(&name, patterns) {
            continue;
        }
        let text = fs::read_to_string(path.join(FILE)).map_err(|error| error.to_string());
        match text.and_then(|text| parse(&text, has_kvm)) {
            Ok((table, sandbox)) => sources.push(Source { name, directory: path, table, sandbox }),
            Err(reason) => damaged.push((name, reason)),
        }
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    damaged.sort();
    Ok((sources, damaged))
}

/// Returns whether one of the patterns matches a name. Without patterns, all are chosen.
pub fn is_chosen(name: &str, patterns: &[String]) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, name))
}

/// Returns whether a name matches a pattern, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))),
    }
}

fn parse(text: &str, has_kvm: bool) -> Result<(Table, Sandbox), String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let sandbox = sandbox(&table, has_kvm).ok_or("it has neither [process] nor [container] nor [vm]")?;
    Ok((table, sandbox))
}

fn sandbox(table: &Table, has_kvm: bool) -> Option<Sandbox> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    if table.contains_key("process") {
        return Some(Sandbox { name: "process".to_owned(), emulated: false });
    }
    if let Some(container) = table.get("container") {
        let runtime = text(container.get("runtime")).unwrap_or_else(|| "runc".to_owned());
        return Some(Sandbox { name: runtime, emulated: false });
    }
    let hypervisor = table.get("vm")?.get("hypervisor")?;
    let kind = text(hypervisor.get("type"))?;
    let name = match kind.as_str() {
        "qemu" => format!("qemu-{}", text(hypervisor.get("machine")).unwrap_or_else(|| "pc".to_owned())),
        "microvm" => "qemu-microvm".to_owned(),
        _ => kind.clone(),
    };
    let emulated = kind != "firecracker"
        && match text(hypervisor.get("accel")).as_deref() {
            Some("tcg") => true,
            Some("kvm") => false,
            _ => !has_kvm,
        };
    Some(Sandbox { name, emulated })
}

impl Source {
    /// Returns a function that a daemon has, from the sandbox of its page.
    pub fn of_page(name: &str, sandbox_of_page: &serde_json::Value) -> Option<Self> {
        // TOML has no null.
        let given: serde_json::Map<_, _> = sandbox_of_page.as_object()?.iter().map(without_nulls).collect();
        let table = Table::try_from(given).ok()?;
        // Nothing says which accelerator another host has, so only a chosen one counts.
        let sandbox = sandbox(&table, true)?;
        Some(Self { name: name.to_owned(), directory: PathBuf::new(), table, sandbox })
    }

    /// Returns the memory of an instance in MiB, with the daemon's default.
    pub fn memory(&self) -> i64 {
        self.inner().and_then(|inner| inner.get("memory")?.as_integer()).unwrap_or(128)
    }

    /// Returns the processors of an instance. `None`: they are not limited.
    pub fn cpus(&self) -> Option<f64> {
        let cpus = self.inner().and_then(|inner| inner.get("cpus"));
        let given = cpus.and_then(|cpus| cpus.as_float().or_else(|| cpus.as_integer().map(|cpus| cpus as f64)));
        given.or_else(|| self.table.contains_key("vm").then_some(1.0))
    }

    /// Returns whether the file has a key.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Returns whether instances can be restored from a snapshot.
    pub fn can_restore(&self) -> bool {
        let Some(vm) = self.table.get("vm") else { return false };
        let of = |key: &str| vm.get(key);
        let hypervisor = |key: &str| of("hypervisor").and_then(|table| table.get(key));
        let is_qemu = hypervisor("type").and_then(Value::as_str).is_some_and(|kind| kind != "firecracker");
        let is_read_only = hypervisor("read-only").and_then(Value::as_bool) == Some(true);
        is_qemu && of("network").and_then(Value::as_str) == Some("user") && (of("image").is_none() || is_read_only)
    }

    fn inner(&self) -> Option<&Table> {
        ["process", "container", "vm"].iter().find_map(|key| self.table.get(*key)?.as_table())
    }

    /// Returns the file with changes, and with absolute paths.
    pub fn derive(&self, overrides: &Overrides) -> Table {
        let mut table = self.table.clone();
        set(&mut table, &overrides.keys);
        if let Some(vm) = table.get_mut("vm").and_then(Value::as_table_mut) {
            set(vm, &overrides.vm);
            let hypervisor = vm.get_mut("hypervisor").and_then(Value::as_table_mut);
            // A read-only disk is shared already, and the jailer needs its copy.
            let is_copied = |table: &&mut Table| {
                let is_on = |key: &str| table.get(key).and_then(Value::as_bool) == Some(true);
                table.get("type").and_then(Value::as_str) == Some("firecracker")
                    && !is_on("read-only")
                    && !is_on("jailer")
            };
            if let Some(table) = hypervisor.filter(is_copied).filter(|_| overrides.shares_disk) {
                table.insert("copy-rootfs".to_owned(), Value::Boolean(false));
            }
        }
        if let (Some(files), true) = (&overrides.files, table.contains_key("process")) {
            let env = table.entry("env").or_insert_with(|| Value::Table(Table::new()));
            if let Some(env) = env.as_table_mut() {
                env.entry(FILES).or_insert_with(|| Value::String(files.display().to_string()));
            }
        }
        let directory = self.directory.as_path();
        for kind in ["process", "container", "vm"] {
            let Some(inner) = table.get_mut(kind).and_then(Value::as_table_mut) else { continue };
            if let Some(memory) = overrides.memory {
                inner.insert("memory".to_owned(), Value::Integer(memory.into()));
            }
            if let Some(pids) = overrides.pids.filter(|_| kind != "vm") {
                inner.insert("pids-limit".to_owned(), Value::Integer(pids.into()));
            }
            if let Some(cpus) = overrides.cpus {
                inner.insert("cpus".to_owned(), Value::Integer(cpus.into()));
            }
            for key in ["kernel", "image", "initrd"].iter().filter(|_| kind == "vm") {
                if let Some(path) = inner.get(*key).and_then(Value::as_str) {
                    let path = directory.join(path).display().to_string();
                    inner.insert((*key).to_owned(), Value::String(path));
                }
            }
            if let Some(command) = inner.get_mut("command").and_then(Value::as_array_mut).filter(|_| kind == "process")
            {
                for word in command {
                    if let Some(path) = word.as_str().and_then(|word| absolute(word, directory)) {
                        *word = Value::String(path);
                    }
                }
            }
        }
        table
    }
}

fn without_nulls((key, value): (&String, &serde_json::Value)) -> (String, serde_json::Value) {
    let mut value = value.clone();
    if let Some(inner) = value.as_object_mut() {
        inner.retain(|_, value| !value.is_null());
        *inner = inner.iter().map(without_nulls).collect();
    }
    (key.clone(), value)
}

fn set(table: &mut Table, keys: &[Key]) {
    for (key, value) in keys {
        match value {
            Some(value) => drop(table.insert((*key).to_owned(), value.clone())),
            None => drop(table.remove(*key)),
        }
    }
}

/// Returns the absolute path of a word that leads out of the function's directory. Paths inside of it lead to links.
fn absolute(word: &str, directory: &Path) -> Option<String> {
    let path = directory.join(word);
    (word.starts_with("../") && path.exists()).then(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        let (table, sandbox) = parse(text, true).unwrap();
        Source { name: "f".to_owned(), directory: "/registry/f".into(), table, sandbox }
    }

    #[test]
    fn sandboxes_have_the_names_of_the_tables() {
        for (text, name) in [
            ("process.command = [\"x\"]", "process"),
            ("container.image = \"x\"", "runc"),
            ("[container]\nimage = \"x\"\nruntime = \"runsc\"", "runsc"),
            ("[vm]\nkernel = \"k\"\nhypervisor = { type = \"firecracker\" }", "firecracker"),
            ("[vm]\nkernel = \"k\"\nhypervisor = { type = \"microvm\" }", "qemu-microvm"),
            ("[vm]\nkernel = \"k\"\nhypervisor = { type = \"qemu\", machine = \"q35\" }", "qemu-q35"),
        ] {
            assert_eq!(source(text).sandbox.name, name);
        }
        assert!(source("[vm]\nkernel = \"k\"\nhypervisor = { type = \"qemu\", accel = \"tcg\" }").sandbox.emulated);
        let emulated = parse("[vm]\nkernel = \"k\"\nhypervisor = { type = \"qemu\" }", false).unwrap().1.emulated;
        assert!(emulated, "without KVM");
        assert!(parse("keepalive = 1", true).is_err());
    }

    #[test]
    fn functions_of_a_daemon_have_sandbox_memory_and_processors() {
        let page = serde_json::json!({"vm": {"kernel": "/k", "image": null, "memory": 64, "cpus": 2,
            "hypervisor": {"type": "microvm", "options": {"pic": null}}}});
        let source = Source::of_page("f", &page).unwrap();
        assert_eq!((source.sandbox.name.as_str(), source.memory(), source.cpus()), ("qemu-microvm", 64, Some(2.0)));
        assert!(Source::of_page("f", &serde_json::json!({"process": {"cpus": null}})).unwrap().cpus().is_none());
        assert!(Source::of_page("f", &serde_json::Value::Null).is_none());
    }

    #[test]
    fn derived_functions_have_absolute_paths_and_the_keys_of_the_experiment() {
        let vm = source(
            "keepalive = 9\nmin-instances = 2\n[vm]\nkernel = \"../k.elf\"\nhypervisor = { type = \"firecracker\" }",
        );
        let overrides = Overrides {
            keys: vec![("single-use", Some(Value::Boolean(true))), ("min-instances", None)],
            vm: vec![("snapshot", Some(Value::Boolean(true)))],
            shares_disk: true,
            pids: Some(2000),
            files: Some("/files".into()),
            memory: Some(512),
            cpus: Some(1),
        };
        let table = vm.derive(&overrides);
        assert_eq!(table["vm"]["kernel"].as_str(), Some("/registry/f/../k.elf"));
        assert_eq!((table["vm"]["memory"].as_integer(), table["vm"]["cpus"].as_integer()), (Some(512), Some(1)));
        assert_eq!((table["single-use"].as_bool(), table["keepalive"].as_integer()), (Some(true), Some(9)));
        assert_eq!(table["vm"]["hypervisor"]["copy-rootfs"].as_bool(), Some(false), "a key of Firecracker");
        assert!(!table.contains_key("min-instances") && !table.contains_key("env"));
        assert_eq!(table["vm"]["snapshot"].as_bool(), Some(true));
        let process = source("process.command = [\"main.sh\", \"../none\"]").derive(&overrides);
        assert_eq!(process["process"]["memory"].as_integer(), Some(512));
        assert_eq!(process["process"]["cpus"].as_integer(), Some(1));
        assert_eq!(process["process"]["pids-limit"].as_integer(), Some(2000));
        assert!(table["vm"].get("pids-limit").is_none());
        assert_eq!(process["env"][FILES].as_str(), Some("/files"));
        assert_eq!(process["process"]["command"][1].as_str(), Some("../none"), "no such file");
    }

    #[test]
    fn snapshots_need_the_network_of_qemu() {
        let vm = |keys: &str, kind: &str| source(&format!("[vm]\nkernel = \"k\"\n{keys}hypervisor = {{ {kind} }}"));
        assert!(vm("network = \"user\"\n", "type = \"microvm\"").can_restore());
        assert!(vm("network = \"user\"\nimage = \"d\"\n", "type = \"qemu\", read-only = true").can_restore());
        assert!(!vm("network = \"user\"\nimage = \"d\"\n", "type = \"qemu\"").can_restore());
        assert!(!vm("", "type = \"microvm\"").can_restore() && !vm("", "type = \"firecracker\"").can_restore());
        assert!(!source("process.command = [\"x\"]").can_restore());
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("hello", "hello", true),
            ("hello", "hello-qemu", false),
            ("hello*", "hello-qemu", true),
            ("*qemu*", "linux-qemu", true),
            ("a*b*c", "abxc", true),
            ("a*b", "abc", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
