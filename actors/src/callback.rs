//! Whom a ready callback is for: secret tokens and the instances behind them.
//!
//! Shared between the callback listener and the InstanceActors, which enter themselves at args and are struck off when
//! they are gone. Whether a callback is believed is decided by `instance/lifecycle.rs`.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use actix::Recipient;
use tokio::sync::oneshot;

use crate::{id::ReadyToken, instance::CallbackOutcome, messages::CalledBack};

/// The tokens in force.
#[derive(Debug, Default)]
pub struct Callbacks {
    expected: Mutex<HashMap<ReadyToken, Recipient<CalledBack>>>,
    refused: AtomicU64,
}

impl Callbacks {
    /// Hands a callback to the instance of `token`. `None`: there is no such instance.
    pub async fn deliver(&self, token: Option<ReadyToken>, from: IpAddr) -> Option<CallbackOutcome> {
        let instance = token.and_then(|token| self.expected().get(&token).cloned());
        let outcome = match instance {
            Some(instance) => {
                let (reply, answer) = oneshot::channel();
                instance.do_send(CalledBack { from, reply });
                // No answer: the instance went while it was being asked.
                answer.await.ok()
            }
            None => None,
        };
        if outcome != Some(CallbackOutcome::Accepted) {
            self.refuse();
        }
        outcome
    }

    /// Counts one that was not even listened to.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Callbacks that were not believed, since the start of the daemon.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn expect(&self, token: ReadyToken, instance: Recipient<CalledBack>) {
        self.expected().insert(token, instance);
    }

    pub(crate) fn forget(&self, token: ReadyToken) {
        self.expected().remove(&token);
    }

    fn expected(&self) -> std::sync::MutexGuard<'_, HashMap<ReadyToken, Recipient<CalledBack>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
