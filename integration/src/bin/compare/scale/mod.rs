//! Scale: what thousands of registered functions cost before anybody asks for them (`registered.rs`), and what thousands of
//! instances cost those who ask for one (`living.rs`).

mod living;
mod registered;

use std::{fs, sync::Arc, time::Duration};

use integration::{Function, Home};

use crate::{
    machine::is_installed,
    options::{Options, SectionName},
    report::Section,
};

/// Before memory is read: what is freed late shall not count.
const REST: Duration = Duration::from_millis(500);

/// The section.
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

/// A registry of functions `f0`, `f1` and so on.
fn registry(count: usize) -> Arc<Home> {
    let home = Home::new();
    for number in 0..count {
        let function = Function::new(&format!("f{number}")).program("lean").set("concurrent-requests", 1000);
        home.put(&function.set("keepalive", 3600).process("memory", 4));
    }
    home
}

/// What a process has in memory now.
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
