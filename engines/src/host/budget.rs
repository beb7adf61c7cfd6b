//! The budgets of the host: memory for all instances, and concurrent starts.

use std::{fmt, num::NonZeroUsize, str::FromStr, thread};

use procfs::{Current, Meminfo};

const BYTES_PER_MIB: u64 = 1 << 20;

/// The memory that all instances may use together, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBudget {
    /// A number of MiB.
    Mib(u64),
    /// Percent of the memory of the host, or of the daemon's cgroup if that has less.
    Percent(u64),
}

impl MemoryBudget {
    /// Returns the budget on this host, in MiB. `limit` is the memory limit of the daemon's cgroup in bytes, if it has one.
    /// `None`: neither is known, so there is nothing of which it could be a share.
    pub fn resolve(self, limit: Option<u64>) -> Option<u64> {
        self.of(Meminfo::current().ok().map(|memory| memory.mem_total), limit)
    }

    fn of(self, host: Option<u64>, limit: Option<u64>) -> Option<u64> {
        match self {
            MemoryBudget::Mib(mib) => Some(mib),
            MemoryBudget::Percent(percent) => {
                let least = host.into_iter().chain(limit).min()?;
                Some(share(least / BYTES_PER_MIB, percent))
            }
        }
    }
}

impl FromStr for MemoryBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (1..=1000).contains(percent)).map(Self::Percent),
            None => text.parse().ok().filter(|mib| *mib > 0).map(Self::Mib),
        };
        parsed.ok_or_else(|| "expected a number of MiB, or a share of the memory such as 80%".to_owned())
    }
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryBudget::Mib(mib) => write!(f, "{mib}"),
            MemoryBudget::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Returns how many containers and virtual machines may start at once by default: enough to keep every processor busy
/// while some starts wait for the engine or the kernel. With more, all of them take longer than one after the other.
pub fn default_max_starts() -> usize {
    2 * thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Returns how many attempts of asynchronous invocations there may be at once by default: most of them wait.
pub fn default_async_concurrency() -> usize {
    8 * thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn share(of: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_mebibytes_or_a_share() {
        assert_eq!("4096".parse(), Ok(MemoryBudget::Mib(4096)));
        assert_eq!("150%".parse(), Ok(MemoryBudget::Percent(150)));
        for wrong in ["", "0", "-1", "0%", "1001%", "%", "80 %", "4G"] {
            assert!(wrong.parse::<MemoryBudget>().is_err(), "{wrong}");
        }
        let half = MemoryBudget::Percent(50);
        assert_eq!(MemoryBudget::Mib(512).of(None, Some(1)), Some(512));
        assert_eq!(half.of(Some(64 * BYTES_PER_MIB), None), Some(32));
        assert_eq!(half.of(Some(64 * BYTES_PER_MIB), Some(16 * BYTES_PER_MIB)), Some(8));
        assert_eq!(half.of(None, None), None, "unknown memory is not unlimited");
        assert!(half.resolve(None).is_some_and(|mib| mib > 0));
        assert_eq!((share(1000, 80), share(u64::MAX, 200)), (800, u64::MAX));
    }
}
