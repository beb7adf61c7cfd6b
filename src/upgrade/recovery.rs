//! Removes what other lives of the daemon have left in the state directory, as soon as they have ended.

use std::{
    io,
    path::{Path, PathBuf},
};

use slog::{Logger, warn};
use tokio::task::spawn_blocking;

use crate::{
    sandbox::{EngineSettings, Engines},
    state::{self, Resource, State, StateError},
};

/// Where the lives of the daemon are, and what removes their leftovers.
pub struct Lives<'a> {
    /// The state directory.
    pub base: &'a Path,
    /// The directory of this life.
    pub own: &'a Path,
    pub engines: &'a Engines,
    pub settings: &'a EngineSettings,
    pub log: &'a Logger,
}

/// Removes what other lives have left, and keeps the locks of those whose removal goes on.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Those that have ended and had containers, which are removed in the background. Locked until this daemon ends.
    ended: Vec<State>,
}

impl Recovery {
    /// Removes what all lives but `own` have left. Lives that go on are left alone.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub async fn remove(&mut self, of: &Lives<'_>) {
        let Lives { base, own, engines, settings, log } = of;
        let lives = std::iter::once(base.to_path_buf()).chain(state::lives(base));
        let mut is_alone = true;
        // The lock of a directory that is locked already must not be touched.
        let is_other = |life: &PathBuf| life != *own && self.ended.iter().all(|ended| ended.directory() != life);
        for life in lives.filter(is_other).collect::<Vec<_>>() {
            match State::open_life(&life) {
                Ok((state, left)) => {
                    let is_container = |resource: &Resource| matches!(resource, Resource::Container { .. });
                    let are_awaited = !left.resources.iter().any(|(_, resource)| is_container(resource));
                    if left.is_empty() {
                        drop(left);
                    } else {
                        engines.reclaim(left, &state, settings, log).await;
                    }
                    if are_awaited { state.close() } else { self.ended.push(state) }
                }
                Err(StateError::InUse { .. }) => is_alone = false,
                // Its own end was faster.
                Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn!(log, "what another life of the daemon has left cannot be removed"; "error" => %error);
                    is_alone = false;
                }
            }
        }
        if is_alone {
            let snapshots = settings.snapshots.clone();
            // It fails only if it panics.
            let _ = spawn_blocking(move || snapshots.remove_abandoned()).await;
        }
    }

    /// Closes the directories of all lives, that of `own` as well. Called at the end of the daemon.
    pub fn close(self, own: Option<State>) {
        self.ended.into_iter().chain(own).for_each(State::close);
    }
}
