//! Where this process stands in the cgroup hierarchies, read from the text of `/proc/self/cgroup` and
//! `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

/// The hierarchies that can limit memory and the number of processes on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Version 1, or the hybrid of both, in which the controllers are version 1: one hierarchy per controller.
    V1 {
        /// The process's place in the memory hierarchy.
        memory: CgroupDir,
        /// The process's place in the hierarchy that counts processes, if mounted.
        pids: Option<CgroupDir>,
    },
    /// Version 2: one hierarchy.
    V2(CgroupDir),
}

/// A directory in a mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupDir {
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The directory of this process, at or below `mount`.
    pub own: PathBuf,
}

/// `None` where memory cannot be limited.
pub fn locate(cgroup: &str, mountinfo: &str) -> Option<Layout> {
    let v1 = |controller| place(path(cgroup, controller)?, mountinfo, "cgroup", controller);
    if let Some(memory) = v1("memory") {
        return Some(Layout::V1 { memory, pids: v1("pids") });
    }
    place(path(cgroup, "")?, mountinfo, "cgroup2", "").map(Layout::V2)
}

/// The path of the process in the hierarchy of `controller`; version 2 has none in its line (`0::/path`).
fn path<'t>(cgroup: &'t str, controller: &str) -> Option<&'t str> {
    cgroup.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|one| one == controller).then_some(path)
    })
}

/// Finds the mount and translates `path` into it.
fn place(path: &str, mountinfo: &str, kind: &str, controller: &str) -> Option<CgroupDir> {
    mountinfo.lines().find_map(|line| {
        // "31 23 0:28 <root> <mount point> <options> <optional fields> - <type> <source> <super options>"
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, mount) = (front.next()?, Path::new(front.next()?));
        let mut back = back.split(' ');
        let found = back.next()? == kind
            && (controller.is_empty() || back.nth(1)?.split(',').any(|option| option == controller));
        // In a container the mount can start at the container's own cgroup, or show nothing of `path` at all.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        found.then(|| CgroupDir { mount: mount.to_owned(), own: mount.join(below).components().collect() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mount: &str, own: &str) -> CgroupDir {
        CgroupDir { mount: mount.into(), own: own.into() }
    }

    const V2_MOUNT: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_2_has_one_hierarchy() {
        let cgroup = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let own = "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope";
        assert_eq!(locate(cgroup, V2_MOUNT), Some(Layout::V2(at("/sys/fs/cgroup", own))));
        assert_eq!(locate("0::/\n", V2_MOUNT), Some(Layout::V2(at("/sys/fs/cgroup", "/sys/fs/cgroup"))));
    }

    #[test]
    fn version_1_has_one_hierarchy_per_controller() {
        let cgroup = "9:pids:/a\n5:cpu,cpuacct:/\n4:memory:/a/b\n1:name=systemd:/a\n";
        let mountinfo = "\
33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n";
        let memory = at("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b");
        let pids = Some(at("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/a"));
        assert_eq!(locate(cgroup, mountinfo), Some(Layout::V1 { memory, pids }));
    }

    #[test]
    fn the_hybrid_counts_as_version_1_where_that_has_the_memory() {
        let cgroup = "4:memory:/\n0::/unit\n";
        let mountinfo = "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let memory = at("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
        assert_eq!(locate(cgroup, mountinfo), Some(Layout::V1 { memory, pids: None }));
        let without = "1:name=systemd:/unit\n0::/unit\n";
        let unified = at("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/unit");
        assert_eq!(locate(without, mountinfo), Some(Layout::V2(unified)));
    }

    #[test]
    fn the_mount_of_a_container_starts_at_its_own_cgroup() {
        let mountinfo = "\
35 31 0:32 /docker/c0ffee /sys/fs/cgroup/memory ro,relatime master:17 - cgroup cgroup rw,memory\n";
        let memory = |own| Some(Layout::V1 { memory: at("/sys/fs/cgroup/memory", own), pids: None });
        assert_eq!(locate("4:memory:/docker/c0ffee\n", mountinfo), memory("/sys/fs/cgroup/memory"));
        assert_eq!(locate("4:memory:/docker/c0ffee/x\n", mountinfo), memory("/sys/fs/cgroup/memory/x"));
        assert_eq!(locate("4:memory:/elsewhere\n", mountinfo), memory("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_host_without_cgroups_has_no_place() {
        assert_eq!(locate("", ""), None);
        assert_eq!(locate("4:memory:/\n", V2_MOUNT), None);
        assert_eq!(locate("0::/\n", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
    }
}
