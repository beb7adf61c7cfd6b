//! What has been changed on this host, written down before it is: by the daemon that does it, for itself when it ends
//! and for the next one if it cannot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{fence::Mark, subnet::Subnet};

const SUBNET: &str = "subnet";
const UPLINKS: &str = "uplinks";

/// A directory of one daemon, and the mark that belongs to it.
#[derive(Debug, Clone)]
pub struct Record {
    /// On everything in the network that is this daemon's.
    pub mark: Mark,
    /// Exists as long as there may be anything.
    pub directory: PathBuf,
}

impl Record {
    /// The range that is, or was about to be, reserved.
    pub fn subnet(&self) -> Option<Subnet> {
        fs::read_to_string(self.file(SUBNET)).ok()?.parse().ok()
    }

    pub fn write_subnet(&self, subnet: Subnet) -> io::Result<()> {
        fs::write(self.file(SUBNET), subnet.to_string())
    }

    /// Interfaces on which forwarding was, or was about to be, switched on.
    pub fn uplinks(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file(UPLINKS)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn write_uplinks(&self, uplinks: &[String]) -> io::Result<()> {
        fs::write(self.file(UPLINKS), uplinks.join("\n"))
    }

    /// Strikes out everything.
    pub fn clear(&self) {
        for file in [SUBNET, UPLINKS] {
            let _ = fs::remove_file(self.file(file));
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.directory).join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_again_until_struck_out() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record { mark: Mark::new(8), directory: directory.path().to_owned() };
        assert_eq!((record.subnet(), record.uplinks()), (None, vec![]));
        record.write_subnet("10.100.0.0/16".parse().unwrap()).unwrap();
        record.write_uplinks(&["eth0".to_owned(), "wlan0.7".to_owned()]).unwrap();
        assert_eq!(record.subnet().unwrap().to_string(), "10.100.0.0/16");
        assert_eq!(record.uplinks(), ["eth0", "wlan0.7"]);
        record.clear();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
