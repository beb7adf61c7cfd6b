//! The memory limit of the daemon's own cgroup, which also holds for the instances below it.

use std::{fs, path::Path};

use super::locate::{CgroupDir, Layout};

/// Returns the least limit between the daemon's cgroup and the root, in bytes. `None` without a limit.
pub fn memory_limit() -> Option<u64> {
    least_limit(&Layout::of_this_process().ok()??)
}

fn least_limit(layout: &Layout) -> Option<u64> {
    let (CgroupDir { mount, path }, file) = match layout {
        Layout::V1 { memory, .. } => (memory, "memory.limit_in_bytes"),
        Layout::V2(cgroup) => (cgroup, "memory.max"),
    };
    path.ancestors().take_while(|directory| directory.starts_with(mount)).filter_map(|at| limit(&at.join(file))).min()
}

/// Reads one limit. Without a limit, version 2 has `max` and version 1 a number beyond any memory.
fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_limit_of_all_ancestors_counts() {
        let mount = tempfile::tempdir().unwrap();
        let own = mount.path().join("a/b/c");
        fs::create_dir_all(&own).unwrap();
        let cgroup = || CgroupDir { mount: mount.path().to_owned(), path: own.clone() };
        assert_eq!(least_limit(&Layout::V2(cgroup())), None);
        for (directory, text) in [("a", "2147483648\n"), ("a/b", "max\n"), ("a/b/c", "4294967296\n")] {
            fs::write(mount.path().join(directory).join("memory.max"), text).unwrap();
        }
        assert_eq!(least_limit(&Layout::V2(cgroup())), Some(2 << 30));
        fs::write(own.join("memory.limit_in_bytes"), "1048576\n").unwrap();
        assert_eq!(least_limit(&Layout::V1 { memory: cgroup(), pids: None, cpu: None, freezer: None }), Some(1 << 20));
    }
}
