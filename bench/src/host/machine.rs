//! What the machine is: whatever a reader needs to judge whether figures of another one may differ.

use std::{env, fs, path::Path, process::Command};

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use super::advice;

/// Programs whose versions matter, with the option that prints it.
const PROGRAMS: [(&str, &str); 7] = [
    ("dockerd", "--version"),
    ("containerd", "--version"),
    ("runc", "--version"),
    ("runsc", "--version"),
    ("firecracker", "--version"),
    ("qemu-system-x86_64", "--version"),
    ("nft", "--version"),
];

/// A fact with its name, in the order of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The machine of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that the run may use.
    pub processors: usize,
    /// What is known of it.
    pub facts: Vec<Fact>,
    /// What raises variance, with the command that changes it.
    pub advice: Vec<String>,
}

impl Machine {
    /// Inspects this machine. `out` and `version` are the folder of the results and the daemon's version; `has_kvm` says
    /// whether KVM runs guests on the processor.
    pub fn inspect(out: &Path, version: &str, has_kvm: bool) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut facts = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                facts.push(Fact { name: name.to_owned(), value });
            }
        };
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let cpu = |name| field(&cpuinfo, name);
        let memory = |name| field(&meminfo, name).and_then(|text| mebibytes(&text));
        add("UniFaaS", Some(version.to_owned()));
        add("processor", cpu("model name").or_else(|| cpu("CPU part")));
        add("processors", Some(processors.to_string()));
        add("microcode", cpu("microcode"));
        add("SMT", value("/sys/devices/system/cpu/smt/control"));
        add("frequency driver", value("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"));
        add("governor", value("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
        add("turbo", advice::turbo().map(|is_on| if is_on { "on" } else { "off" }.to_owned()));
        add("idle states", value("/sys/devices/system/cpu/cpuidle/current_driver"));
        add("mitigations", mitigations());
        add("kernel", uname().ok().map(|it| format!("{} {}", it.release().display(), it.machine().display())));
        add("clock source", value("/sys/devices/system/clocksource/clocksource0/current_clocksource"));
        add("virtualization", virtualization(&cpuinfo));
        let kvm = match (has_kvm, Path::new("/dev/kvm").exists()) {
            (true, _) => "yes",
            (false, true) => "no: /dev/kvm does not run guests on the processor",
            (false, false) => "no",
        };
        add("KVM", Some(kvm.to_owned()));
        add("nested KVM", nested());
        add("memory", memory("MemTotal"));
        add("swap", memory("SwapTotal"));
        add("huge pages", value("/sys/kernel/mm/transparent_hugepage/enabled").map(|text| chosen(&text)));
        add("KSM", value("/sys/kernel/mm/ksm/run"));
        add("file system of the results", file_system(out));
        add("cgroup limits", cgroup_limits());
        add("power supply", power_supply());
        for (program, option) in PROGRAMS {
            add(program, version_of(program, option));
        }
        Self { processors, facts, advice: advice::advice() }
    }

    /// Returns a fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str())
    }
}

/// Returns how often the processors were throttled for heat so far. `None`: the machine does not say.
pub fn throttled() -> Option<u64> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").ok()?.flatten();
    let counts = cpus.filter_map(|cpu| {
        fs::read_to_string(cpu.path().join("thermal_throttle/core_throttle_count")).ok()?.trim().parse::<u64>().ok()
    });
    counts.reduce(|sum, count| sum + count)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns the content of a file in one line.
pub(super) fn value(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

fn mebibytes(text: &str) -> Option<String> {
    let kib: u64 = text.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(format!("{} MiB", kib / 1024))
}

/// Returns the chosen one of a list such as `always [madvise] never`.
pub(super) fn chosen(text: &str) -> String {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(inside, _)| inside);
    inside.unwrap_or(text).to_owned()
}

fn mitigations() -> Option<String> {
    let entries = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").ok()?.flatten();
    let mut states: Vec<String> = entries
        .filter_map(|entry| {
            let state = fs::read_to_string(entry.path()).ok()?;
            let state = state.trim();
            let is_relevant = !state.starts_with("Not affected");
            is_relevant.then(|| format!("{}: {state}", entry.file_name().to_string_lossy()))
        })
        .collect();
    states.sort();
    Some(states.join("; "))
}

fn virtualization(cpuinfo: &str) -> Option<String> {
    let is_guest = field(cpuinfo, "flags")?.split(' ').any(|flag| flag == "hypervisor");
    let product = value("/sys/class/dmi/id/product_name").filter(|name| !name.is_empty());
    let container = Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists();
    let kind = if is_guest { "virtual machine" } else { "none" };
    let inside = if container { ", in a container" } else { "" };
    Some(format!("{kind}{}{inside}", product.map(|name| format!(" ({name})")).unwrap_or_default()))
}

fn nested() -> Option<String> {
    value("/sys/module/kvm_intel/parameters/nested").or_else(|| value("/sys/module/kvm_amd/parameters/nested"))
}

/// Returns the type of the file system with a directory: that of the longest mount point above it.
fn file_system(directory: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    let mounts = read("/proc/self/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = mounts.filter(|(place, _)| directory.starts_with(place));
    above.max_by_key(|(place, _)| place.len()).map(|(_, kind)| kind.to_owned())
}

fn cgroup_limits() -> Option<String> {
    let path = read("/proc/self/cgroup").lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned))?;
    let limit = |file: &str| value(&format!("/sys/fs/cgroup{path}/{file}")).filter(|limit| !limit.starts_with("max"));
    let limits: Vec<_> =
        ["cpu.max", "memory.max"].iter().filter_map(|file| Some(format!("{file} {}", limit(file)?))).collect();
    Some(limits.join(", "))
}

fn power_supply() -> Option<String> {
    let supplies = fs::read_dir("/sys/class/power_supply").ok()?.flatten();
    let states: Vec<_> = supplies
        .filter_map(|supply| {
            let state =
                ["online", "status"].iter().find_map(|file| fs::read_to_string(supply.path().join(file)).ok())?;
            Some(format!("{} {}", supply.file_name().to_string_lossy(), state.trim()))
        })
        .collect();
    Some(states.join(", "))
}

/// Returns the first word with digits and a dot that a program prints about its version.
fn version_of(program: &str, option: &str) -> Option<String> {
    let chosen = (program == "firecracker").then(|| env::var_os("FIRECRACKER_EXE")).flatten();
    let output = Command::new(chosen.unwrap_or_else(|| program.into())).arg(option).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    version_in(&text).map(str::to_owned)
}

fn version_in(text: &str) -> Option<&str> {
    let words = text.split([' ', '\n', ',']).map(|word| word.trim_start_matches("release-"));
    words
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::inspect(&env::temp_dir(), "1.2.3", true);
        assert!(machine.processors > 0 && machine.fact("UniFaaS") == Some("1.2.3"), "{machine:?}");
        for name in ["kernel", "memory", "KVM", "file system of the results"] {
            assert!(machine.fact(name).is_some(), "{name} is missing: {machine:?}");
        }
    }

    #[test]
    fn values_are_found_in_what_the_system_says() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(mebibytes("24576000 kB").as_deref(), Some("24000 MiB"));
        assert_eq!(field("model\t: 1\nmodel name\t: A CPU\n", "model name").as_deref(), Some("A CPU"));
        for (text, version) in [
            ("Docker version 20.10.24+dfsg1, build 297e128", "20.10.24+dfsg1"),
            ("Firecracker v1.17.0\n", "1.17.0"),
            ("runsc version release-20221219.0\n", "20221219.0"),
            ("QEMU emulator version 7.2.22 (Debian)", "7.2.22"),
        ] {
            assert_eq!(version_in(text), Some(version));
        }
    }
}
