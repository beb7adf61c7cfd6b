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
    book::{Book, Change},
    record::{Origin, Thing},
};

/// Orders that are carried out with one write.
const TOGETHER: usize = 128;

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

/// Where things are written down. Clones write to the same file, from any thread.
#[derive(Debug, Clone)]
pub struct Journal {
    orders: Sender<Order>,
    next: Arc<AtomicU64>,
}

/// Something that is written down. Whoever gives it back strikes it out; if nobody does, the next daemon will look.
#[derive(Debug)]
pub struct Entry {
    orders: Sender<Order>,
    number: u64,
}

#[derive(Debug)]
enum Order {
    Enter { number: u64, thing: Thing, written: oneshot::Sender<Result<(), JournalError>> },
    Change(Change),
    Flush(Sender<()>),
}

impl Journal {
    /// Writes a journal that says what `things` says, in place of the one that is there. Gives the entries back.
    pub fn begin(path: PathBuf, origin: Origin, things: Vec<Thing>) -> io::Result<(Self, Vec<(Entry, Thing)>)> {
        let book = Book::begin(path.clone(), origin, (0..).zip(things.clone()).collect())?;
        let next = Arc::new(AtomicU64::new(things.len() as u64));
        let (orders, given) = crossbeam_channel::unbounded();
        thread::Builder::new().name("journal".to_owned()).spawn(move || keep(book, &path, &given))?;
        let entry = |number| Entry { orders: orders.clone(), number };
        let entries = (0..).map(entry).zip(things).collect();
        Ok((Self { orders, next }, entries))
    }

    /// Writes down what is about to be made.
    pub async fn enter(&self, thing: Thing) -> Result<Entry, JournalError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (written, told) = oneshot::channel();
        // The thread is there for as long as there is a sender.
        let _ = self.orders.send(Order::Enter { number, thing, written });
        // Nobody may be waiting any more when it is written: then nothing is made, either.
        let entry = Entry { orders: self.orders.clone(), number };
        let forsaken = scopeguard::guard(entry, Entry::strike);
        let Ok(written) = told.await else { unreachable!("every order is carried out") };
        let entry = ScopeGuard::into_inner(forsaken);
        written.map(|()| entry)
    }

    /// The same for those who cannot await, and hold up nobody.
    pub fn enter_blocking(&self, thing: Thing) -> Result<Entry, JournalError> {
        executor::block_on(self.enter(thing))
    }

    /// Blocks until everything that was ordered has been carried out.
    pub fn flush(&self) {
        let (done, told) = crossbeam_channel::bounded(1);
        let _ = self.orders.send(Order::Flush(done));
        let _ = told.recv();
    }
}

impl Entry {
    /// Writes down what more is known by now, soon. What was known before is enough to find it again, so that this may
    /// fail.
    pub fn amend(&self, thing: Thing) {
        let _ = self.orders.send(Order::Change(Change::Amend { number: self.number, thing }));
    }

    /// It is no more, which is written down soon. Where that cannot be, the next daemon looks for it in vain.
    pub fn strike(self) {
        let _ = self.orders.send(Order::Change(Change::Strike { number: self.number }));
    }
}

/// The work of the thread.
fn keep(mut book: Book, path: &Path, given: &Receiver<Order>) {
    while let Ok(first) = given.recv() {
        let (mut changes, mut entered, mut flushed) = (Vec::new(), Vec::new(), Vec::new());
        for order in iter::once(first).chain(given.try_iter().take(TOGETHER)) {
            match order {
                Order::Enter { number, thing, written } => {
                    changes.push(Change::Enter { number, thing });
                    entered.push(written);
                }
                Order::Change(change) => changes.push(change),
                Order::Flush(done) => flushed.push(done),
            }
        }
        let error = |source| JournalError { path: path.to_owned(), source: Arc::new(source) };
        let result = book.write(changes).map_err(error);
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

    fn thing(name: &str) -> Thing {
        Thing::Container { engine: String::new(), name: name.to_owned() }
    }

    impl Rig {
        fn new(things: &[&str]) -> (Self, Vec<Entry>) {
            let directory = tempfile::tempdir().unwrap();
            let things = things.iter().map(|name| thing(name)).collect();
            let origin = Origin { boot: "b".to_owned(), pids: 1, network: 2 };
            let (journal, entries) = Journal::begin(directory.path().join("journal"), origin, things).unwrap();
            (Self { journal, directory }, entries.into_iter().map(|(entry, _)| entry).collect())
        }

        /// The names of what the next daemon would find, were this one to die now.
        fn found(&self) -> Vec<String> {
            let replay = Replay::of(&fs::read(self.directory.path().join("journal")).unwrap());
            let name = |(_, thing)| match thing {
                Thing::Container { name, .. } => name,
                other => panic!("{other:?}"),
            };
            replay.things.into_values().map(name).collect()
        }
    }

    #[tokio::test]
    async fn what_is_entered_is_in_the_file_until_it_is_struck_out() {
        let (rig, left) = Rig::new(&["left", "over"]);
        let a = rig.journal.enter(thing("a")).await.unwrap();
        assert_eq!(rig.found(), ["left", "over", "a"]);
        a.amend(thing("a more"));
        left.into_iter().next().unwrap().strike();
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
        let entries = join_all(names.iter().map(|name| rig.journal.enter(thing(name)))).await;
        assert_eq!(rig.found(), names);
        entries.into_iter().for_each(|entry| entry.unwrap().strike());
        rig.journal.flush();
        assert_eq!(rig.found(), Vec::<String>::new());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_struck_out() {
        let (rig, _) = Rig::new(&[]);
        for _ in 0..100 {
            let entered = rig.journal.enter(thing("forsaken")).now_or_never();
            entered.into_iter().for_each(|entered| entered.unwrap().strike());
        }
        let _kept = rig.journal.enter_blocking(thing("kept")).unwrap();
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
