//! The directory of records: a file of JSON for each resource, named by its number.
//!
//! A record is written beside its place and renamed, so that it is there as a whole or not at all when the daemon is
//! killed. There is no wait for the disk: a crash of the host may lose records, and ends nearly all that they describe.
//!
//! An update is appended as a line of its own, and the last line that is whole counts. To rename a new file over the
//! record would cost milliseconds on ext4, which then allocates the blocks of the new file and writes them at once.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
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

    /// Writes a record.
    pub fn write(&self, number: u64, record: &Record) -> io::Result<()> {
        file::replace(&self.path(number), &line(record)?)
    }

    /// Appends a later version to a record that exists.
    pub fn update(&self, number: u64, record: &Record) -> io::Result<()> {
        OpenOptions::new().append(true).open(self.path(number))?.write_all(&line(record)?)
    }

    /// Removes a record.
    pub fn remove(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.path(number))
    }

    /// Reads all records. Removes the temporary files of a daemon that was killed.
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
                    Ok(record) => contents.records.push((number, record)),
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

/// Reads the last version of one record, or says why it cannot be understood.
fn read(path: &Path) -> io::Result<Result<Record, String>> {
    let file = file::open_regular(path, OpenOptions::new().read(true))?;
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text)?;
    // No part of an object is an object: an update that was not finished does not parse.
    let mut parsed = text.split(|byte| *byte == b'\n').rev().map(serde_json::from_slice);
    let record = parsed.find(Result::is_ok).unwrap_or_else(|| serde_json::from_slice(&text));
    Ok(record.map_err(|error| format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
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
        }
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
    fn truncated_record_is_damaged_and_truncated_update_is_ignored() {
        let (_home, records) = directory();
        records.write(1, &container("a")).unwrap();
        let whole = fs::read(records.path(1)).unwrap();
        for length in 0..whole.len() - 1 {
            fs::write(records.path(1), &whole[..length]).unwrap();
            let contents = records.read().unwrap();
            assert_eq!((contents.records.len(), contents.damaged.len()), (0, 1), "{length}");
        }
        for length in 0..whole.len() - 1 {
            fs::write(records.path(1), [&whole, &whole[..length]].concat()).unwrap();
            assert_eq!(records.read().unwrap().records, [(1, container("a"))], "{length}");
            records.update(1, &container("lost")).unwrap();
            records.update(1, &container("b")).unwrap();
            assert_eq!(records.read().unwrap().records, [(1, container("b"))], "{length}");
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
