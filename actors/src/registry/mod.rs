//! RegistryActor: which functions exist. The directory on disk is the truth, and this actor follows it.
//!
//! It starts, reconfigures and drains one FunctionActor per function, restarts a panicked one, and publishes the
//! functions in the [`Directory`], so that no request has to ask it. `actor.rs` is the actor, `roots.rs` and `scan.rs` read the
//! directories, `diff.rs` compares that with what is in force, `watcher.rs` notices changes, `messages.rs` has the messages.

mod actor;
mod diff;
mod messages;
mod roots;
mod scan;
mod watcher;

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use actix::{Recipient, SpawnHandle};
use slog::Logger;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    directory::Directory,
    function::FunctionHandle,
    id::FunctionKey,
    notice::EndGuard,
    services::Services,
    spec::{FunctionSpec, LoadedSpec},
};
use diff::Unconfirmed;
pub use messages::{Changes, DrainAll, FilesChanged, FollowTriggers, Rescan, RescanReply, Rescanned, TriggersChanged};
pub use roots::{CURRENT, Roots};
pub use scan::{check_all, scan_all, scan_one};
use watcher::RegistryWatcher;

/// How the registry learns of changed files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeSource {
    /// It watches them.
    Watcher,
    /// It receives [`FilesChanged`] messages.
    Messages,
}

/// The functions of the daemon.
pub struct RegistryActor {
    roots: Roots,
    directory: Arc<Directory>,
    services: Rc<Services>,
    log: Logger,
    functions: BTreeMap<String, FunctionEntry>,
    /// Functions that were removed and still have instances.
    leaving: BTreeMap<FunctionKey, Arc<FunctionHandle>>,
    last_key: FunctionKey,
    unconfirmed: Unconfirmed,
    pending: Changes,
    scan: Option<SpawnHandle>,
    /// Rescans whose findings have to be confirmed.
    rescans: Vec<RescanReply>,
    source: ChangeSource,
    watcher: Option<Arc<RegistryWatcher>>,
    /// Gets the triggers of functions.
    triggers: Option<Recipient<TriggersChanged>>,
    /// Notified when everything has ended. Non-empty from the first `DrainAll` until then.
    draining: Vec<oneshot::Sender<()>>,
    /// Everything was drained, or is being drained. What a scan finds from then on does not count.
    is_ending: bool,
    end_guards: Vec<EndGuard>,
}

struct FunctionEntry {
    handle: Arc<FunctionHandle>,
    /// What its file contains.
    loaded: LoadedSpec,
    /// The last valid version of that, which is in force.
    valid: Option<Arc<FunctionSpec>>,
    key: FunctionKey,
    /// When its actors panicked.
    panics: VecDeque<Instant>,
}
