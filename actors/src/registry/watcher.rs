//! Watches the registry's directory for changes.
//!
//! It only reports which functions to scan again; `scan.rs` reads them.

use std::{
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

use super::messages::{Changes, FilesChanged};
use crate::spec::SPEC_FILE;

/// Between checks whether the watched directory is still the registry.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Watches the registry and each function's directory, but nothing below: a link in there may lead anywhere, and a whole
/// tree may be behind it. Watches until it is dropped.
///
/// All of its work blocks, so it must not run on the actors' thread.
pub(super) struct RegistryWatcher {
    root: PathBuf,
    state: Mutex<WatcherState>,
    log: Logger,
    /// Dropped with the watcher, which ends the checking thread.
    _alive: mpsc::Sender<()>,
}

struct WatcherState {
    /// `None`: the system provides no more of them.
    watcher: Option<RecommendedWatcher>,
    /// Whether something is not watched because the system limits the number of watches.
    incomplete: bool,
    /// The directory that is watched as the registry.
    root: Option<DirectoryId>,
}

/// Device and inode of a directory.
type DirectoryId = (u64, u64);

impl RegistryWatcher {
    /// Reports changes of what is followed below the absolute path `root` to `listener`.
    pub fn new(root: &Path, listener: Recipient<FilesChanged>, log: Logger) -> Arc<Self> {
        let (base, checker) = (root.to_owned(), listener.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // After an error of the watcher, events may be missing.
            let changes = event.map_or_else(|_| Changes::anything(), |event| changes_of(&base, &event));
            if changes != Changes::default() {
                listener.do_send(FilesChanged(changes));
            }
        });
        let mut state = WatcherState { watcher: None, incomplete: false, root: None };
        match watcher {
            Ok(watcher) => state.watcher = Some(watcher),
            Err(error) => state.set_incomplete(&log, &error),
        }
        let (alive, end) = mpsc::channel();
        let watcher = Arc::new(Self { root: root.to_owned(), state: Mutex::new(state), log, _alive: alive });
        let checked = Arc::downgrade(&watcher);
        // A thread of its own: a blocking thread of the runtime would never be idle long enough to end.
        let check = move || {
            while end.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let Some(watcher) = checked.upgrade() else { return };
                if watcher.may_have_missed() {
                    checker.do_send(FilesChanged(Changes::anything()));
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("registry".to_owned()).spawn(check) {
            warn!(watcher.log, "the registry is not checked for replacement by another directory"; "error" => %error);
        }
        watcher
    }

    /// Follows the registry and each function in it.
    pub fn follow_all(&self) {
        let mut state = self.state();
        state.root = directory_id(&self.root);
        state.follow(&self.root, &self.log);
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            state.follow_function(&entry.path(), &self.log);
        }
    }

    /// Follows these functions, even if other directories have taken their place.
    pub fn follow<'n>(&self, names: impl Iterator<Item = &'n String>) {
        let mut state = self.state();
        for name in names {
            state.follow_function(&self.root.join(name), &self.log);
        }
    }

    /// Returns whether changes may go unnoticed: another directory has taken the place of the registry, or not everything
    /// could be watched.
    fn may_have_missed(&self) -> bool {
        let state = self.state();
        state.incomplete || directory_id(&self.root) != state.root
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

    /// Follows a path, also if it is followed already: another file may be there now. The former one is reported as well
    /// until it is removed.
    fn follow(&mut self, path: &Path, log: &Logger) {
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            Err(error) if matches!(error.kind, notify::ErrorKind::MaxFilesWatch) => self.set_incomplete(log, &error),
            // The path was removed meanwhile, which the watch of its directory reports.
            Ok(()) | Err(_) => {}
        }
    }

    fn set_incomplete(&mut self, log: &Logger, error: &notify::Error) {
        if !std::mem::replace(&mut self.incomplete, true) {
            warn!(log, "the registry cannot be watched as a whole and is read at intervals as well"; "error" => %error);
        }
    }
}

/// Returns which directory is at that path. `None`: none, or it cannot be accessed.
fn directory_id(directory: &Path) -> Option<DirectoryId> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Returns which functions an event concerns.
fn changes_of(root: &Path, event: &Event) -> Changes {
    let is_read = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    if is_read {
        return Changes::default();
    }
    let mut changes = Changes { all: event.need_rescan(), ..Changes::default() };
    for path in &event.paths {
        match function_of(root, path) {
            // Links to functions may lead through hidden directories.
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
        let changes = changes_of(Path::new("/r"), &Event::new(kind).add_path(path.into()));
        assert_eq!(changes, Changes { names: names.iter().map(|name| name.to_string()).collect(), all });
    }

    #[test]
    fn attributes_changes_to_the_function_of_their_directory() {
        check(EventKind::Create(CreateKind::Folder), "/r/f", &["f"], false);
        check(EventKind::Modify(ModifyKind::Any), "/r/f/function.toml", &["f"], false);
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/r/f/a/b", &["f"], false);
        check(EventKind::Access(AccessKind::Close(AccessMode::Read)), "/r/f/function.toml", &[], false);
        check(EventKind::Modify(ModifyKind::Any), "/r", &[], true);
        check(EventKind::Modify(ModifyKind::Any), "/r/..data", &[], true);
    }

    #[test]
    fn lost_events_concern_every_function() {
        let event = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(changes_of(Path::new("/r"), &event).all);
    }
}
