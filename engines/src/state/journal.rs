//! The journal: each resource is recorded before it is created, and its record is removed after it has been released.
//! While records cannot be written, nothing can be started.
//!
//! Files are written by a background worker, so that a slow disk delays the starts and not the actors' thread. The
//! worker decides in `journal_files.rs` which file a record gets. The files themselves are in `record_dir.rs`.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::executor;
use scopeguard::ScopeGuard;
use tokio::sync::oneshot;

use super::{
    error::JournalError,
    journal_files::JournalFiles,
    record_dir::RecordDir,
    resource::{Origin, Resource},
};
use crate::worker::{Requests, Worker, WorkerHandle};

/// Records resources. Clones share the journal, and work on any thread.
#[derive(Debug, Clone)]
pub struct Journal {
    worker: WorkerHandle<Request>,
    records: RecordDir,
    next: Arc<AtomicU64>,
}

/// A recorded resource. Without [`remove`](Self::remove), the next daemon looks for the resource.
#[derive(Debug)]
pub struct JournalEntry {
    worker: WorkerHandle<Request>,
    number: u64,
}

/// Writes the files. Dropping it completes what was requested.
#[derive(Debug)]
pub struct JournalWriter {
    worker: Worker<Request>,
    records: RecordDir,
    next: u64,
}

#[derive(Debug)]
enum Request {
    Record {
        number: u64,
        resource: Resource,
        written: oneshot::Sender<Result<(), JournalError>>,
    },
    Update {
        number: u64,
        resource: Resource,
    },
    Remove {
        number: u64,
    },
    #[cfg(test)]
    Flush(oneshot::Sender<()>),
}

impl JournalWriter {
    /// Starts the worker. Its records are of `origin`, and numbered from `next` on.
    ///
    /// # Errors
    /// When the host has no more threads.
    pub fn start(records: RecordDir, origin: Origin, next: u64) -> io::Result<Self> {
        let directory = records.clone();
        let work = move |requests: Requests<Request>| {
            let mut files = JournalFiles::new(directory, origin, next);
            while let Ok(request) = requests.recv_blocking() {
                request.carry_out(&mut files);
            }
            files.remove_released();
        };
        Ok(Self { worker: Worker::on_threads("journal", 1, work)?, records, next })
    }

    /// Returns the interface for the engines.
    pub fn journal(&self) -> Journal {
        let next = Arc::new(AtomicU64::new(self.next));
        Journal { worker: self.worker.handle(), records: self.records.clone(), next }
    }

    /// Returns the entry of an earlier daemon's record.
    pub fn entry(&self, number: u64) -> JournalEntry {
        JournalEntry { worker: self.worker.handle(), number }
    }
}

impl Request {
    fn carry_out(self, files: &mut JournalFiles) {
        match self {
            Self::Record { number, resource, written } => drop(written.send(files.record(number, resource))),
            Self::Update { number, resource } => files.update(number, resource),
            Self::Remove { number } => files.remove(number),
            #[cfg(test)]
            Self::Flush(done) => drop(done.send(())),
        }
    }
}

impl Journal {
    /// Records a resource that is about to be created. When the future is dropped, the record is removed.
    ///
    /// # Errors
    /// When the record cannot be written: the resource must not be created.
    pub async fn record(&self, resource: Resource) -> Result<JournalEntry, JournalError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let written = self.worker.call(|written| Request::Record { number, resource, written });
        let entry = JournalEntry { worker: self.worker.clone(), number };
        let unused = scopeguard::guard(entry, JournalEntry::remove);
        let closed = |_| {
            let source = Arc::new(io::Error::other("the daemon has released its state directory"));
            Err(JournalError { path: self.records.path(number), source })
        };
        let written = written.await.unwrap_or_else(closed);
        let entry = ScopeGuard::into_inner(unused);
        written.map(|()| entry)
    }

    /// As [`record`](Self::record), blocking the thread: not for the actors' one.
    pub fn record_blocking(&self, resource: Resource) -> Result<JournalEntry, JournalError> {
        executor::block_on(self.record(resource))
    }

    /// Blocks until all earlier requests have been carried out.
    #[cfg(test)]
    pub fn flush(&self) {
        let _ = executor::block_on(self.worker.call(Request::Flush));
    }
}

impl JournalEntry {
    /// Replaces the record by a more precise one, later. That may fail, as the first one is enough to find the
    /// resource.
    pub fn update(&self, resource: Resource) {
        self.worker.send(Request::Update { number: self.number, resource });
    }

    /// Removes the record of a resource that has been released, later.
    pub fn remove(self) {
        self.worker.send(Request::Remove { number: self.number });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::{FutureExt, future::join_all};

    use super::{
        super::{journal_files::MAX_RELEASED, resource::Record},
        *,
    };

    struct Rig {
        writer: JournalWriter,
        journal: Journal,
        records: RecordDir,
        home: tempfile::TempDir,
    }

    fn resource(name: &str) -> Resource {
        Resource::Container { engine: String::new(), name: name.to_owned() }
    }

    impl Rig {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let (records, _) = RecordDir::open(home.path().join("resources")).unwrap();
            let origin = Origin { boot: "b".to_owned(), pids: 1, network: 2 };
            let writer = JournalWriter::start(records.clone(), origin, 7).unwrap();
            Self { journal: writer.journal(), writer, records, home }
        }

        /// The names that the next daemon would find if this one was killed now.
        fn found(&self) -> Vec<String> {
            let name = |(_, record): (u64, Record)| match record.resource {
                Resource::Container { name, .. } => name,
                other => panic!("{other:?}"),
            };
            self.records.read().unwrap().records.into_iter().map(name).collect()
        }
    }

    #[tokio::test]
    async fn record_is_in_its_file_until_it_is_removed() {
        let rig = Rig::new();
        let a = rig.journal.record(resource("a")).await.unwrap();
        let b = rig.journal.clone().record(resource("b")).await.unwrap();
        assert_eq!(rig.found(), ["a", "b"]);
        assert!(rig.records.path(7).exists() && rig.records.path(8).exists());
        a.update(resource("a more"));
        b.remove();
        rig.journal.flush();
        assert_eq!(rig.found(), ["a more"]);
        drop(a);
        rig.journal.flush();
        assert_eq!(rig.found(), ["a more"], "it was not removed");
        rig.writer.entry(7).remove();
        rig.journal.flush();
        assert_eq!(rig.found(), [""; 0]);
    }

    #[tokio::test]
    async fn concurrent_records_are_all_written_and_removed() {
        let rig = Rig::new();
        let names: Vec<String> = (0..1000).map(|number| format!("{number:0>4}")).collect();
        let entries = join_all(names.iter().map(|name| rig.journal.record(resource(name)))).await;
        assert_eq!(rig.found(), names);
        entries.into_iter().for_each(|entry| entry.unwrap().remove());
        drop(rig.writer);
        assert_eq!(fs::read_dir(rig.home.path().join("resources")).unwrap().count(), 0);
    }

    #[test]
    fn record_of_dropped_future_is_removed() {
        let rig = Rig::new();
        for _ in 0..100 {
            let recorded = rig.journal.record(resource("dropped")).now_or_never();
            recorded.into_iter().for_each(|recorded| recorded.unwrap().remove());
        }
        let _kept = rig.journal.record_blocking(resource("kept")).unwrap();
        assert_eq!(rig.found(), ["kept"]);
    }

    #[test]
    fn dropping_the_writer_completes_what_was_requested_and_refuses_the_rest() {
        let rig = Rig::new();
        let entries: Vec<_> = (0..100).map(|_| rig.journal.record_blocking(resource("a")).unwrap()).collect();
        entries.into_iter().for_each(JournalEntry::remove);
        let Rig { writer, journal, records, home: _home } = rig;
        drop(writer);
        assert!(records.read().unwrap().records.is_empty());
        journal.record_blocking(resource("b")).unwrap_err();
        assert!(records.read().unwrap().records.is_empty());
    }

    #[test]
    fn record_that_cannot_be_written_is_an_error_that_names_its_file() {
        let rig = Rig::new();
        let kept = rig.journal.record_blocking(resource("kept")).unwrap();
        // In the place of the temporary file is a directory.
        let next = rig.records.path(8).with_extension("new");
        fs::create_dir(&next).unwrap();
        let error = rig.journal.record_blocking(resource("a")).unwrap_err();
        assert!(error.to_string().contains(&*rig.records.path(8).to_string_lossy()) && !error.is_full(), "{error}");
        fs::remove_dir(next).unwrap();
        assert_eq!(rig.found(), ["kept"]);
        kept.remove();
        let _b = rig.journal.record_blocking(resource("b")).unwrap();
        assert_eq!(rig.found(), ["b"]);
    }

    #[test]
    fn file_of_a_removed_record_is_used_again_until_the_end() {
        let rig = Rig::new();
        let names = || fs::read_dir(rig.home.path().join("resources")).unwrap().count();
        let entry = |name: &str| rig.journal.record_blocking(resource(name)).unwrap();
        let kept = entry("kept");
        for _ in 0..10 {
            entry("again").remove();
        }
        rig.journal.flush();
        assert_eq!((names(), rig.records.path(8).exists()), (2, true));
        let entries: Vec<_> = (0..MAX_RELEASED + 10).map(|_| entry("many")).collect();
        entries.into_iter().for_each(JournalEntry::remove);
        rig.journal.flush();
        assert_eq!(names(), 1 + MAX_RELEASED);
        drop(kept);
        drop(rig.writer);
        assert_eq!(names(), 1);
    }

    #[test]
    fn entry_without_a_record_releases_no_other_file() {
        let rig = Rig::new();
        let failing = |number: u64| {
            fs::create_dir(rig.records.path(number).with_extension("new")).unwrap();
            // The future is dropped before its record is written.
            assert!(rig.journal.record(resource("failing")).now_or_never().is_none_or(|written| written.is_err()));
            rig.journal.flush();
            fs::remove_dir(rig.records.path(number).with_extension("new")).unwrap();
        };
        failing(7);
        let _first = rig.journal.record_blocking(resource("first")).unwrap();
        let _second = rig.journal.record_blocking(resource("second")).unwrap();
        failing(9);
        assert_eq!(rig.found(), ["first", "second"]);
        assert!(rig.records.path(8).exists() && !rig.records.path(9).exists());
    }
}
