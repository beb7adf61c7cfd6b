//! The messages between an old and a new daemon. They have to stay as they are: the daemons have different versions.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use unifaas_actors::CallbackOutcome;

use crate::{host::function_peers::AllPeers, http::PassedListener};

/// Increases when the messages change. A daemon of another version is not started by an upgrade.
pub const VERSION: u32 = 1;
/// The environment variable of a new daemon: the process id of the old one, which is its parent.
pub const VARIABLE: &str = "UNIFAAS_PREDECESSOR";

/// The first message to the new daemon. The descriptors of the listeners come with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    /// The state directory, of which the new daemon gets a life of its own.
    pub state_directory: String,
    /// In the order of the descriptors.
    pub listeners: Vec<PassedListener>,
}

/// What the old daemon sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToNew {
    /// Memory of its instances, in MiB.
    Memory(u64),
    /// The networks and users of its functions: what calls back is among them.
    Peers(AllPeers),
    /// The answer to a callback.
    Callback { id: u64, outcome: Option<Outcome> },
    /// It has stopped to accept connections. The new daemon is the daemon now.
    TakeOver,
}

/// What the new daemon sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToOld {
    /// It serves callbacks.
    ServesCallbacks,
    /// A callback whose token it does not know.
    Callback { id: u64, token: String, from: IpAddr },
    /// It accepts connections.
    Ready,
    /// It ends, and so should the old one.
    End,
}

/// A [`CallbackOutcome`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Outcome {
    Accepted,
    WrongSource,
    NotExpected,
}

impl From<CallbackOutcome> for Outcome {
    fn from(outcome: CallbackOutcome) -> Self {
        match outcome {
            CallbackOutcome::Accepted => Self::Accepted,
            CallbackOutcome::WrongSource => Self::WrongSource,
            CallbackOutcome::NotExpected => Self::NotExpected,
        }
    }
}

impl From<Outcome> for CallbackOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Accepted => Self::Accepted,
            Outcome::WrongSource => Self::WrongSource,
            Outcome::NotExpected => Self::NotExpected,
        }
    }
}
