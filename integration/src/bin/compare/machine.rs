//! Date, machine and program versions of a run: figures of different machines are not comparable.

use std::{env, fs, path::Path, process::Command, time::SystemTime};

use integration::{shipped, unifaas};
use serde::Serialize;

/// The circumstances of a run.
#[derive(Debug, Serialize)]
pub struct Machine {
    date: String,
    cores: usize,
    cpu: String,
    memory_gib: u64,
    kernel: String,
    versions: Vec<(String, String)>,
    command: String,
}

/// The compared programs, and their version options.
const PROGRAMS: [(&str, &str); 9] = [
    ("nginx", "-v"),
    ("haproxy", "-v"),
    ("wrk", "-v"),
    ("h2load", "--version"),
    ("valgrind", "--version"),
    ("dockerd", "--version"),
    ("runc", "--version"),
    ("runsc", "--version"),
    ("qemu-system-x86_64", "--version"),
];

impl Machine {
    /// Inspects this machine.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let memory_kib: u64 = field(&meminfo, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
        let mut versions = vec![("unifaas".to_owned(), this_version())];
        versions.extend(PROGRAMS.map(|(program, flag)| (program.to_owned(), version(Command::new(program).arg(flag)))));
        if let Some(firecracker) = crate::firecracker() {
            versions.push(("firecracker".to_owned(), version(Command::new(firecracker).arg("--version"))));
        }
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field(&cpuinfo, "model name").to_owned(),
            memory_gib: memory_kib.div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions,
            command: env::args().skip(1).collect::<Vec<_>>().join(" "),
        }
    }

    /// Returns a Markdown list.
    pub fn markdown(&self) -> String {
        let Self { date, cores, cpu, memory_gib, kernel, versions, command } = self;
        let versions: Vec<_> = versions.iter().map(|(program, version)| format!("{program} {version}")).collect();
        let versions = versions.join(", ");
        format!(
            "{date}, {cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}. `integration/compare {command}`\n\n{versions}\n"
        )
    }
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.map_or("unknown", str::trim)
}

/// Returns the daemon's version, and the commit in a clone.
fn this_version() -> String {
    let version = version(Command::new(unifaas()).arg("--version"));
    let commit = Command::new("git").arg("-C").arg(shipped("")).args(["describe", "--always", "--dirty"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit = commit.map(|output| format!(" ({})", String::from_utf8_lossy(&output.stdout).trim()));
    version + &commit.unwrap_or_default()
}

/// Returns the first version number in a program's output.
fn version(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "not installed".to_owned() };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    version_in(&text).unwrap_or("unknown").to_owned()
}

fn version_in(text: &str) -> Option<&str> {
    let words = text.split([' ', '\n', ',', '/']).map(|word| word.trim_start_matches("valgrind-"));
    let digits = |word: &&str| word.trim_start_matches(['v', 'V']).starts_with(|first: char| first.is_ascii_digit());
    // gVisor in Debian: `release-20221219.0`.
    words.map(|word| word.trim_start_matches("release-")).find(|word| digits(word) && word.contains('.'))
}

/// Returns whether a program is on the PATH.
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory: std::path::PathBuf| Path::new(&directory).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_versions() {
        let cases = [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/05/07 - https://haproxy.org/\n", "2.6.12-1+deb12u4"),
            ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer\n", "4.1.0-3+b2"),
            ("h2load nghttp2/1.52.0\n", "1.52.0"),
            ("valgrind-3.19.0\n", "3.19.0"),
            ("Docker version 20.10.24+dfsg1, build 297e128\n", "20.10.24+dfsg1"),
            ("runc version 1.1.5+ds1\ncommit: 1\n", "1.1.5+ds1"),
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)\n", "7.2.22"),
            ("Firecracker v1.17.0\n", "v1.17.0"),
            ("unifaas 0.1.0\n", "0.1.0"),
        ];
        for (text, expected) in cases {
            assert_eq!(version_in(text), Some(expected), "{text}");
        }
        assert_eq!(version_in("nothing of the kind"), None);
    }

    #[test]
    fn field_names_match_exactly() {
        let text = "model\t\t: 1\nmodel name\t: A Processor\nMemTotal:       24576000 kB\n";
        assert_eq!(field(text, "model name"), "A Processor");
        assert_eq!(field(text, "MemTotal"), "24576000 kB");
        assert_eq!(field(text, "absent"), "unknown");
    }
}
