//! Version 2 only: finding a directory whose children can be given a memory limit.
//!
//! Controllers are passed on by `cgroup.subtree_control`, and (but for the root) only by a cgroup without processes of
//! its own. So the daemon's own cgroup serves only when the daemon may first move out of it, into a leaf.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use super::{group::write, locate::CgroupDir};

/// Where a daemon goes that has a cgroup for itself alone.
const LEAF: &str = "unifaas-daemon";
/// The controller without which there is no point.
const MEMORY: &str = "memory";

/// Directories in which instances can be limited, the best first; taking the first can move the daemon into a leaf.
pub fn homes(place: &CgroupDir) -> impl Iterator<Item = PathBuf> {
    let above = place.own.ancestors().skip(1).take_while(|directory| directory.starts_with(&place.mount));
    let own = Some(place.own.as_path()).filter(|own| has_controller(own, MEMORY) || settle(own).is_ok());
    own.into_iter().chain(above.filter(|directory| has_controller(directory, MEMORY))).map(Path::to_owned)
}

/// Lets the children of `directory` limit memory and, where possible, the number of processes.
pub fn enable_controllers(directory: &Path) -> io::Result<()> {
    let control = directory.join("cgroup.subtree_control");
    write(&control, "+memory")?;
    let _ = write(&control, "+pids");
    Ok(())
}

/// Whether the children of `directory` have that controller.
pub fn has_controller(directory: &Path, controller: &str) -> bool {
    fs::read_to_string(directory.join("cgroup.subtree_control"))
        .is_ok_and(|controllers| controllers.split_whitespace().any(|one| one == controller))
}

/// Makes the daemon's own cgroup pass on its controllers.
fn settle(own: &Path) -> io::Result<()> {
    let Err(refused) = enable_controllers(own) else { return Ok(()) };
    let procs = own.join("cgroup.procs");
    let pid = process::id().to_string();
    if fs::read_to_string(&procs)?.split_whitespace().ne([pid.as_str()]) {
        return Err(refused);
    }
    let leaf = own.join(LEAF);
    // A daemon that was killed has left it.
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

    /// Directories with files as the kernel would show them: (path, passes on, members).
    fn tree(directories: &[(&str, &str, &str)]) -> (tempfile::TempDir, CgroupDir) {
        let mount = tempfile::tempdir().unwrap();
        let mut own = PathBuf::new();
        for (path, has_controller, members) in directories {
            own = mount.path().join(path);
            fs::create_dir_all(&own).unwrap();
            fs::write(own.join("cgroup.procs"), members).unwrap();
            if !has_controller.is_empty() {
                fs::write(own.join("cgroup.subtree_control"), has_controller).unwrap();
            }
        }
        let place = CgroupDir { mount: mount.path().to_owned(), own };
        (mount, place)
    }

    #[test]
    fn the_own_cgroup_is_the_best_home_when_it_passes_memory_on() {
        let (mount, place) = tree(&[("a", "memory pids", "1\n"), ("a/b", "cpu memory", "")]);
        let homes: Vec<_> = homes(&place).collect();
        assert_eq!(homes, [mount.path().join("a/b"), mount.path().join("a")]);
    }

    #[test]
    fn a_cgroup_shared_with_others_is_left_alone_and_the_nearest_above_serves() {
        // The missing control file of the last one stands for the kernel's refusal to write to it.
        let (mount, place) = tree(&[("a", "memory", ""), ("a/b", "cpu", ""), ("a/b/shell.scope", "", "1\n2\n")]);
        let homes: Vec<_> = homes(&place).collect();
        assert_eq!(homes, [mount.path().join("a")]);
        assert!(!place.own.join(LEAF).exists());
    }

    #[test]
    fn controllers_that_stay_out_of_reach_leave_no_leaf() {
        let (_mount, place) = tree(&[("a", "", &process::id().to_string())]);
        assert_eq!(homes(&place).count(), 0);
        assert!(!place.own.join(LEAF).exists());
    }
}
