//! Tells the parent of an actor's death, whatever it died of.
//!
//! actix does not supervise panics: the panicking actor's context is dropped and nobody is told. So each child keeps an
//! [`ExitNotice`]; when the child goes, by a panic too, the parent gets the message.

use actix::{Message, Recipient};

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
    /// `message` are what the parent is told if nothing better comes up.
    pub fn new(parent: Recipient<M>, message: M) -> Self {
        Self { parent, message: Some(message) }
    }

    /// Changes the last words; they are sent when the actor goes.
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
