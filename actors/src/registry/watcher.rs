//! Notices changes in the registry's directory.
//!
//! Says only which functions to look at again; what has become of them is read by `scan.rs`.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use actix::Recipient;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use slog::{Logger, warn};

use crate::{messages::FilesChanged, spec::SPEC_FILE};

/// Between looks whether the registry is still what is watched.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Functions that may have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub(super) names: BTreeSet<String>,
    /// Anything may have changed: events were lost, or concern the registry itself.
    pub(super) all: bool,
}

impl Changes {
    /// Look at every function again.
    pub fn anything() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub(super) fn merge(&mut self, other: Changes) {
        self.names.extend(other.names);
        self.all |= other.all;
    }
}

/// What is watched: the registry and each function's directory, but nothing below. A link in there may lead to anywhere,
/// and there may be a whole tree behind it. Watches until it is dropped.
///
/// All of its work blocks: not for the actors' thread.
pub(super) struct RegistryWatcher {
    root: PathBuf,
    state: Mutex<WatcherState>,
    log: Logger,
    /// Dropped with it, which ends the thread that has unconfirmed.
    _alive: mpsc::Sender<()>,
}

struct WatcherState {
    /// `None`: the system has no more of them.
    watcher: Option<RecommendedWatcher>,
    /// Whether there is something that is not watched, for want of watches.
    incomplete: bool,
    /// Device and number of the directory that is watched as the registry.
    place: Option<(u64, u64)>,
}

impl RegistryWatcher {
    /// Will tell `listener` of changes of what is followed below `root`, which is absolute.
    pub fn new(root: &Path, listener: Recipient<FilesChanged>, log: Logger) -> Arc<Self> {
        let (base, unconfirmed) = (root.to_owned(), listener.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error of the watcher means that events may be missing.
            let changes = event.map_or_else(|_| Changes::anything(), |event| concerned(&base, &event));
            if changes != Changes::default() {
                listener.do_send(FilesChanged(changes));
            }
        });
        let mut state = WatcherState { watcher: None, incomplete: false, place: None };
        match watcher {
            Ok(watcher) => state.watcher = Some(watcher),
            Err(error) => state.lose(&log, &error),
        }
        let (alive, end) = mpsc::channel();
        let watch = Arc::new(Self { root: root.to_owned(), state: Mutex::new(state), log, _alive: alive });
        let doubting = Arc::downgrade(&watch);
        // A thread of its own: among those for blocking work, every look would keep another one from ending.
        let doubt = move || {
            while end.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let Some(watch) = doubting.upgrade() else { return };
                if watch.is_doubtful() {
                    unconfirmed.do_send(FilesChanged(Changes::anything()));
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("registry".to_owned()).spawn(doubt) {
            warn!(watch.log, "nobody looks whether another registry has taken the place of this one"; "error" => %error);
        }
        watch
    }

    /// Follows the registry, and each function that is in there.
    pub fn follow_all(&self) {
        let mut state = self.state();
        state.place = place(&self.root);
        state.follow(&self.root, &self.log);
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            state.follow_function(&entry.path(), &self.log);
        }
    }

    /// Follows these functions, whatever has taken the place of their directories.
    pub fn follow<'n>(&self, names: impl Iterator<Item = &'n String>) {
        let mut state = self.state();
        for name in names {
            state.follow_function(&self.root.join(name), &self.log);
        }
    }

    /// Whether something may have changed of which nobody would be told: another directory has taken the place of the
    /// registry, or not everything could be watched.
    fn is_doubtful(&self) -> bool {
        let state = self.state();
        state.incomplete || place(&self.root) != state.place
    }

    fn state(&self) -> MutexGuard<'_, WatcherState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatcherState {
    fn follow_function(&mut self, directory: &Path, log: &Logger) {
        if !directory.is_dir() {
            return;
        }
        self.follow(directory, log);
        let file = directory.join(SPEC_FILE);
        if file.is_symlink() {
            self.follow(&file, log);
        }
    }

    /// Also what is followed: something else may be at that path by now. Until the former has been removed, that is told of as
    /// well.
    fn follow(&mut self, path: &Path, log: &Logger) {
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            Err(error) if matches!(error.kind, notify::ErrorKind::MaxFilesWatch) => self.lose(log, &error),
            // It has gone meanwhile, of which whoever watches what it was in is told.
            Ok(()) | Err(_) => {}
        }
    }

    fn lose(&mut self, log: &Logger, error: &notify::Error) {
        if !std::mem::replace(&mut self.incomplete, true) {
            warn!(log, "the registry cannot be watched as a whole and is read at intervals as well"; "error" => %error);
        }
    }
}

/// Which directory there is. `None`: none, or it cannot be seen.
fn place(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Which functions an event is about.
fn concerned(root: &Path, event: &Event) -> Changes {
    let mere_reading = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    if mere_reading {
        return Changes::default();
    }
    let mut changes = Changes { all: event.need_rescan(), ..Changes::default() };
    for path in &event.paths {
        match function_of(root, path) {
            // Links to functions may lead through what is hidden.
            Some(name) if !name.starts_with('.') => {
                changes.names.insert(name);
            }
            _ => changes.all = true,
        }
    }
    changes
}

fn function_of(root: &Path, path: &Path) -> Option<String> {
    let first = path.strip_prefix(root).ok()?.components().next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, Flag, ModifyKind};

    use super::*;

    #[track_caller]
    fn check(kind: EventKind, path: &str, names: &[&str], all: bool) {
        let changes = concerned(Path::new("/r"), &Event::new(kind).add_path(path.into()));
        assert_eq!(changes, Changes { names: names.iter().map(|name| name.to_string()).collect(), all });
    }

    #[test]
    fn a_change_concerns_the_function_whose_directory_it_is_in() {
        check(EventKind::Create(CreateKind::Folder), "/r/f", &["f"], false);
        check(EventKind::Modify(ModifyKind::Any), "/r/f/function.toml", &["f"], false);
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/r/f/a/b", &["f"], false);
        check(EventKind::Access(AccessKind::Close(AccessMode::Read)), "/r/f/function.toml", &[], false);
        check(EventKind::Modify(ModifyKind::Any), "/r", &[], true);
        check(EventKind::Modify(ModifyKind::Any), "/r/..data", &[], true);
    }

    #[test]
    fn lost_events_mean_that_anything_may_have_changed() {
        let event = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(concerned(Path::new("/r"), &event).all);
    }
}
