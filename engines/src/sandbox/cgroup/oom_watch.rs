//! Watches whether memory runs out in a cgroup that another program made, and removes as soon as its process has exited.

use std::{
    fs::{self, File},
    io::Read,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{net::unix::pipe, task};

use super::{container_directory, controller::oom_kills, locate::Layout};

/// A process, and the file that counts the OOM kills of its cgroup.
struct OomWatch {
    /// A pidfd. It is readable once the process has exited, which is all that is asked of it.
    process: pipe::Receiver,
    counter: File,
}

/// Waits until the first process of a container has exited. Returns whether the OOM killer had ended a process of the
/// container's cgroup. `None`, at once, where that cannot be seen: the process has exited already, or is not of this host.
///
/// # Panics
/// Outside of a Tokio runtime.
pub async fn ran_out_of_memory(pid: u32, container: String) -> Option<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let process = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    // By now, the PID is not reused unless the process has exited.
    let counter = task::spawn_blocking(move || counter_of(pid, &container)).await.ok()??;
    let process = pipe::Receiver::from_owned_fd_unchecked(process).ok()?;
    OomWatch { process, counter }.exited().await
}

/// Returns how many processes the OOM killer of this host has ended, in any cgroup.
pub fn host_oom_kills() -> u64 {
    fs::read_to_string("/proc/vmstat").map_or(0, |text| oom_kills(&text))
}

fn counter_of(pid: Pid, container: &str) -> Option<File> {
    let layout = Layout::of_process(pid.as_raw_nonzero().get()).ok()??;
    File::open(container_directory(layout, container)?.oom_kills_file()?).ok()
}

impl OomWatch {
    async fn exited(mut self) -> Option<bool> {
        let mut text = String::new();
        // The file cannot be read once the cgroup is removed.
        let read = self.process.readable().await.and_then(|()| self.counter.read_to_string(&mut text));
        read.is_ok().then(|| oom_kills(&text) > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Command};

    use super::*;

    #[tokio::test]
    async fn counter_is_read_when_the_process_has_exited() {
        for (text, is_out_of_memory) in [("oom_kill_disable 0\noom_kill 1\n", true), ("oom 1\noom_kill 0\n", false)] {
            let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
            let pid = Pid::from_child(&child);
            let process = pidfd_open(pid, PidfdFlags::NONBLOCK).unwrap();
            let process = pipe::Receiver::from_owned_fd_unchecked(process).unwrap();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let watch = OomWatch { process, counter: file.reopen().unwrap() };
            let exited = tokio::spawn(watch.exited());
            file.write_all(text.as_bytes()).unwrap();
            drop(child.stdin.take());
            assert_eq!(exited.await.unwrap(), Some(is_out_of_memory));
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn cgroup_of_another_name_does_not_count() {
        let pid = std::process::id();
        // Resolves at once, though the process runs.
        assert_eq!(ran_out_of_memory(pid, "no-such-name".to_owned()).await, None);
        assert_eq!(ran_out_of_memory(0, String::new()).await, None);
    }
}
