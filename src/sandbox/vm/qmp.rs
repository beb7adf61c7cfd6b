//! QMP client that reads why a guest ended.
//!
//! QEMU's standard input is one end of a socket pair. QEMU sends events once the client has negotiated its capabilities;
//! that command is written before QEMU runs.

use std::{io, os::fd::OwnedFd, os::unix::net::UnixStream as StdUnixStream};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    task::{self, JoinHandle},
};

const NEGOTIATE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
const SHUTDOWN: &str = "SHUTDOWN";

/// The daemon's end of QEMU's standard input.
pub struct QmpClient(UnixStream);

#[derive(Debug, Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    reason: Option<String>,
}

impl QmpClient {
    /// Returns a client, and the standard input for QEMU.
    pub async fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut ours = UnixStream::from_std(ours)?;
        ours.write_all(NEGOTIATE).await?;
        Ok((Self(ours), theirs.into()))
    }

    /// Reads events until QEMU has ended. Returns the reason of the last SHUTDOWN event.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn listen(self) -> JoinHandle<Option<String>> {
        task::spawn_local(async move {
            let mut lines = BufReader::new(self.0).lines();
            let mut reason = None;
            while let Ok(Some(line)) = lines.next_line().await {
                reason = shutdown_reason(&line).or(reason);
            }
            reason
        })
    }
}

/// Returns the reason in a SHUTDOWN event.
fn shutdown_reason(line: &str) -> Option<String> {
    let message: Message = serde_json::from_str(line).ok()?;
    message.event.filter(|event| event == SHUTDOWN).and(message.data?.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_reason_and_ignores_other_messages() {
        let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert_eq!(shutdown_reason(event).as_deref(), Some("guest-reset"));
        for other in [r#"{"return": {}}"#, r#"{"QMP": {"version": {}}}"#, r#"{"event": "RESUME"}"#, "", "nonsense"] {
            assert_eq!(shutdown_reason(other), None);
        }
    }
}
