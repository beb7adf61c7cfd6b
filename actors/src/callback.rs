//! Ready callbacks: the table of secret tokens and the instances behind them.
//!
//! The callback listener and the InstanceActors share it. An InstanceActor registers its token when it starts and removes
//! it when it ends. Whether a callback is accepted is decided in `instance/lifecycle.rs`.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use actix::{Message, Recipient};
use tokio::sync::oneshot;

use crate::id::ReadyToken;

/// How an instance judged a ready callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// Accepted: the instance is ready.
    Accepted,
    /// The callback came from an address that is not the instance's.
    WrongSource,
    /// The instance had called before, or is already ending.
    NotExpected,
}

/// Tells an InstanceActor that its callback URL was requested.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CalledBack {
    /// The caller's address.
    pub from: IpAddr,
    /// Answered once the instance's own address is known.
    pub reply: oneshot::Sender<CallbackOutcome>,
}

/// The tokens of all instances that exist.
#[derive(Debug, Default)]
pub struct Callbacks {
    expected: Mutex<HashMap<ReadyToken, Recipient<CalledBack>>>,
    refused: AtomicU64,
}

impl Callbacks {
    /// Passes a callback to the instance of `token` and returns its outcome. `None`: no such instance exists.
    pub async fn deliver(&self, token: Option<ReadyToken>, from: IpAddr) -> Option<CallbackOutcome> {
        let instance = token.and_then(|token| self.expected().get(&token).cloned());
        let outcome = match instance {
            Some(instance) => {
                let (reply, answer) = oneshot::channel();
                instance.do_send(CalledBack { from, reply });
                // An error means that the instance ended meanwhile.
                answer.await.ok()
            }
            None => None,
        };
        if outcome != Some(CallbackOutcome::Accepted) {
            self.refuse();
        }
        outcome
    }

    /// Returns whether an instance expects a callback with that token.
    pub fn expect(&self, token: Option<ReadyToken>) -> bool {
        token.is_some_and(|token| self.expected().contains_key(&token))
    }

    /// Counts a callback that no instance has expected, here or at the daemon that this one replaces.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many callbacks no instance has accepted since the daemon started. Connections that the listener does not
    /// serve are not among them.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn register(&self, token: ReadyToken, instance: Recipient<CalledBack>) {
        self.expected().insert(token, instance);
    }

    pub(crate) fn remove(&self, token: ReadyToken) {
        self.expected().remove(&token);
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<ReadyToken, Recipient<CalledBack>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
