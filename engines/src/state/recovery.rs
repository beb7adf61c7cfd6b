//! Reads what earlier daemons have recorded in the state directory, and converts the journal of earlier versions.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    error::{StateError, error},
    file,
    journal::{JournalEntry, JournalWriter},
    legacy_journal::{self, LegacyJournal},
    record_dir::{Contents, RecordDir},
    resource::{Origin, Record, Resource},
};

pub(super) const RESOURCES: &str = "resources";
/// The log of earlier versions, which is converted into records.
pub(super) const LEGACY_JOURNAL: &str = "journal";
/// The most that is read of it, in bytes: thirty times as much as for ten thousand instances.
const MAX_LEGACY_JOURNAL: u64 = 64 << 20;

/// What earlier daemons of the same state directory have left.
#[derive(Debug)]
pub struct Recovered {
    /// The resources that were not released, with their records.
    pub resources: Vec<(JournalEntry, Resource)>,
    /// The directories of instances.
    pub directories: Vec<PathBuf>,
    /// How many resources ended with a boot of the host, or cannot be found from here.
    pub lost: usize,
    /// Parts of the journal that cannot be understood: there may be more resources.
    pub damages: Vec<Damage>,
    /// Files among the records that are none.
    pub foreign: Vec<PathBuf>,
}

impl Recovered {
    /// Returns whether nothing was left.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.directories.is_empty() && self.damages.is_empty()
    }
}

/// A part of the journal that cannot be understood.
#[derive(Debug)]
pub struct Damage {
    /// The file and the reason.
    pub reason: String,
    /// The damaged record, to be removed after its resource has been searched for.
    pub entry: Option<JournalEntry>,
}

/// The records of a state directory before they are used.
#[derive(Debug)]
pub struct FoundRecords {
    directory: RecordDir,
    contents: Contents,
    /// Records of the earlier version, with new numbers.
    converted: Vec<(u64, Record)>,
    /// The journal that they are from.
    legacy: PathBuf,
    /// Damages of no single record.
    damages: Vec<String>,
    lost: usize,
    next: u64,
}

impl FoundRecords {
    /// Reads the records below the state directory. `is_new` says whether it was created by this daemon.
    ///
    /// # Errors
    /// When a file cannot be read, or is in the place of a record and no regular file.
    pub fn read(state: &Path, is_new: bool) -> Result<Self, StateError> {
        let (path, legacy) = (state.join(RESOURCES), state.join(LEGACY_JOURNAL));
        let (directory, existed) = RecordDir::open(path.clone()).map_err(error(&path))?;
        let contents = directory.read()?;
        let journal = read_legacy(&legacy).map_err(error(&legacy))?;
        let mut damages = Vec::new();
        if !is_new && !existed && journal.is_none() {
            damages.push(format!("{}: it was removed", path.display()));
        }
        let journal = journal.unwrap_or_default();
        if journal.damaged > 0 {
            damages.push(format!("{}: {} lines cannot be understood", legacy.display(), journal.damaged));
        }
        let first = contents.max_number().map_or(0, |last| last + 1);
        // A record is there already if an earlier conversion was interrupted.
        let mut missing = journal.records;
        missing.retain(|record| !contents.records.iter().any(|(_, known)| known == record));
        let converted: Vec<(u64, Record)> = (first..).zip(missing).collect();
        let next = first + converted.len() as u64;
        Ok(Self { directory, contents, converted, legacy, damages, lost: journal.lost, next })
    }

    /// Writes the converted records, and removes the journal that they are from. Also finds out whether records can be
    /// written at all. May be repeated after an error.
    ///
    /// # Errors
    /// When a record cannot be written.
    pub fn convert(&self, here: &Origin) -> Result<(), StateError> {
        let resource = Resource::Container { engine: String::new(), name: String::new() };
        let probe = (self.next, Record { origin: here.clone(), resource });
        for (number, record) in self.converted.iter().chain([&probe]) {
            self.directory.write(*number, record).map_err(error(&self.directory.path(*number)))?;
        }
        self.directory.remove(self.next).map_err(error(&self.directory.path(self.next)))?;
        match fs::remove_file(&self.legacy) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(&self.legacy)(source)),
            _ => Ok(()),
        }
    }

    /// Returns the directory of the records.
    pub fn directory(&self) -> RecordDir {
        self.directory.clone()
    }

    /// Returns the first number that no record has.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns the resources that can exist `here`, and removes the other records.
    pub fn recover(self, writer: &JournalWriter, here: &Origin, directories: Vec<PathBuf>) -> Recovered {
        let Contents { records, damaged, foreign } = self.contents;
        let all = records.into_iter().chain(self.converted);
        let (valid, invalid): (Vec<_>, Vec<_>) = all.partition(|(_, record)| record.is_valid(here));
        let lost = self.lost + invalid.len();
        invalid.into_iter().for_each(|(number, _)| writer.entry(number).remove());
        let damages = self.damages.into_iter().map(|reason| Damage { reason, entry: None });
        let damaged = damaged.into_iter().map(|(number, reason)| Damage { reason, entry: Some(writer.entry(number)) });
        let damages = damages.chain(damaged).collect();
        let resources = valid.into_iter().map(|(number, record)| (writer.entry(number), record.resource)).collect();
        Recovered { resources, directories, lost, damages, foreign }
    }
}

/// Returns the journal of an earlier version, or `None` if there is none.
fn read_legacy(path: &Path) -> io::Result<Option<LegacyJournal>> {
    let file = match file::open_regular(path, OpenOptions::new().read(true)) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(MAX_LEGACY_JOURNAL).read_to_end(&mut text)?;
    let mut journal = legacy_journal::parse(&text);
    journal.damaged += usize::from(text.len() as u64 == MAX_LEGACY_JOURNAL);
    Ok(Some(journal))
}

/// Returns the resources that a state directory records.
#[cfg(test)]
pub fn recorded(directory: &Path) -> Vec<Resource> {
    let (records, _) = RecordDir::open(directory.join(RESOURCES)).unwrap();
    records.read().unwrap().records.into_iter().map(|(_, record)| record.resource).collect()
}
