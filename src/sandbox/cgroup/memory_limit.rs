//! The limit on memory that the daemon itself is under, together with all that it starts below its own cgroup.

use std::{fs, path::Path};

use super::locate::{CgroupDir, Layout, locate};

/// The least limit on the way from the daemon's cgroup to the root, in bytes. `None`: there is none.
pub fn memory_limit() -> Option<u64> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    of(&locate(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))?)
}

fn of(layout: &Layout) -> Option<u64> {
    let (CgroupDir { mount, own }, file) = match layout {
        Layout::V1 { memory, .. } => (memory, "memory.limit_in_bytes"),
        Layout::V2(place) => (place, "memory.max"),
    };
    own.ancestors().take_while(|directory| directory.starts_with(mount)).filter_map(|at| limit(&at.join(file))).min()
}

/// Version 2 says `max` where there is none, version 1 a number beyond any memory.
fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_holds() {
        let mount = tempfile::tempdir().unwrap();
        let own = mount.path().join("a/b/c");
        fs::create_dir_all(&own).unwrap();
        let place = || CgroupDir { mount: mount.path().to_owned(), own: own.clone() };
        assert_eq!(of(&Layout::V2(place())), None);
        for (directory, text) in [("a", "2147483648\n"), ("a/b", "max\n"), ("a/b/c", "4294967296\n")] {
            fs::write(mount.path().join(directory).join("memory.max"), text).unwrap();
        }
        assert_eq!(of(&Layout::V2(place())), Some(2 << 30));
        fs::write(own.join("memory.limit_in_bytes"), "1048576\n").unwrap();
        assert_eq!(of(&Layout::V1 { memory: place(), pids: None }), Some(1 << 20));
    }
}
