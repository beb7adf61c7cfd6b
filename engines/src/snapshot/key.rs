//! The key of a snapshot: a hash of everything that it depends on. What has changed has another key, so a snapshot is never
//! restored into something else.

use std::{
    fmt, fs,
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::OnceLock,
};

use nix::sys::utsname::uname;
use ring::digest::{Context, SHA256};

/// Version of the files of a snapshot, and of the way in which keys are made.
const FORMAT: &str = "2";
/// Hexadecimal digits of a key.
const DIGITS: usize = 32;
/// The lines about a processor on which a saved machine depends.
const CPU_LINES: [&str; 7] = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"];

/// The key of a snapshot, as its directory is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotKey(String);

impl SnapshotKey {
    /// Returns the key that a directory is named by.
    pub fn parse(name: &str) -> Option<Self> {
        let is_key = name.len() == DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_key.then(|| Self(name.to_owned()))
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells files apart, and the states of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp([u64; 7]);

impl From<&fs::Metadata> for FileStamp {
    fn from(it: &fs::Metadata) -> Self {
        let times = [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()].map(i64::cast_unsigned);
        let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
        Self([it.dev(), it.ino(), it.size(), mtime, mtime_nsec, ctime, ctime_nsec])
    }
}

impl FileStamp {
    /// Returns the stamp of a file's content: names that come and go do not change it.
    pub fn of_content(metadata: &fs::Metadata) -> Self {
        let [device, inode, size, mtime, mtime_nsec, ..] = Self::from(metadata).0;
        Self([device, inode, size, mtime, mtime_nsec, 0, 0])
    }
}

/// Makes a key.
pub struct KeyBuilder(Context);

impl KeyBuilder {
    /// Begins with what every snapshot of this host depends on.
    pub fn of_host() -> Self {
        let mut builder = Self(Context::new(&SHA256));
        builder.text("format", FORMAT);
        builder.text("host", host());
        builder
    }

    /// Adds a value.
    pub fn text(&mut self, label: &str, value: &str) {
        // With the lengths, different sequences of values never have the same bytes.
        for part in [label, value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part.as_bytes());
        }
    }

    /// Adds the path and the state of a file.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn file(&mut self, label: &str, path: &Path) -> io::Result<()> {
        let FileStamp(stamp) = FileStamp::from(&fs::metadata(path)?);
        self.text(label, &path.to_string_lossy());
        stamp.iter().for_each(|number| self.0.update(&number.to_le_bytes()));
        Ok(())
    }

    /// Returns the key.
    pub fn finish(self) -> SnapshotKey {
        let mut key = hex(self.0.finish().as_ref());
        key.truncate(DIGITS);
        SnapshotKey(key)
    }
}

/// Returns bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the kernel and the processor of this host.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let kernel = uname().map_or_else(
            |_| String::new(),
            |name| format!("{} {}", name.release().display(), name.version().display()),
        );
        let cpu = fs::File::open("/proc/cpuinfo").map(|file| cpu(BufReader::new(file))).unwrap_or_default();
        format!("{kernel}\n{cpu}")
    })
}

/// Returns what `/proc/cpuinfo` says of the first processor, without what changes while the host runs.
fn cpu(text: impl BufRead) -> String {
    let lines = text.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let stays = |line: &String| line.split(':').next().is_some_and(|label| CPU_LINES.contains(&label.trim()));
    lines.filter(stays).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[(&str, &str)]) -> SnapshotKey {
        let mut builder = KeyBuilder::of_host();
        values.iter().for_each(|(label, value)| builder.text(label, value));
        builder.finish()
    }

    #[test]
    fn same_values_have_the_same_key_and_others_do_not() {
        let values = [("memory", "32"), ("cpus", "1")];
        let same = key(&values);
        assert_eq!(same, key(&values));
        assert_eq!(SnapshotKey::parse(&same.to_string()), Some(same.clone()));
        let others: [&[(&str, &str)]; 5] = [
            &[("memory", "33"), ("cpus", "1")],
            &[("cpus", "1"), ("memory", "32")],
            &[("memory", "32")],
            &[("memory", "32cpus"), ("", "1")],
            &[("memory", "3"), ("2", "cpus1")],
        ];
        assert!(others.iter().all(|other| key(other) != same));
    }

    #[test]
    fn only_names_of_keys_are_keys() {
        for name in
            ["", "identity", &"a".repeat(31), &"A".repeat(32), &"a".repeat(33), &format!("{}.new", "a".repeat(32))]
        {
            assert_eq!(SnapshotKey::parse(name), None, "{name}");
        }
    }

    #[test]
    fn changed_or_replaced_file_has_another_key() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kernel");
        let key = || {
            let mut builder = KeyBuilder::of_host();
            builder.file("kernel", &path).map(|()| builder.finish())
        };
        assert!(key().is_err());
        fs::write(&path, "one").unwrap();
        let first = key().unwrap();
        assert_eq!(key().unwrap(), first);
        fs::write(place.path().join("other"), "one").unwrap();
        fs::rename(place.path().join("other"), &path).unwrap();
        let second = key().unwrap();
        fs::write(&path, "longer").unwrap();
        assert!(first != second && second != key().unwrap());
    }

    #[test]
    fn processor_is_described_without_what_changes() {
        let text =
            "processor\t: 0\nvendor_id\t: A\nmodel\t\t: 1\ncpu MHz\t\t: 1234.5\nflags\t\t: fpu\n\nvendor_id\t: B\n";
        assert_eq!(cpu(text.as_bytes()), "vendor_id\t: A\nmodel\t\t: 1\nflags\t\t: fpu");
        assert!(host().contains("flags"), "{}", host());
    }
}
