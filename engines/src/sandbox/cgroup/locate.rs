//! Finds this process in the cgroup hierarchies, by `/proc/self/cgroup` and `/proc/self/mountinfo`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use procfs::{
    ProcResult, ProcessCGroups,
    process::{MountInfos, Process},
};

/// The hierarchies that can limit memory and the number of processes on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Version 1, or the hybrid of both with controllers of version 1: one hierarchy per controller.
    V1 {
        /// The process in the memory hierarchy.
        memory: CgroupDir,
        /// The process in the hierarchy that counts processes, if mounted.
        pids: Option<CgroupDir>,
        /// The process in the hierarchy that shares processor time, if mounted.
        cpu: Option<CgroupDir>,
        /// The process in the hierarchy that freezes processes, if mounted.
        freezer: Option<CgroupDir>,
    },
    /// Version 2: one hierarchy.
    V2(CgroupDir),
}

/// The cgroup of a process in a mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupDir {
    /// The mount point of the hierarchy.
    pub mount: PathBuf,
    /// The directory of the process, at or below `mount`.
    pub path: PathBuf,
}

impl Layout {
    /// Reads the layout as this process sees it. `None` where memory cannot be limited.
    pub fn of_this_process() -> ProcResult<Option<Self>> {
        let process = Process::myself()?;
        Ok(Self::locate(&process.cgroups()?, &process.mountinfo()?))
    }

    /// Reads where another process is in the hierarchies that this process sees.
    pub fn of_process(pid: i32) -> ProcResult<Option<Self>> {
        Ok(Self::locate(&Process::new(pid)?.cgroups()?, &Process::myself()?.mountinfo()?))
    }

    fn locate(cgroups: &ProcessCGroups, mounts: &MountInfos) -> Option<Self> {
        let v1 = |controller| cgroup_dir(path(cgroups, controller)?, mounts, "cgroup", Some(controller));
        if let Some(memory) = v1("memory") {
            return Some(Layout::V1 { memory, pids: v1("pids"), cpu: v1("cpu"), freezer: v1("freezer") });
        }
        cgroup_dir(path(cgroups, "")?, mounts, "cgroup2", None).map(Layout::V2)
    }
}

/// Returns the path of the process in the hierarchy of `controller`. Version 2 has an empty one (`0::/path`).
fn path<'c>(cgroups: &'c ProcessCGroups, controller: &str) -> Option<&'c str> {
    let is_listed = |controllers: &[String]| match controllers {
        [] => controller.is_empty(),
        controllers => controllers.iter().any(|listed| listed == controller),
    };
    cgroups.0.iter().find(|cgroup| is_listed(&cgroup.controllers)).map(|cgroup| cgroup.pathname.as_str())
}

/// Finds the mount and translates `path` into it.
fn cgroup_dir(path: &str, mounts: &MountInfos, fs_type: &str, controller: Option<&str>) -> Option<CgroupDir> {
    let has_controller = |options: &HashMap<String, Option<String>>| {
        controller.is_none_or(|controller| options.contains_key(controller))
    };
    let found = mounts.0.iter().find(|mount| mount.fs_type == fs_type && has_controller(&mount.super_options))?;
    // In a container the mount can start at the container's own cgroup, or show nothing of `path`.
    let below = Path::new(path).strip_prefix(&found.root).unwrap_or(Path::new(""));
    let mount = found.mount_point.clone();
    Some(CgroupDir { path: mount.join(below).components().collect(), mount })
}

#[cfg(test)]
mod tests {
    use procfs::FromBufRead;

    use super::*;

    fn locate(cgroup: &str, mountinfo: &str) -> Option<Layout> {
        let cgroups = ProcessCGroups::from_buf_read(cgroup.as_bytes()).unwrap();
        Layout::locate(&cgroups, &MountInfos::from_buf_read(mountinfo.as_bytes()).unwrap())
    }

    fn at(mount: &str, own: &str) -> CgroupDir {
        CgroupDir { mount: mount.into(), path: own.into() }
    }

    const V2_MOUNT: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn locates_single_hierarchy_of_version_2() {
        let cgroup = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let own = "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope";
        assert_eq!(locate(cgroup, V2_MOUNT), Some(Layout::V2(at("/sys/fs/cgroup", own))));
        assert_eq!(locate("0::/\n", V2_MOUNT), Some(Layout::V2(at("/sys/fs/cgroup", "/sys/fs/cgroup"))));
    }

    #[test]
    fn locates_one_hierarchy_per_controller_of_version_1() {
        let cgroup = "9:pids:/a\n5:cpu,cpuacct:/\n4:memory:/a/b\n1:name=systemd:/a\n";
        let mountinfo = "\
33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n";
        let memory = at("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b");
        let pids = Some(at("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/a"));
        let cpu = Some(at("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(locate(cgroup, mountinfo), Some(Layout::V1 { memory, pids, cpu, freezer: None }));
    }

    #[test]
    fn hybrid_is_version_1_if_that_has_memory_controller() {
        let cgroup = "6:freezer:/\n4:memory:/\n0::/unit\n";
        let mountinfo = "\
33 31 0:30 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let memory = at("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
        let freezer = Some(at("/sys/fs/cgroup/freezer", "/sys/fs/cgroup/freezer"));
        assert_eq!(locate(cgroup, mountinfo), Some(Layout::V1 { memory, pids: None, cpu: None, freezer }));
        let without = "1:name=systemd:/unit\n0::/unit\n";
        let unified = at("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/unit");
        assert_eq!(locate(without, mountinfo), Some(Layout::V2(unified)));
    }

    #[test]
    fn translates_paths_for_mounts_inside_containers() {
        let mountinfo = "\
35 31 0:32 /docker/c0ffee /sys/fs/cgroup/memory ro,relatime master:17 - cgroup cgroup rw,memory\n";
        let memory = |own| {
            let memory = at("/sys/fs/cgroup/memory", own);
            Some(Layout::V1 { memory, pids: None, cpu: None, freezer: None })
        };
        assert_eq!(locate("4:memory:/docker/c0ffee\n", mountinfo), memory("/sys/fs/cgroup/memory"));
        assert_eq!(locate("4:memory:/docker/c0ffee/x\n", mountinfo), memory("/sys/fs/cgroup/memory/x"));
        assert_eq!(locate("4:memory:/elsewhere\n", mountinfo), memory("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn host_without_cgroups_has_no_layout() {
        assert_eq!(locate("", ""), None);
        assert_eq!(locate("4:memory:/\n", V2_MOUNT), None);
        assert_eq!(locate("0::/\n", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
    }
}
