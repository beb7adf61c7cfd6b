//! Freezes the processes of a cgroup: they use no processor until they are thawed.
//!
//! A frozen process can be killed under version 2, and not under version 1: whatever ends an instance thaws it first.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::controller::{Controls, write};
use crate::sandbox::pause_deadline::PauseDeadline;

const V1_STATE: &str = "freezer.state";
const V2_FREEZE: &str = "cgroup.freeze";
const V2_EVENTS: &str = "cgroup.events";

/// The control files by which the processes of a cgroup are frozen. The cgroup must not be removed or reused meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezer {
    directory: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Freezer {
    /// Returns the freezer of a directory. `None`: its hierarchy has none, as that of version 2 before Linux 5.2.
    pub(super) fn of(controls: Controls, directory: &Path) -> Option<Self> {
        let (version, file) = match controls {
            Controls::V1Freezer => (Version::V1, V1_STATE),
            Controls::V2 => (Version::V2, V2_FREEZE),
            Controls::V1Memory | Controls::V1Pids | Controls::V1Cpu => return None,
        };
        directory.join(file).exists().then(|| Self { directory: directory.to_owned(), version })
    }

    /// Returns whether this daemon may use it.
    pub(super) fn is_writable(&self) -> bool {
        access(self.control(), Access::WRITE_OK).is_ok()
    }

    /// Starts to freeze the processes.
    ///
    /// # Errors
    /// Returns the error of the write.
    pub fn freeze(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => write(&self.control(), "FROZEN"),
            Version::V2 => write(&self.control(), "1"),
        }
    }

    /// Thaws the processes.
    ///
    /// # Errors
    /// Returns the error of the write.
    pub fn thaw(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => write(&self.control(), "THAWED"),
            Version::V2 => write(&self.control(), "0"),
        }
    }

    fn control(&self) -> PathBuf {
        let file = match self.version {
            Version::V1 => V1_STATE,
            Version::V2 => V2_FREEZE,
        };
        self.directory.join(file)
    }

    /// Waits until all processes are frozen.
    ///
    /// # Errors
    /// Says that it takes too long, or returns the error of a read.
    pub async fn frozen(&self) -> io::Result<()> {
        let mut deadline = PauseDeadline::start();
        while !self.is_frozen()? {
            deadline.next_look("frozen").await?;
        }
        Ok(())
    }

    fn is_frozen(&self) -> io::Result<bool> {
        Ok(match self.version {
            Version::V1 => fs::read_to_string(self.directory.join(V1_STATE))?.trim() == "FROZEN",
            Version::V2 => fs::read_to_string(self.directory.join(V2_EVENTS))?.lines().any(|line| line == "frozen 1"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        files.iter().for_each(|(file, text)| fs::write(directory.path().join(file), text).unwrap());
        directory
    }

    #[tokio::test(start_paused = true)]
    async fn writes_and_reads_the_files_of_version_1() {
        let directory = directory(&[(V1_STATE, "THAWED\n")]);
        let read = || fs::read_to_string(directory.path().join(V1_STATE)).unwrap();
        assert_eq!(Freezer::of(Controls::V1Memory, directory.path()), None);
        assert_eq!(Freezer::of(Controls::V2, directory.path()), None, "a kernel without it");
        let freezer = Freezer::of(Controls::V1Freezer, directory.path()).unwrap();
        assert!(!freezer.is_frozen().unwrap());
        freezer.freeze().unwrap();
        assert_eq!(read(), "FROZEN\n");
        freezer.frozen().await.unwrap();
        freezer.thaw().unwrap();
        assert!(read().starts_with("THAWED"));
        fs::write(directory.path().join(V1_STATE), "FREEZING\n").unwrap();
        assert_eq!(freezer.frozen().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn writes_and_reads_the_files_of_version_2() {
        let directory = directory(&[(V2_FREEZE, "0\n"), (V2_EVENTS, "populated 1\nfrozen 0\n")]);
        let read = || fs::read_to_string(directory.path().join(V2_FREEZE)).unwrap();
        let freezer = Freezer::of(Controls::V2, directory.path()).unwrap();
        freezer.freeze().unwrap();
        assert_eq!(read(), "1\n");
        assert!(!freezer.is_frozen().unwrap());
        fs::write(directory.path().join(V2_EVENTS), "populated 1\nfrozen 1\n").unwrap();
        freezer.frozen().await.unwrap();
        freezer.thaw().unwrap();
        assert_eq!(read(), "0\n");
        fs::remove_file(directory.path().join(V2_EVENTS)).unwrap();
        assert_eq!(freezer.frozen().await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
