//! The connection to the NATS server of the site, for what needs JetStream beside the link that has made it.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, Subscriber,
    connection::State,
    jetstream::{Context, context::ContextBuilder},
};
use tokio::{sync::watch, time::timeout};

use super::denials::Denials;

/// How long JetStream may take to answer. A server with a full disk does not answer at all.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The connection, once the link has made it. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct NatsClient {
    client: Arc<watch::Sender<Option<Client>>>,
    /// What its server does not let this node do.
    pub denials: Denials,
}

/// Why JetStream cannot be used at the moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JetStreamError {
    /// There is no connection.
    #[error("there is no connection to the NATS server of the site")]
    NotConnected,
    /// The server has no JetStream.
    #[error("JetStream is off at the NATS server {0}: its configuration needs a block `jetstream`")]
    Off(String),
}

impl NatsClient {
    /// Takes over the connection that the link has made. It stays the same: the client makes it again by itself.
    pub(super) fn set(&self, client: Client) {
        self.client.send_replace(Some(client));
    }

    /// Returns what notices each connection: the first one, and those that are made anew.
    pub fn connected(&self) -> watch::Receiver<Option<Client>> {
        self.client.subscribe()
    }

    /// Waits until what was said is on its way to the server, if there is a connection.
    pub(super) async fn flush(&self) {
        let client = self.client.borrow().clone().filter(|client| client.connection_state() == State::Connected);
        if let Some(client) = client {
            // Without an answer the connection is about to be lost.
            let _ = timeout(TIMEOUT, client.flush()).await;
        }
    }

    /// Returns JetStream, if it can be used at the moment.
    ///
    /// # Errors
    /// There is no connection, or the server has no JetStream.
    pub fn jetstream(&self) -> Result<Context, JetStreamError> {
        let client = self.client.borrow().clone().filter(|client| client.connection_state() == State::Connected);
        let client = client.ok_or(JetStreamError::NotConnected)?;
        let info = client.server_info();
        if !info.jetstream {
            return Err(JetStreamError::Off(info.server_name));
        }
        Ok(ContextBuilder::new().timeout(TIMEOUT).build(client))
    }

    /// Hears the messages of a subject.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, JetStreamError> {
        let client = self.client.borrow().clone().filter(|client| client.connection_state() == State::Connected);
        let client = client.ok_or(JetStreamError::NotConnected)?;
        // The client has ended, or the subject is empty.
        client.subscribe(subject).await.map_err(|_| JetStreamError::NotConnected)
    }

    /// Returns the largest payload that the server takes, in bytes. 0: there was no connection yet.
    pub fn max_payload(&self) -> usize {
        self.client.borrow().as_ref().map_or(0, |client| client.server_info().max_payload)
    }
}
