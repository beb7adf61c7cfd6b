//! Messages that the RegistryActor receives. What functions and admission send it is theirs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use actix::{Message, Recipient};
use tokio::sync::oneshot;

use crate::spec::{LoadedSpec, Triggers};

/// Reads the registry now. The answer comes when every finding of that counts.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Rescan {
    /// Dropped without an answer when the daemon ends.
    pub done: RescanReply,
}

/// Where the result of a [`Rescan`] goes, or why the registry cannot be read.
pub type RescanReply = oneshot::Sender<Result<Rescanned, String>>;

/// What a registry contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescanned {
    /// Functions, whether valid or not.
    pub functions: usize,
    /// The problems of invalid ones, by name.
    pub invalid: Vec<(String, Arc<str>)>,
}

/// Reports the triggers of all functions to an actor: now, and after each change.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FollowTriggers(pub Recipient<TriggersChanged>);

/// The triggers of a function that are in force. None, if it was removed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TriggersChanged {
    /// Its name.
    pub function: String,
    /// Its triggers.
    pub triggers: Triggers,
}

/// Functions whose files may have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub(super) names: BTreeSet<String>,
    /// Every function may have changed: events were lost, or concern the registry itself.
    pub(super) all: bool,
}

impl Changes {
    /// Makes the registry read every function again.
    pub fn anything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Makes the registry read one function again.
    pub fn of(function: &str) -> Self {
        Self { names: BTreeSet::from([function.to_owned()]), all: false }
    }

    pub(super) fn merge(&mut self, other: Changes) {
        self.names.extend(other.names);
        self.all |= other.all;
    }
}

/// Files may have changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FilesChanged(pub Changes);

/// What a scan has found.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Scanned {
    /// `None`: there is no such function.
    pub specs: Vec<(String, Option<LoadedSpec>)>,
    /// The scan covered the whole registry, so functions that are not among `specs` do not exist.
    pub complete: bool,
    /// The requests that it answers.
    pub rescans: Vec<RescanReply>,
}

/// Drains every function. A second request shortens the grace of the first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DrainAll {
    /// How long requests in flight may continue.
    pub grace: Duration,
    /// Notified when no instance holds anything any more, instances that cannot be ended aside.
    pub done: oneshot::Sender<()>,
}
