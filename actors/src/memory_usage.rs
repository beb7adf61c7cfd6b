//! The memory that an instance uses, as the kernel counts it for its cgroup.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Reads the memory of one instance. Clones share what was seen. Reads block as long as the kernel takes.
#[derive(Debug, Clone)]
pub struct MemoryUsage(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    used: PathBuf,
    peak: PathBuf,
    /// The peak of earlier instances in the same cgroup. A peak that is not greater says nothing about this instance.
    peak_before: u64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The greatest value so far. 0: none.
    peak: u64,
    /// The files may be another instance's.
    ended: bool,
}

impl MemoryUsage {
    /// Reads the files with the bytes that a cgroup uses, and that it has used at most. `peak_before`: the latter when the
    /// instance began.
    pub fn new(used: PathBuf, peak: PathBuf, peak_before: u64) -> Self {
        Self(Arc::new(Shared { used, peak, peak_before, seen: Mutex::default() }))
    }

    /// Returns how many bytes the instance uses now. `None`: that is not known, or it has ended.
    pub fn used(&self) -> Option<u64> {
        let mut seen = self.seen();
        let used = read(&self.0.used).filter(|_| !seen.ended)?;
        seen.peak = seen.peak.max(used);
        Some(used)
    }

    /// Returns how many bytes the instance has used at most, as far as that was seen.
    pub fn peak(&self) -> Option<u64> {
        self.look(&mut self.seen())
    }

    /// Reads the peak for the last time. To be called before another instance gets the cgroup.
    pub fn end(&self) {
        let mut seen = self.seen();
        self.look(&mut seen);
        seen.ended = true;
    }

    fn look(&self, seen: &mut Seen) -> Option<u64> {
        if !seen.ended {
            let peak = read(&self.0.peak).filter(|peak| *peak > self.0.peak_before);
            let now = peak.or_else(|| read(&self.0.used)).unwrap_or_default();
            seen.peak = seen.peak.max(now);
        }
        Some(seen.peak).filter(|peak| *peak > 0)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_that_of_this_instance() {
        let directory = tempfile::tempdir().unwrap();
        let [used, peak] = ["used", "peak"].map(|name| directory.path().join(name));
        let set = |bytes: [u64; 2]| {
            fs::write(&used, format!("{}\n", bytes[0])).unwrap();
            fs::write(&peak, format!("{}\n", bytes[1])).unwrap();
        };
        let memory = MemoryUsage::new(used.clone(), peak.clone(), 500);
        assert_eq!((memory.used(), memory.peak()), (None, None));
        set([100, 500]);
        assert_eq!((memory.used(), memory.peak()), (Some(100), Some(100)), "500 was another instance's");
        set([90, 500]);
        assert_eq!((memory.used(), memory.peak()), (Some(90), Some(100)));
        set([90, 600]);
        assert_eq!(memory.peak(), Some(600));
        set([80, 700]);
        memory.end();
        set([2000, 2000]);
        assert_eq!((memory.used(), memory.peak()), (None, Some(700)), "another instance has the cgroup");
    }
}
