//! The file of the journal: what this daemon has made outside of itself, and has not given back yet.
//!
//! Lines are added without a wait for the disk: they are there when the daemon dies, which is what they are for. They may be
//! lost when the host dies, and so is nearly all that they speak of. When the file has grown it is written anew, without
//! what was struck out. Who writes, and when, is in `journal.rs`; what the lines look like in `record.rs`.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::record::{Line, Origin, Resource};

/// The file grows by so much before it is written anew, in bytes: enough that this costs nothing on average, too little
/// for it to be long.
const GROWTH: u64 = 128 * 1024;

/// The file, and what it says.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
    origin: Origin,
    /// All that is not struck out.
    resources: BTreeMap<u64, Resource>,
    /// Of the file, up to its last whole line.
    length: u64,
    /// The length at which it is written anew.
    most: u64,
    /// What the file says is not what `resources` says: a line was torn, or could not be written.
    behind: bool,
}

/// Something that is to be written down.
#[derive(Debug)]
pub enum Change {
    /// It is about to be made.
    Record { number: u64, resource: Resource },
    /// More is known of it.
    Update { number: u64, resource: Resource },
    /// It is no more.
    Remove { number: u64 },
}

impl Change {
    fn line(&self) -> Line {
        match self {
            Change::Record { number, resource } | Change::Update { number, resource } => {
                Line::Enter { number: *number, resource: resource.clone() }
            }
            Change::Remove { number } => Line::Strike { number: *number },
        }
    }
}

impl JournalFile {
    /// A file that says what `resources` says, in place of the one that is there.
    pub fn begin(path: PathBuf, origin: Origin, resources: BTreeMap<u64, Resource>) -> io::Result<Self> {
        let (file, length) = write_anew(&path, &origin, &resources)?;
        Ok(Self { path, file, origin, resources, length, most: length + GROWTH, behind: false })
    }

    /// Writes changes down, all of them or none. When that fails nothing is entered; amendments and strikes are true
    /// all the same, and made up for later.
    pub fn write(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let written = self.append(&changes);
        self.behind |= written.is_err();
        for change in changes {
            match change {
                Change::Record { .. } if written.is_err() => {}
                Change::Record { number, resource } | Change::Update { number, resource } => {
                    self.resources.insert(number, resource);
                }
                Change::Remove { number } => {
                    self.resources.remove(&number);
                }
            }
        }
        written
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        if self.behind || self.length > self.most {
            self.catch_up()?;
        }
        let mut lines = Vec::new();
        changes.iter().for_each(|change| change.line().append_to(&mut lines));
        self.file.write_all(&lines)?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Writes the file anew; where there is no space for that, at least takes back what was torn.
    fn catch_up(&mut self) -> io::Result<()> {
        match write_anew(&self.path, &self.origin, &self.resources) {
            Ok((file, length)) => {
                (self.file, self.length, self.most, self.behind) = (file, length, length + GROWTH, false);
                Ok(())
            }
            Err(_) => self.file.set_len(self.length),
        }
    }
}

fn write_anew(path: &Path, origin: &Origin, resources: &BTreeMap<u64, Resource>) -> io::Result<(File, u64)> {
    let mut text = Vec::new();
    Line::Daemon(origin.clone()).append_to(&mut text);
    for (number, resource) in resources {
        Line::Enter { number: *number, resource: resource.clone() }.append_to(&mut text);
    }
    let beside = path.with_extension("new");
    let write = || {
        let mut file = super::open(&beside, OpenOptions::new().append(true).create(true).mode(0o600))?;
        file.set_len(0)?;
        file.write_all(&text)?;
        fs::rename(&beside, path)?;
        Ok((file, text.len() as u64))
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::{super::record::Replay, *};
    use crate::state::is_full;

    struct Rig {
        file: JournalFile,
        next: u64,
        directory: tempfile::TempDir,
    }

    fn origin() -> Origin {
        Origin { boot: "b".to_owned(), pids: 1, network: 2 }
    }

    fn resource(name: &str) -> Resource {
        Resource::Container { engine: String::new(), name: name.to_owned() }
    }

    impl Rig {
        fn new(resources: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let resources: BTreeMap<u64, Resource> = (0..).zip(resources.iter().map(|name| resource(name))).collect();
            let next = resources.len() as u64;
            let file = JournalFile::begin(directory.path().join("journal"), origin(), resources).unwrap();
            Self { file, next, directory }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("journal")
        }

        fn enter(&mut self, name: &str) -> io::Result<u64> {
            let number = self.next;
            self.next += 1;
            self.file.write(vec![Change::Record { number, resource: resource(name) }]).map(|()| number)
        }

        fn remove(&mut self, number: u64) {
            let _ = self.file.write(vec![Change::Remove { number }]);
        }

        /// The names of what the next daemon would find.
        fn found(&self) -> Vec<String> {
            let replay = Replay::of(&fs::read(self.path()).unwrap());
            assert_eq!(replay.damaged, 0);
            let name = |(from, resource)| match (from, resource) {
                (Some(from), Resource::Container { name, .. }) if from == origin() => name,
                other => panic!("{other:?}"),
            };
            replay.resources.into_values().map(name).collect()
        }

        /// What is written next meets a full disk.
        fn fill(&mut self) {
            self.file.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        }
    }

    #[test]
    fn what_is_written_down_is_found_until_it_is_struck_out() {
        let mut rig = Rig::new(&["left", "over"]);
        assert_eq!(rig.found(), ["left", "over"]);
        let a = rig.enter("a").unwrap();
        let b = rig.enter("b").unwrap();
        rig.file.write(vec![Change::Update { number: a, resource: resource("a more") }]).unwrap();
        assert_eq!(rig.found(), ["left", "over", "a more", "b"]);
        rig.file.write(vec![Change::Remove { number: b }, Change::Remove { number: 0 }]).unwrap();
        assert_eq!(rig.found(), ["over", "a more"]);
    }

    #[test]
    fn the_file_does_not_grow_with_what_is_over() {
        let mut rig = Rig::new(&["kept"]);
        let long = "x".repeat(100);
        for _ in 0..10_000 {
            let number = rig.enter(&long).unwrap();
            rig.remove(number);
            assert!(fs::metadata(rig.path()).unwrap().len() < GROWTH + 1000);
        }
        assert_eq!(rig.found(), ["kept"]);
        assert_eq!(fs::read_dir(rig.directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn many_things_at_once_are_all_kept_when_it_is_written_anew() {
        let mut rig = Rig::new(&[]);
        let names: Vec<String> = (0..5000).map(|number| format!("{number:0>30}")).collect();
        for name in &names {
            rig.enter(name).unwrap();
        }
        assert_eq!(rig.found(), names);
    }

    #[test]
    fn on_a_full_disk_nothing_is_entered_and_all_is_well_when_there_is_space_again() {
        let mut rig = Rig::new(&["kept"]);
        rig.fill();
        assert!(is_full(&rig.enter("a").unwrap_err()));
        let b = rig.enter("b").unwrap();
        rig.remove(b);
        rig.enter("c").unwrap();
        assert_eq!(rig.found(), ["kept", "c"]);
    }

    #[test]
    fn a_strike_that_could_not_be_written_is_made_up_for() {
        let mut rig = Rig::new(&["gone", "kept"]);
        rig.fill();
        rig.remove(0);
        assert_eq!(rig.found(), ["gone", "kept"]);
        rig.enter("next").unwrap();
        assert_eq!(rig.found(), ["kept", "next"]);
    }

    #[test]
    fn a_line_that_was_torn_is_cut_off_when_there_is_no_space_for_another_file() {
        let mut rig = Rig::new(&["kept"]);
        let mut file = OpenOptions::new().append(true).open(rig.path()).unwrap();
        file.write_all(b"{\"strike\":{\"num").unwrap();
        rig.file.behind = true;
        // In the place of the new file is something that is none.
        fs::create_dir(rig.path().with_extension("new")).unwrap();
        rig.enter("next").unwrap();
        assert_eq!(rig.found(), ["kept", "next"]);
    }

    #[test]
    fn what_cannot_be_written_to_at_all_says_so_and_not_that_it_is_full() {
        let mut rig = Rig::new(&[]);
        rig.fill();
        fs::remove_dir_all(rig.directory.path()).unwrap();
        assert!(is_full(&rig.enter("a").unwrap_err()));
        assert!(!is_full(&rig.enter("b").unwrap_err()));
    }
}
