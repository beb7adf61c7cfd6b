//! The socket between the daemons: queues of messages in both directions.

use std::{io, os::unix::net::UnixStream as StdUnixStream};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::BufReader, net::UnixStream, sync::mpsc};

use crate::spawner::{receive, send};

/// One end of the socket. `incoming` is closed when the other daemon has ended.
#[derive(Debug)]
pub struct Link<Out, In> {
    pub outgoing: mpsc::UnboundedSender<Out>,
    pub incoming: mpsc::UnboundedReceiver<In>,
}

impl<Out: Serialize + 'static, In: DeserializeOwned + 'static> Link<Out, In> {
    /// Exchanges messages over the socket.
    ///
    /// # Panics
    /// Outside of an arbiter.
    pub fn over(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(socket)?.into_split();
        let (outgoing, mut queue) = mpsc::unbounded_channel();
        let (received, incoming) = mpsc::unbounded_channel();
        actix::spawn(async move {
            while let Some(message) = queue.recv().await {
                if send(&mut writer, &message, &[]).await.is_err() {
                    return;
                }
            }
        });
        actix::spawn(async move {
            let mut reader = BufReader::new(reader);
            // A malformed message has the same effect as the end.
            while let Ok(Some(message)) = receive(&mut reader).await {
                if received.send(message).is_err() {
                    return;
                }
            }
        });
        Ok(Self { outgoing, incoming })
    }
}
