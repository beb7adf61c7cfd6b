//! The part of the inbox that any thread may use: it checks a request against its function, and passes commands to the
//! store.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    commands::{Command, CommandSender, Reply},
    record::{Firing, NewInvocation, StoredRequest},
    store::{EnqueueRefusal, Stored},
};
use crate::{
    directory::Directory,
    refusal::Refusal,
    spec::{AsyncSpec, Durability},
};

/// A request for an asynchronous invocation. This is how work gets in: from clients and from triggers.
#[derive(Debug, Clone)]
pub struct Enqueue {
    /// The function it is for.
    pub function: String,
    /// What the function gets. `Idempotency-Key` and the headers of the attempt are added later.
    pub request: StoredRequest,
    /// What makes a repeat recognisable, within the function. Visible ASCII, 255 bytes at most.
    pub key: Option<String>,
    /// Where the result goes. It has been checked.
    pub callback: Option<String>,
    /// How long it waits before its first attempt.
    pub delay: Duration,
    /// How long after its acceptance it may be tried, at most: the function's `max-age` bounds it.
    pub max_age: Option<Duration>,
    /// Recorded in the same transaction.
    pub firing: Option<Firing>,
    /// Whether one node of the site runs it, whatever the function's `durability` is.
    pub for_site: bool,
}

impl Enqueue {
    /// Makes a request that is due at once and has no key.
    pub fn new(function: &str, request: StoredRequest) -> Self {
        let (function, delay) = (function.to_owned(), Duration::ZERO);
        Self { function, request, key: None, callback: None, delay, max_age: None, firing: None, for_site: false }
    }
}

/// Why an invocation is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueError {
    /// There is no such function.
    #[error("no function of this name is registered")]
    NoSuchFunction,
    /// The function cannot serve at all.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The function says `[async] allow = false`.
    #[error("the function accepts no asynchronous invocations")]
    NotAllowed,
    /// The body is larger than the function's `[async] max-body`.
    #[error("the request body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The store refuses it.
    #[error(transparent)]
    NotStored(#[from] EnqueueRefusal),
}

/// What connects this node with the others of its site.
pub trait SiteLink: Send + Sync {
    /// Whether there is a connection at the moment.
    fn is_connected(&self) -> bool;

    /// Hands over what waits for that in the store.
    fn wake(&self);
}

/// Accepts invocations, and answers questions about them.
#[derive(Clone)]
pub struct InboxHandle {
    directory: Arc<Directory>,
    store: Arc<dyn CommandSender>,
    site: Option<Arc<dyn SiteLink>>,
}

impl InboxHandle {
    /// Makes a handle that passes commands to `store`. Without `site`, everything runs on this node.
    pub fn new(directory: Arc<Directory>, store: Arc<dyn CommandSender>, site: Option<Arc<dyn SiteLink>>) -> Self {
        Self { directory, store, site }
    }

    /// Whether the node is cut off from its site. Without one it never is.
    pub fn is_cut_off(&self) -> bool {
        self.site.as_ref().is_some_and(|site| !site.is_connected())
    }

    /// Whether the site may have invocations of a function. A function that this node does not know may have shared them.
    pub fn may_share(&self, function: &str) -> bool {
        let spec = self.directory.find(function).and_then(|handle| handle.spec());
        spec.is_none_or(|spec| spec.triggers.shares_work)
    }

    /// Returns how a function's asynchronous invocations are treated.
    ///
    /// # Errors
    /// It accepts none.
    pub fn policy(&self, function: &str) -> Result<AsyncSpec, EnqueueError> {
        let handle = self.directory.find(function).ok_or(EnqueueError::NoSuchFunction)?;
        let policy = handle.serving_spec()?.asynchronous.clone();
        if policy.allow { Ok(policy) } else { Err(EnqueueError::NotAllowed) }
    }

    /// Stores an invocation. It is durable when this returns its id.
    ///
    /// # Errors
    /// Nothing is stored.
    pub async fn enqueue(&self, enqueue: Enqueue) -> Result<Stored, EnqueueError> {
        let policy = self.policy(&enqueue.function)?;
        if enqueue.request.body.len() as u64 > policy.max_body {
            return Err(EnqueueError::BodyTooLarge { limit: policy.max_body });
        }
        let Enqueue { function, request, key, callback, delay, max_age, firing, for_site } = enqueue;
        let is_shared = for_site || policy.durability == Durability::Site;
        let site = self.site.as_ref().filter(|_| is_shared);
        let new = NewInvocation {
            function: function.into(),
            request,
            key: key.map(Into::into),
            callback: callback.map(Into::into),
            delay,
            max_age: max_age.unwrap_or(policy.max_age).min(policy.max_age),
            queue: policy.queue.get(),
            firing,
            for_site: site.is_some(),
        };
        let stored = self.ask(|reply| Command::Enqueue(Box::new(new), reply)).await;
        let stored = stored.map_err(|why| EnqueueRefusal::Unavailable { why })??;
        if let Some(site) = site {
            site.wake();
        }
        Ok(stored)
    }

    /// Asks the store.
    ///
    /// # Errors
    /// Why it does not answer.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        self.store.send(command(reply)).map_err(|closed| closed.to_string())?;
        answer.await.map_err(|_| "the store of invocations cannot be used at the moment; see the log".to_owned())
    }
}
