//! Scale: the cost of thousands of registered functions (`registered.rs`) and of thousands of living instances
//! (`living.rs`).

mod living;
mod registered;

use std::{fs, sync::Arc, time::Duration};

use integration::{Function, Home};

use crate::{
    machine::is_installed,
    options::{Options, SectionName},
    report::Section,
};

/// Pause before memory is read, for memory that is freed late.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// Runs the section.
pub async fn run(options: &Options) -> Section {
    let mut section = Section::new(SectionName::Scale.word());
    registered::run(&mut section, options).await;
    if is_installed("wrk") {
        living::run(&mut section, options).await;
    } else {
        section.miss("living instances", "wrk is not installed");
    }
    section
}

/// Creates a registry with functions `f0`, `f1` and so on.
fn registry(count: usize) -> Arc<Home> {
    let home = Home::new();
    for number in 0..count {
        let function = Function::new(&format!("f{number}")).program("lean").set("concurrent-requests", 1000);
        home.put(&function.set("keepalive", 3600).process("memory", 4));
    }
    home
}

/// Returns the resident memory of a process.
fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon is there");
    resident_kib(&status).expect("its memory is known") / 1024.0
}

fn resident_kib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_not_the_peak() {
        let status = "Name:\tunifaas\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t5\n";
        assert_eq!(resident_kib(status), Some(10_240.0));
        assert_eq!(resident_kib("Name:\tunifaas\n"), None);
        assert!(resident_mib(std::process::id()) > 0.5);
    }
}
