//! What raises variance on this machine, and the command that changes it. Nothing is changed here.

use std::fs;

use super::machine::{chosen, value};

/// Returns whether the processor may exceed its nominal frequency. `None`: the machine does not say.
pub fn turbo() -> Option<bool> {
    let read = |path| fs::read_to_string(path).ok();
    read("/sys/devices/system/cpu/intel_pstate/no_turbo")
        .map(|text| text.trim() == "0")
        .or_else(|| read("/sys/devices/system/cpu/cpufreq/boost").map(|text| text.trim() == "1"))
}

/// Returns a line for each.
pub fn advice() -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |applies: bool, line: &str| {
        if applies {
            lines.push(line.to_owned());
        }
    };
    let governor = value("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    add(
        governor.is_some_and(|governor| governor != "performance"),
        "The frequency governor is not `performance`: `cpupower frequency-set -g performance`",
    );
    add(
        turbo() == Some(true),
        "The processor may exceed its nominal frequency, as far as heat allows: `cpupower set --turbo-boost 0`",
    );
    add(
        value("/sys/devices/system/cpu/smt/active").as_deref() == Some("1"),
        "Hardware threads share cores: `echo off > /sys/devices/system/cpu/smt/control`",
    );
    let huge = value("/sys/kernel/mm/transparent_hugepage/enabled").map(|text| chosen(&text));
    add(
        huge.as_deref() == Some("always"),
        "Huge pages are made in the background: `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
    );
    add(
        value("/sys/kernel/mm/ksm/run").as_deref() == Some("1"),
        "Equal pages are merged in the background: `echo 0 > /sys/kernel/mm/ksm/run`",
    );
    let clock = value("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    add(
        clock.is_some_and(|clock| !["tsc", "kvm-clock", "arch_sys_counter"].contains(&clock.as_str())),
        "The clock source is slow to read: `echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource`",
    );
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    add(swaps.lines().count() > 1, "Pages may be swapped out: `swapoff -a`");
    lines
}
