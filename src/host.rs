//! What the host has to give.

/// Share of the host's memory that instances may use together, in percent.
const MEMORY_SHARE: u64 = 80;

/// Memory that instances may use together, in MiB.
pub fn memory_budget() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    total_kib(&text).map_or(u64::MAX, |kib| kib / 1024 * MEMORY_SHARE / 100)
}

fn total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_meminfo() {
        assert_eq!(total_kib("MemTotal:       24576000 kB\nMemFree: 1 kB\n"), Some(24_576_000));
        assert_eq!(total_kib("nothing"), None);
        assert!(memory_budget() > 0);
    }
}
