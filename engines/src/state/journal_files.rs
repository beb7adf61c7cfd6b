//! Which file the record of a journal entry is in. A record is written to the file of a released resource, if there is any.

use std::{collections::HashMap, sync::Arc};

use super::{
    error::JournalError,
    record_dir::RecordDir,
    resource::{Origin, Record, Resource},
};

/// How many files of released resources are kept for others.
pub(super) const MAX_RELEASED: usize = 256;

/// The files of the records, which only the journal's worker changes.
pub struct JournalFiles {
    records: RecordDir,
    origin: Origin,
    /// Entries below are of earlier daemons, and have the numbers of their files.
    first: u64,
    /// The files of the other entries.
    taken: HashMap<u64, u64>,
    /// The files of released resources.
    released: Vec<u64>,
    /// The first number without a file.
    next: u64,
}

impl JournalFiles {
    /// Takes the directory. Its new records are of `origin`, and `next` is the first number without a file.
    pub fn new(records: RecordDir, origin: Origin, next: u64) -> Self {
        Self { records, origin, first: next, taken: HashMap::new(), released: Vec::new(), next }
    }

    fn of_this_daemon(&self, resource: Resource) -> Record {
        Record { origin: self.origin.clone(), resource }
    }

    /// Writes the record of a new entry.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn record(&mut self, number: u64, resource: Resource) -> Result<(), JournalError> {
        let reused = self.released.pop();
        let file = reused.unwrap_or(self.next);
        let error = |source| JournalError { path: self.records.path(file), source: Arc::new(source) };
        if let Err(error) = self.records.write(file, &self.of_this_daemon(resource)).map_err(error) {
            self.released.extend(reused);
            return Err(error);
        }
        self.next += u64::from(reused.is_none());
        self.taken.insert(number, file);
        Ok(())
    }

    /// Writes over the record of an entry. The record as it was is enough to find the resource.
    pub fn update(&self, number: u64, resource: Resource) {
        if let Some(file) = self.taken.get(&number) {
            let _ = self.records.update(*file, &self.of_this_daemon(resource));
        }
    }

    /// Removes the record of a released resource.
    pub fn remove(&mut self, number: u64) {
        let file = self.taken.remove(&number).or((number < self.first).then_some(number));
        // There is none if the record could not be written.
        let Some(file) = file else { return };
        if self.released.len() < MAX_RELEASED && self.records.release(file).is_ok() {
            self.released.push(file);
        } else {
            // Where it stays, the next daemon looks for the resource in vain.
            let _ = self.records.remove(file);
        }
    }

    /// Removes the files that are kept for others.
    pub fn remove_released(self) {
        self.released.into_iter().for_each(|file| drop(self.records.remove(file)));
    }
}
