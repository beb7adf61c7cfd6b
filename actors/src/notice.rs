//! Reports the end of an actor to its parent, including an end by panic.
//!
//! actix does not supervise panics: it drops the panicking actor and its context without a message. So each child owns an
//! [`ExitNotice`], which sends its message when it is dropped.

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
