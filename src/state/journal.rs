//! The journal: what this daemon has made outside of itself, written down before it is made and struck out when it has
//! been given back.
//!
//! A line is one small write, without a wait for the disk: it is there when the daemon dies, which is what it is for. It
//! may be lost when the host dies, and so is nearly all that it speaks of.
//!
//! When the file has grown it is written anew, without what was struck out. As long as it cannot be written to, nothing
//! new may be made.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use unifaas_actors::sandbox::LaunchError;

use super::record::{Line, Origin, Thing};

/// The file grows by so much before it is written anew, in bytes: enough that this costs nothing on average, too little
/// for it to be long.
const GROWTH: u64 = 128 * 1024;

/// Why something cannot be written down, and so must not be made.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be written down in {}, so that nothing can be started: {source}", path.display())]
pub struct JournalError {
    path: PathBuf,
    source: io::Error,
}

impl JournalError {
    /// Whether it is for want of space.
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

impl From<JournalError> for LaunchError {
    fn from(error: JournalError) -> Self {
        // Neither is the function's fault.
        if error.is_full() { Self::Exhausted(error.to_string()) } else { Self::Missing(error.to_string()) }
    }
}

/// Whether it is for want of space.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Where things are written down. Clones write to the same file, from any thread.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Mutex<Book>>);

/// Something that is written down. Whoever gives it back strikes it out; if nobody does, the next daemon will look.
#[derive(Debug)]
pub struct Entry {
    journal: Journal,
    number: u64,
}

#[derive(Debug)]
struct Book {
    path: PathBuf,
    file: File,
    origin: Origin,
    /// All that is not struck out.
    things: BTreeMap<u64, Thing>,
    next: u64,
    /// Of the file, up to its last whole line.
    length: u64,
    /// The length at which it is written anew.
    most: u64,
    /// What the file says is not what `things` says: a line was torn, or could not be written.
    behind: bool,
    line: Vec<u8>,
}

impl Journal {
    /// Writes a journal that says what `things` says, in place of the one that is there. Gives the entries back.
    pub fn begin(path: PathBuf, origin: Origin, things: Vec<Thing>) -> io::Result<(Self, Vec<(Entry, Thing)>)> {
        let things: BTreeMap<u64, Thing> = (0..).zip(things).collect();
        let (file, length) = write_anew(&path, &origin, &things)?;
        let (next, most) = (things.len() as u64, length + GROWTH);
        let line = Vec::new();
        let book = Book { path, file, origin, things: things.clone(), next, length, most, behind: false, line };
        let journal = Self(Arc::new(Mutex::new(book)));
        let entry = |number| Entry { journal: journal.clone(), number };
        let entries = things.into_iter().map(|(number, thing)| (entry(number), thing)).collect();
        Ok((journal, entries))
    }

    /// Writes down what is about to be made.
    pub fn enter(&self, thing: Thing) -> Result<Entry, JournalError> {
        let mut book = self.lock();
        let number = book.next;
        book.write(Line::Enter { number, thing: thing.clone() })
            .map_err(|source| JournalError { path: book.path.clone(), source })?;
        book.next += 1;
        book.things.insert(number, thing);
        Ok(Entry { journal: self.clone(), number })
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Writes down what more is known by now. What was known before is enough to find it again, so that this may fail.
    pub fn amend(&self, thing: Thing) {
        let mut book = self.journal.lock();
        book.behind |= book.write(Line::Enter { number: self.number, thing: thing.clone() }).is_err();
        book.things.insert(self.number, thing);
    }

    /// It is no more. Where that cannot be written down, the next daemon looks for it in vain.
    pub fn strike(self) {
        let mut book = self.journal.lock();
        book.things.remove(&self.number);
        book.behind |= book.write(Line::Strike { number: self.number }).is_err();
    }
}

impl Book {
    fn write(&mut self, line: Line) -> io::Result<()> {
        if self.behind || self.length > self.most {
            self.catch_up()?;
        }
        self.line.clear();
        line.append_to(&mut self.line);
        match self.file.write_all(&self.line) {
            Ok(()) => {
                self.length += self.line.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.behind = true;
                Err(error)
            }
        }
    }

    /// Writes the file anew; where there is no space for that, at least takes back what was torn.
    fn catch_up(&mut self) -> io::Result<()> {
        match write_anew(&self.path, &self.origin, &self.things) {
            Ok((file, length)) => {
                (self.file, self.length, self.most, self.behind) = (file, length, length + GROWTH, false);
                Ok(())
            }
            Err(_) => self.file.set_len(self.length),
        }
    }
}

fn write_anew(path: &Path, origin: &Origin, things: &BTreeMap<u64, Thing>) -> io::Result<(File, u64)> {
    let mut text = Vec::new();
    Line::Daemon(origin.clone()).append_to(&mut text);
    for (number, thing) in things {
        Line::Enter { number: *number, thing: thing.clone() }.append_to(&mut text);
    }
    let beside = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&beside)?;
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

    struct Rig {
        journal: Journal,
        directory: tempfile::TempDir,
    }

    fn origin() -> Origin {
        Origin { boot: "b".to_owned(), pids: 1, network: 2 }
    }

    fn thing(name: &str) -> Thing {
        Thing::Container { engine: String::new(), name: name.to_owned() }
    }

    impl Rig {
        fn new(things: &[&str]) -> (Self, Vec<Entry>) {
            let directory = tempfile::tempdir().unwrap();
            let things = things.iter().map(|name| thing(name)).collect();
            let (journal, entries) = Journal::begin(directory.path().join("journal"), origin(), things).unwrap();
            (Self { journal, directory }, entries.into_iter().map(|(entry, _)| entry).collect())
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("journal")
        }

        /// The names of what the next daemon would find.
        fn found(&self) -> Vec<String> {
            let replay = Replay::of(&fs::read(self.path()).unwrap());
            assert_eq!(replay.damaged, 0);
            let name = |(from, thing)| match (from, thing) {
                (Some(from), Thing::Container { name, .. }) if from == origin() => name,
                other => panic!("{other:?}"),
            };
            replay.things.into_values().map(name).collect()
        }

        /// What is written next meets a full disk.
        fn fill(&self) {
            self.journal.lock().file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        }
    }

    #[test]
    fn what_is_written_down_is_found_until_it_is_struck_out() {
        let (rig, left) = Rig::new(&["left", "over"]);
        assert_eq!(rig.found(), ["left", "over"]);
        let a = rig.journal.enter(thing("a")).unwrap();
        let b = rig.journal.enter(thing("b")).unwrap();
        a.amend(thing("a more"));
        assert_eq!(rig.found(), ["left", "over", "a more", "b"]);
        b.strike();
        left.into_iter().next().unwrap().strike();
        assert_eq!(rig.found(), ["over", "a more"]);
        drop(a);
        assert_eq!(rig.found(), ["over", "a more"], "nobody said that it is gone");
    }

    #[test]
    fn the_file_does_not_grow_with_what_is_over() {
        let (rig, _) = Rig::new(&["kept"]);
        let long = "x".repeat(100);
        for _ in 0..10_000 {
            rig.journal.enter(thing(&long)).unwrap().strike();
            assert!(fs::metadata(rig.path()).unwrap().len() < GROWTH + 1000);
        }
        assert_eq!(rig.found(), ["kept"]);
        assert_eq!(fs::read_dir(rig.directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn many_things_at_once_are_all_kept_when_it_is_written_anew() {
        let (rig, _) = Rig::new(&[]);
        let names: Vec<String> = (0..5000).map(|number| format!("{number:0>30}")).collect();
        let _entries: Vec<Entry> = names.iter().map(|name| rig.journal.enter(thing(name)).unwrap()).collect();
        assert_eq!(rig.found(), names);
    }

    #[test]
    fn on_a_full_disk_nothing_is_entered_and_all_is_well_when_there_is_space_again() {
        let (rig, _) = Rig::new(&["kept"]);
        rig.fill();
        let refused = rig.journal.enter(thing("a")).unwrap_err();
        assert!(refused.is_full() && refused.to_string().contains("journal"), "{refused}");
        assert!(matches!(LaunchError::from(refused), LaunchError::Exhausted(_)));
        rig.journal.enter(thing("b")).unwrap().strike();
        rig.journal.enter(thing("c")).unwrap();
        assert_eq!(rig.found(), ["kept", "c"]);
    }

    #[test]
    fn a_strike_that_could_not_be_written_is_made_up_for() {
        let (rig, left) = Rig::new(&["gone", "kept"]);
        rig.fill();
        left.into_iter().next().unwrap().strike();
        assert_eq!(rig.found(), ["gone", "kept"]);
        rig.journal.enter(thing("next")).unwrap();
        assert_eq!(rig.found(), ["kept", "next"]);
    }

    #[test]
    fn a_line_that_was_torn_is_cut_off_when_there_is_no_space_for_another_file() {
        let (rig, _) = Rig::new(&["kept"]);
        let mut file = OpenOptions::new().append(true).open(rig.path()).unwrap();
        file.write_all(b"{\"strike\":{\"num").unwrap();
        rig.journal.lock().behind = true;
        // In the place of the new file is something that is none.
        fs::create_dir(rig.path().with_extension("new")).unwrap();
        rig.journal.enter(thing("next")).unwrap();
        assert_eq!(rig.found(), ["kept", "next"]);
    }

    #[test]
    fn what_cannot_be_written_to_at_all_says_so_and_not_that_it_is_full() {
        let (rig, _) = Rig::new(&[]);
        rig.fill();
        fs::remove_dir_all(rig.directory.path()).unwrap();
        assert!(rig.journal.enter(thing("a")).unwrap_err().is_full());
        let refused = rig.journal.enter(thing("b")).unwrap_err();
        assert!(!refused.is_full(), "{refused}");
        assert!(matches!(LaunchError::from(refused), LaunchError::Missing(_)));
    }
}
