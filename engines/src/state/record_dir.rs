//! The directory of records: a file of JSON for each resource, named by its number.
//!
//! The first line of a file is the record. A new file is written beside its place and renamed, so that it is there as a
//! whole or not at all when the daemon is killed. There is no wait for the disk: a crash of the host may lose records, and
//! ends nearly all that they describe.
//!
//! A file that exists is written over in place, also for another resource: an empty first line says that the resource was
//! released. ext4 is slow to give a new file the inode of a file removed in the last seconds, and writes a file at once
//! that is renamed over another one. Within a page, the kernel carries out a write of a killed daemon as a whole or
//! not at all; what is longer replaces its file.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::StateError,
    file::{self, TEMPORARY},
    resource::Record,
};

/// The extension of records.
const EXTENSION: &str = "json";
/// The largest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 10;
/// The smallest page of any processor, in bytes.
const PAGE: usize = 4096;
/// The file of a released resource begins with it.
const RELEASED: &[u8] = b"\n";
const MODE: u32 = 0o700;

/// The directory. Clones are the same one.
#[derive(Debug, Clone)]
pub struct RecordDir(Arc<Path>);

/// What the directory contains.
#[derive(Debug, Default)]
pub struct Contents {
    /// Ordered by number.
    pub records: Vec<(u64, Record)>,
    /// Records that cannot be understood, by number, with the reason.
    pub damaged: Vec<(u64, String)>,
    /// Names of files that are no records. They are left alone.
    pub foreign: Vec<PathBuf>,
}

impl Contents {
    /// Returns the highest number of a file in use.
    pub fn max_number(&self) -> Option<u64> {
        let records = self.records.iter().map(|(number, _)| *number);
        records.chain(self.damaged.iter().map(|(number, _)| *number)).max()
    }
}

impl RecordDir {
    /// Opens the directory, or creates it. Also returns whether it was there.
    pub fn open(path: PathBuf) -> io::Result<(Self, bool)> {
        match DirBuilder::new().mode(MODE).create(&path) {
            Ok(()) => Ok((Self(path.into()), false)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match path.symlink_metadata()?.is_dir() {
                true => Ok((Self(path.into()), true)),
                false => Err(io::Error::other("it is no directory")),
            },
            Err(error) => Err(error),
        }
    }

    /// Returns the path of a record.
    pub fn path(&self, number: u64) -> PathBuf {
        self.0.join(format!("{number}.{EXTENSION}"))
    }

    /// Writes a record, to a new file or to that of a released resource.
    pub fn write(&self, number: u64, record: &Record) -> io::Result<()> {
        let (path, line) = (self.path(number), line(record)?);
        match write_in_place(&path, &line) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => file::replace(&path, &line),
            result => result,
        }
    }

    /// Replaces a record that exists by a later version.
    pub fn update(&self, number: u64, record: &Record) -> io::Result<()> {
        write_in_place(&self.path(number), &line(record)?)
    }

    /// Marks the resource as released. Its file remains for another one.
    pub fn release(&self, number: u64) -> io::Result<()> {
        write_in_place(&self.path(number), RELEASED)
    }

    /// Removes a record.
    pub fn remove(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.path(number))
    }

    /// Reads all records. Removes the temporary files of a daemon that was killed, and the files of released resources.
    ///
    /// # Errors
    /// When a file cannot be read, or is in the place of a record and no regular file.
    pub fn read(&self) -> Result<Contents, StateError> {
        let mut contents = Contents::default();
        let error = |path: &Path, source| StateError::Io { path: path.to_owned(), source };
        for entry in fs::read_dir(&self.0).map_err(|source| error(&self.0, source))? {
            let path = entry.map_err(|source| error(&self.0, source))?.path();
            match (number(&path), path.extension().and_then(OsStr::to_str)) {
                (Some(number), Some(EXTENSION)) => match read(&path).map_err(|source| error(&path, source))? {
                    Ok(Some(record)) => contents.records.push((number, record)),
                    Ok(None) => fs::remove_file(&path).map_err(|source| error(&path, source))?,
                    Err(reason) => contents.damaged.push((number, reason)),
                },
                (Some(_), Some(TEMPORARY)) => fs::remove_file(&path).map_err(|source| error(&path, source))?,
                _ => contents.foreign.push(path),
            }
        }
        contents.records.sort_unstable_by_key(|(number, _)| *number);
        Ok(contents)
    }
}

/// Returns the number in the name of a record.
fn number(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    let number: u64 = stem.parse().ok()?;
    // The only spelling that the daemon writes.
    (number.to_string() == stem).then_some(number)
}

/// Returns a record as a line of JSON.
fn line(record: &Record) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes `line` over the beginning of a file, after which its first line is the new one.
fn write_in_place(path: &Path, line: &[u8]) -> io::Result<()> {
    let file = file::open_regular(path, OpenOptions::new().write(true))?;
    if line.len() <= PAGE { file.write_all_at(line, 0) } else { file::replace(path, line) }
}

/// Reads one record, or says why it cannot be understood. `None`: the resource was released.
fn read(path: &Path) -> io::Result<Result<Option<Record>, String>> {
    let file = file::open_regular(path, OpenOptions::new().read(true))?;
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text)?;
    if text.starts_with(RELEASED) {
        return Ok(Ok(None));
    }
    // No part of an object is an object: a truncated record does not parse.
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let record = serde_json::from_slice(first).map(Some);
    Ok(record.map_err(|error| format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::{
        super::resource::{Origin, ProcessTree, Resource, SessionLeader},
        *,
    };

    fn record(resource: Resource) -> Record {
        Record { origin: Origin { boot: "b".to_owned(), pids: 1, network: 2 }, resource }
    }

    fn container(name: &str) -> Record {
        record(Resource::Container { engine: "unix:///x".to_owned(), name: name.to_owned() })
    }

    fn directory() -> (tempfile::TempDir, RecordDir) {
        let home = tempfile::tempdir().unwrap();
        let (records, existed) = RecordDir::open(home.path().join("resources")).unwrap();
        assert!(!existed);
        (home, records)
    }

    #[test]
    fn form_of_each_record_stays_as_it_is() {
        let leader = Some(SessionLeader { pid: 77, after: 7, before: 8 });
        let tree = |leader| Resource::Process(ProcessTree { instance: "00000000000000ab".to_owned(), leader });
        let (_home, records) = directory();
        for (resource, expected) in [
            (tree(None), r#"{"process":{"instance":"00000000000000ab","leader":null}}"#),
            (tree(leader), r#"{"process":{"instance":"00000000000000ab","leader":{"pid":77,"after":7,"before":8}}}"#),
            (
                Resource::Container { engine: "unix:///x".to_owned(), name: "a\n\"b".to_owned() },
                r#"{"container":{"engine":"unix:///x","name":"a\n\"b"}}"#,
            ),
            (
                Resource::Cgroups { hierarchy: "memory".to_owned(), path: "/x y".to_owned() },
                r#"{"cgroups":{"hierarchy":"memory","path":"/x y"}}"#,
            ),
            (
                Resource::Network { mark: 8, subnet: "10.0.0.0/8".to_owned() },
                r#"{"network":{"mark":8,"subnet":"10.0.0.0/8"}}"#,
            ),
            (Resource::Forwarding { interface: "eth0".to_owned() }, r#"{"forwarding":{"interface":"eth0"}}"#),
        ] {
            records.write(1, &record(resource.clone())).unwrap();
            let text = fs::read_to_string(records.path(1)).unwrap();
            assert_eq!(
                text,
                format!(r#"{{"origin":{{"boot":"b","pids":1,"network":2}},"resource":{expected}}}"#) + "\n"
            );
            assert_eq!(records.read().unwrap().records, [(1, record(resource))]);
            records.remove(1).unwrap();
        }
    }

    #[test]
    fn file_of_a_released_resource_is_used_again() {
        let (_home, records) = directory();
        let inode = || fs::metadata(records.path(1)).unwrap().ino();
        records.write(1, &container("a long name")).unwrap();
        let first = inode();
        // The rest of a longer record is no part of a shorter one, nor is a released one any record.
        for name in ["b", "a longer name than the first", "c"] {
            records.release(1).unwrap();
            assert!(fs::read(records.path(1)).unwrap().len() > 1);
            records.write(1, &container(name)).unwrap();
            assert_eq!(records.read().unwrap().records, [(1, container(name))]);
        }
        assert_eq!(inode(), first);
        let large = container(&"x".repeat(PAGE));
        records.update(1, &large).unwrap();
        assert_eq!(records.read().unwrap().records, [(1, large)]);
        assert_ne!(inode(), first, "no write beyond a page is one step");

        records.release(1).unwrap();
        records.release(2).unwrap_err();
        let contents = records.read().unwrap();
        assert!(contents.records.is_empty() && contents.damaged.is_empty());
        assert!(!records.path(1).exists(), "the next daemon removes it");
    }

    #[test]
    fn reads_what_was_written_and_not_removed() {
        let (home, records) = directory();
        for number in [9, 10, 11, u64::MAX] {
            records.write(number, &container("first")).unwrap();
        }
        records.update(10, &container("second")).unwrap();
        records.update(12, &container("second")).unwrap_err();
        records.remove(11).unwrap();
        records.remove(11).unwrap_err();
        let (again, existed) = RecordDir::open(home.path().join("resources")).unwrap();
        assert!(existed);
        let contents = again.read().unwrap();
        let expected = [(9, container("first")), (10, container("second")), (u64::MAX, container("first"))];
        assert_eq!(contents.records, expected);
        assert!(contents.damaged.is_empty() && contents.foreign.is_empty());
    }

    #[test]
    fn torn_empty_and_foreign_files_cost_no_other_record() {
        let (_home, records) = directory();
        records.write(1, &container("a")).unwrap();
        let whole = fs::read(records.path(1)).unwrap();
        let long = [b"{".as_slice(), &[b' '; 1 << 17], b"}"].concat();
        let damages = [b"".as_slice(), b"\0\0\0", b"nonsense", b"{}", &long, &whole[..whole.len() - 2], b"[]"];
        for (number, damage) in (2..).zip(damages) {
            fs::write(records.path(number), damage).unwrap();
        }
        let beside = |name: &str| records.path(0).with_file_name(name);
        for foreign in ["notes.txt", "x.json", "01.json", "-1.json", "5.json~", ".json", "99999999999999999999.json"] {
            fs::write(beside(foreign), &whole).unwrap();
        }
        fs::create_dir(beside("directory")).unwrap();
        nix::unistd::mkfifo(&beside("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(beside("3.new"), "{").unwrap();

        let contents = records.read().unwrap();
        assert_eq!(contents.records, [(1, container("a"))]);
        assert_eq!((contents.damaged.len(), contents.foreign.len()), (damages.len(), 9), "{contents:?}");
        for (number, reason) in &contents.damaged {
            assert!(reason.contains(&*records.path(*number).to_string_lossy()), "{reason}");
        }
        assert!(!beside("3.new").exists() && beside("notes.txt").exists());
    }

    #[test]
    fn truncated_record_is_damaged() {
        let (_home, records) = directory();
        records.write(1, &container("a")).unwrap();
        let whole = fs::read(records.path(1)).unwrap();
        for length in 0..whole.len() - 1 {
            fs::write(records.path(1), &whole[..length]).unwrap();
            let contents = records.read().unwrap();
            assert_eq!((contents.records.len(), contents.damaged.len()), (0, 1), "{length}");
        }
    }

    #[test]
    fn refuses_what_is_no_file_in_the_place_of_a_record() {
        let (home, records) = directory();
        let path = records.path(7);
        let refused = || {
            let refused = records.read().unwrap_err().to_string();
            assert!(refused.contains(&*path.to_string_lossy()) && refused.contains("no regular file"), "{refused}");
        };
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused();
        for name in ["link", "file"] {
            let place = home.path().join(name);
            if name == "link" {
                std::os::unix::fs::symlink(records.path(0).parent().unwrap(), &place).unwrap();
            } else {
                fs::write(&place, "").unwrap();
            }
            RecordDir::open(place).unwrap_err();
        }
    }
}
