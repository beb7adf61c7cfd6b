//! Reports the end of an actor to its parent, including an end by panic.
//!
//! actix does not supervise panics: it drops the panicking actor and its context without a message. So each child owns an
//! [`ExitNotice`], which sends its message when it is dropped.
//!
//! The actors without a parent hold an [`EndGuard`] for the daemon, which waits for [`ended`].

use std::convert::Infallible;

use actix::{Actor, Addr, Handler, Message, Recipient, dev::ToEnvelope};
use tokio::sync::oneshot;

/// Held by an actor until it ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EndGuard(#[allow(dead_code, reason = "its drop is the signal")] oneshot::Sender<Infallible>);

/// Resolves once an actor has ended, also by panic.
pub async fn ended<A>(actor: &Addr<A>)
where
    A: Actor + Handler<EndGuard>,
    A::Context: ToEnvelope<A, EndGuard>,
{
    let (guard, dropped) = oneshot::channel();
    // An actor that has ended drops it with its mailbox.
    actor.do_send(EndGuard(guard));
    let _ = dropped.await;
}

pub(crate) struct ExitNotice<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    parent: Recipient<M>,
    message: Option<M>,
}

impl<M> ExitNotice<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// Creates a notice that sends `message` to `parent` when it is dropped.
    pub fn new(parent: Recipient<M>, message: M) -> Self {
        Self { parent, message: Some(message) }
    }

    /// Changes the message that will be sent.
    pub fn amend(&mut self, amend: impl FnOnce(&mut M)) {
        if let Some(message) = &mut self.message {
            amend(message);
        }
    }
}

impl<M> Drop for ExitNotice<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.parent.do_send(message);
        }
    }
}
