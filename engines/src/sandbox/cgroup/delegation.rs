//! Version 2 only: finds a directory whose children can have a memory limit.
//!
//! `cgroup.subtree_control` enables controllers for children, and only in a cgroup without processes of its own (the root
//! aside). So the daemon's own cgroup qualifies only if the daemon can first move itself into a leaf.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use super::{controller::write, locate::CgroupDir};

/// The leaf for a daemon that is alone in its cgroup.
const LEAF: &str = "unifaas-daemon";
/// The controller that is required.
const MEMORY: &str = "memory";

/// Returns the directories in which instances can be limited, the best first. Evaluating the first item can move the
/// daemon into a leaf.
pub fn parent_candidates(cgroup: &CgroupDir) -> impl Iterator<Item = PathBuf> {
    let above = cgroup.path.ancestors().skip(1).take_while(|directory| directory.starts_with(&cgroup.mount));
    let own = Some(cgroup.path.as_path()).filter(|own| has_controller(own, MEMORY) || delegate(own).is_ok());
    own.into_iter().chain(above.filter(|directory| has_controller(directory, MEMORY))).map(Path::to_owned)
}

/// Enables the memory controller for the children of `directory` and, where possible, the one for processes.
pub fn enable_controllers(directory: &Path) -> io::Result<()> {
    let control = directory.join("cgroup.subtree_control");
    write(&control, "+memory")?;
    let _ = write(&control, "+pids");
    Ok(())
}

/// Enables the controller for processor time for the children of `parent`, which a daemon has made.
pub fn enable_cpu(parent: &Path) -> io::Result<()> {
    let above = parent.parent().unwrap_or(parent);
    for directory in [above, parent] {
        if !has_controller(directory, "cpu") {
            write(&directory.join("cgroup.subtree_control"), "+cpu")?;
        }
    }
    Ok(())
}

/// Returns whether the children of `directory` have `controller`.
pub fn has_controller(directory: &Path, controller: &str) -> bool {
    fs::read_to_string(directory.join("cgroup.subtree_control"))
        .is_ok_and(|controllers| controllers.split_whitespace().any(|one| one == controller))
}

/// Enables controllers for the children of the daemon's own cgroup.
fn delegate(own: &Path) -> io::Result<()> {
    let Err(denied) = enable_controllers(own) else { return Ok(()) };
    let procs = own.join("cgroup.procs");
    let pid = process::id().to_string();
    if fs::read_to_string(&procs)?.split_whitespace().ne([pid.as_str()]) {
        return Err(denied);
    }
    let leaf = own.join(LEAF);
    // It may exist from a daemon that was killed.
    fs::create_dir(&leaf).or_else(|error| if leaf.is_dir() { Ok(()) } else { Err(error) })?;
    let moved = write(&leaf.join("cgroup.procs"), &pid).and_then(|()| enable_controllers(own));
    if moved.is_err() {
        let _ = write(&procs, &pid);
        let _ = fs::remove_dir(&leaf);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories with control files: (path, `subtree_control`, `procs`).
    fn cgroup_tree(directories: &[(&str, &str, &str)]) -> (tempfile::TempDir, CgroupDir) {
        let mount = tempfile::tempdir().unwrap();
        let mut own = PathBuf::new();
        for (path, controllers, members) in directories {
            own = mount.path().join(path);
            fs::create_dir_all(&own).unwrap();
            fs::write(own.join("cgroup.procs"), members).unwrap();
            if !controllers.is_empty() {
                fs::write(own.join("cgroup.subtree_control"), controllers).unwrap();
            }
        }
        let cgroup = CgroupDir { mount: mount.path().to_owned(), path: own };
        (mount, cgroup)
    }

    #[test]
    fn prefers_own_cgroup_with_memory_controller() {
        let (mount, cgroup) = cgroup_tree(&[("a", "memory pids", "1\n"), ("a/b", "cpu memory", "")]);
        let candidates: Vec<_> = parent_candidates(&cgroup).collect();
        assert_eq!(candidates, [mount.path().join("a/b"), mount.path().join("a")]);
    }

    #[test]
    fn skips_cgroup_shared_with_other_processes() {
        // The missing control file of the last one stands for the kernel's refusal to write to it.
        let (mount, cgroup) =
            cgroup_tree(&[("a", "memory", ""), ("a/b", "cpu", ""), ("a/b/shell.scope", "", "1\n2\n")]);
        let candidates: Vec<_> = parent_candidates(&cgroup).collect();
        assert_eq!(candidates, [mount.path().join("a")]);
        assert!(!cgroup.path.join(LEAF).exists());
    }

    #[test]
    fn leaves_no_leaf_without_controllers() {
        let (_mount, cgroup) = cgroup_tree(&[("a", "", &process::id().to_string())]);
        assert_eq!(parent_candidates(&cgroup).count(), 0);
        assert!(!cgroup.path.join(LEAF).exists());
    }
}
