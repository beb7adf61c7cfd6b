//! The journal: what this daemon has made outside of itself, written down before it is made and struck out when it has
//! been given back. As long as it cannot be written to, nothing new may be made.
//!
//! It has a thread of its own, so that a slow disk holds up what is about to be made and nobody else. Whatever comes
//! together is written together. The file is in `book.rs`.

use std::{
    io, iter,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crossbeam_channel::{Receiver, Sender};
use futures::executor;
use scopeguard::ScopeGuard;
use tokio::sync::oneshot;
use unifaas_actors::sandbox::LaunchError;

use super::{
    journal_file::{Change, JournalFile},
    record::{Origin, Resource},
};

/// Orders that are carried out with one write.
const MAX_BATCH: usize = 128;

/// Why something cannot be written down, and so must not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("it cannot be written down in {}, so that nothing can be started: {source}", path.display())]
pub struct JournalError {
    path: PathBuf,
    source: Arc<io::Error>,
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

/// Whether it is for want of space, or for a limit on the size of files.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Where resources are written down. Clones write to the same file, from any thread.
#[derive(Debug, Clone)]
pub struct Journal {
    requests: Sender<Request>,
    next: Arc<AtomicU64>,
}

/// Something that is written down. Whoever gives it back strikes it out; if nobody does, the next daemon will look.
#[derive(Debug)]
pub struct JournalEntry {
    requests: Sender<Request>,
    number: u64,
}

#[derive(Debug)]
enum Request {
    Record { number: u64, resource: Resource, written: oneshot::Sender<Result<(), JournalError>> },
    Change(Change),
    Flush(Sender<()>),
}

impl Journal {
    /// Writes a journal that says what `resources` says, in place of the one that is there. Gives the entries back.
    pub fn begin(
        path: PathBuf,
        origin: Origin,
        resources: Vec<Resource>,
    ) -> io::Result<(Self, Vec<(JournalEntry, Resource)>)> {
        let file = JournalFile::begin(path.clone(), origin, (0..).zip(resources.clone()).collect())?;
        let next = Arc::new(AtomicU64::new(resources.len() as u64));
        let (requests, received) = crossbeam_channel::unbounded();
        thread::Builder::new().name("journal".to_owned()).spawn(move || keep(file, &path, &received))?;
        let entry = |number| JournalEntry { requests: requests.clone(), number };
        let entries = (0..).map(entry).zip(resources).collect();
        Ok((Self { requests, next }, entries))
    }

    /// Writes down what is about to be made.
    pub async fn record(&self, resource: Resource) -> Result<JournalEntry, JournalError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (written, told) = oneshot::channel();
        // The thread is there for as long as there is a sender.
        let _ = self.requests.send(Request::Record { number, resource, written });
        // Nobody may be waiting any more when it is written: then nothing is made, either.
        let entry = JournalEntry { requests: self.requests.clone(), number };
        let forsaken = scopeguard::guard(entry, JournalEntry::remove);
        let Ok(written) = told.await else { unreachable!("every order is carried out") };
        let entry = ScopeGuard::into_inner(forsaken);
        written.map(|()| entry)
    }

    /// The same for those who cannot await, and hold up nobody.
    pub fn record_blocking(&self, resource: Resource) -> Result<JournalEntry, JournalError> {
        executor::block_on(self.record(resource))
    }

    /// Blocks until everything that was ordered has been carried out.
    pub fn flush(&self) {
        let (done, told) = crossbeam_channel::bounded(1);
        let _ = self.requests.send(Request::Flush(done));
        let _ = told.recv();
    }
}

impl JournalEntry {
    /// Writes down what more is known by now, soon. What was known before is enough to find it again, so that this may
    /// fail.
    pub fn update(&self, resource: Resource) {
        let _ = self.requests.send(Request::Change(Change::Update { number: self.number, resource }));
    }

    /// It is no more, which is written down soon. Where that cannot be, the next daemon looks for it in vain.
    pub fn remove(self) {
        let _ = self.requests.send(Request::Change(Change::Remove { number: self.number }));
    }
}

/// The work of the thread.
fn keep(mut file: JournalFile, path: &Path, received: &Receiver<Request>) {
    while let Ok(first) = received.recv() {
        let (mut changes, mut entered, mut flushed) = (Vec::new(), Vec::new(), Vec::new());
        for order in iter::once(first).chain(received.try_iter().take(MAX_BATCH)) {
            match order {
                Request::Record { number, resource, written } => {
                    changes.push(Change::Record { number, resource });
                    entered.push(written);
                }
                Request::Change(change) => changes.push(change),
                Request::Flush(done) => flushed.push(done),
            }
        }
        let error = |source| JournalError { path: path.to_owned(), source: Arc::new(source) };
        let result = file.write(changes).map_err(error);
        for written in entered {
            let _ = written.send(result.clone());
        }
        // Whoever waits for all of it hears of that when this is dropped.
        drop(flushed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::{FutureExt, future::join_all};

    use super::{super::record::Replay, *};

    struct Rig {
        journal: Journal,
        directory: tempfile::TempDir,
    }

    fn resource(name: &str) -> Resource {
        Resource::Container { engine: String::new(), name: name.to_owned() }
    }

    impl Rig {
        fn new(resources: &[&str]) -> (Self, Vec<JournalEntry>) {
            let directory = tempfile::tempdir().unwrap();
            let resources = resources.iter().map(|name| resource(name)).collect();
            let origin = Origin { boot: "b".to_owned(), pids: 1, network: 2 };
            let (journal, entries) = Journal::begin(directory.path().join("journal"), origin, resources).unwrap();
            (Self { journal, directory }, entries.into_iter().map(|(entry, _)| entry).collect())
        }

        /// The names of what the next daemon would find, were this one to die now.
        fn found(&self) -> Vec<String> {
            let replay = Replay::of(&fs::read(self.directory.path().join("journal")).unwrap());
            let name = |(_, resource)| match resource {
                Resource::Container { name, .. } => name,
                other => panic!("{other:?}"),
            };
            replay.resources.into_values().map(name).collect()
        }
    }

    #[tokio::test]
    async fn what_is_entered_is_in_the_file_until_it_is_struck_out() {
        let (rig, left) = Rig::new(&["left", "over"]);
        let a = rig.journal.record(resource("a")).await.unwrap();
        assert_eq!(rig.found(), ["left", "over", "a"]);
        a.update(resource("a more"));
        left.into_iter().next().unwrap().remove();
        rig.journal.flush();
        assert_eq!(rig.found(), ["over", "a more"]);
        drop(a);
        rig.journal.flush();
        assert_eq!(rig.found(), ["over", "a more"], "nobody said that it is gone");
    }

    #[tokio::test]
    async fn many_at_once_are_all_entered_and_struck_out() {
        let (rig, _) = Rig::new(&[]);
        let names: Vec<String> = (0..1000).map(|number| format!("{number:0>4}")).collect();
        let entries = join_all(names.iter().map(|name| rig.journal.record(resource(name)))).await;
        assert_eq!(rig.found(), names);
        entries.into_iter().for_each(|entry| entry.unwrap().remove());
        rig.journal.flush();
        assert_eq!(rig.found(), Vec::<String>::new());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_struck_out() {
        let (rig, _) = Rig::new(&[]);
        for _ in 0..100 {
            let entered = rig.journal.record(resource("forsaken")).now_or_never();
            entered.into_iter().for_each(|entered| entered.unwrap().remove());
        }
        let _kept = rig.journal.record_blocking(resource("kept")).unwrap();
        assert_eq!(rig.found(), ["kept"]);
    }

    #[test]
    fn that_nothing_can_be_entered_is_never_the_fault_of_a_function() {
        let launch_error = |kind: io::ErrorKind| {
            let error = JournalError { path: "/j".into(), source: Arc::new(kind.into()) };
            assert!(error.to_string().contains("/j"), "{error}");
            LaunchError::from(error)
        };
        for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            assert!(matches!(launch_error(full), LaunchError::Exhausted(_)));
        }
        assert!(matches!(launch_error(io::ErrorKind::ReadOnlyFilesystem), LaunchError::Missing(_)));
    }
}
