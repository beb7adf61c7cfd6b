//! Notices changes in the registry's directory.
//!
//! Says only which functions to look at again; what has become of them is read by `scan.rs`.

use std::{collections::BTreeSet, path::Path};

use actix::Recipient;
use notify::{
    Event, EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};

use crate::messages::Changed;

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

/// Watches until it is dropped.
pub(super) struct Watch {
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// Tells `listener` of every change below `root`, which is absolute.
    pub fn start(root: &Path, listener: Recipient<Changed>) -> notify::Result<Self> {
        let base = root.to_owned();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error of the watcher means that events may be missing.
            let changes = event.map_or_else(|_| Changes::anything(), |event| concerned(&base, &event));
            if changes != Changes::default() {
                listener.do_send(Changed(changes));
            }
        })?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self { _watcher: watcher })
    }
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
            Some(name) => {
                changes.names.insert(name);
            }
            None => changes.all = true,
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
    }

    #[test]
    fn lost_events_mean_that_anything_may_have_changed() {
        let event = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(concerned(Path::new("/r"), &event).all);
    }
}
