//! How much of the disk all snapshots may take.

use std::{fmt, path::Path, str::FromStr};

use rustix::fs::statvfs;

/// The space that all snapshots may take together, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotBudget {
    /// A number of MiB.
    Mib(u64),
    /// Percent of the file system that they are on.
    Percent(u64),
}

impl SnapshotBudget {
    /// Returns the budget for snapshots in a directory, in bytes. Nothing if its file system cannot be asked.
    pub fn resolve(self, directory: &Path) -> u64 {
        match self {
            Self::Mib(mib) => mib.saturating_mul(1 << 20),
            Self::Percent(percent) => statvfs(directory).map_or(0, |it| {
                u64::try_from(u128::from(it.f_blocks) * u128::from(it.f_frsize) * u128::from(percent) / 100)
                    .unwrap_or(u64::MAX)
            }),
        }
    }
}

impl FromStr for SnapshotBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => text.parse().ok().map(Self::Mib),
        };
        parsed.ok_or_else(|| "expected a number of MiB, or a share of the file system such as 10%".to_owned())
    }
}

impl fmt::Display for SnapshotBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mib(mib) => write!(f, "{mib}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_mebibytes_or_a_share_of_the_disk() {
        let parse = |text: &str| text.parse::<SnapshotBudget>();
        assert_eq!((parse("0"), parse("512")), (Ok(SnapshotBudget::Mib(0)), Ok(SnapshotBudget::Mib(512))));
        assert_eq!(parse("10%").map(|budget| budget.to_string()), Ok("10%".to_owned()));
        for wrong in ["", "-1", "101%", "%", "1G"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let here = Path::new(".");
        let [whole, tenth] = [100, 10].map(|percent| SnapshotBudget::Percent(percent).resolve(here));
        assert!(whole > 0 && whole / 10 == tenth, "{whole} {tenth}");
        assert_eq!(SnapshotBudget::Mib(2).resolve(here), 2 << 20);
        assert_eq!(SnapshotBudget::Percent(10).resolve(Path::new("/no/such")), 0);
    }
}
