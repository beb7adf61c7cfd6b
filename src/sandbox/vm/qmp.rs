//! QEMU's monitor protocol, as far as it tells why a guest ended.
//!
//! QEMU's standard input is one end of a pair of sockets. It sends events once the client has said what it can do; that
//! is said before QEMU even runs.

use std::{io, os::fd::OwnedFd, os::unix::net::UnixStream as StdUnixStream};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    task::{self, JoinHandle},
};

const GREETING: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
const END: &str = "SHUTDOWN";

/// The other end of QEMU's standard input.
pub struct Monitor(UnixStream);

#[derive(Debug, Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    reason: Option<String>,
}

impl Monitor {
    /// A pair: ours, and the one for QEMU.
    pub async fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut ours = UnixStream::from_std(ours)?;
        ours.write_all(GREETING).await?;
        Ok((Self(ours), theirs.into()))
    }

    /// Listens until QEMU is gone. Gives the reason for which it ended by itself.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn listen(self) -> JoinHandle<Option<String>> {
        task::spawn_local(async move {
            let mut lines = BufReader::new(self.0).lines();
            let mut reason = None;
            while let Ok(Some(line)) = lines.next_line().await {
                reason = ending(&line).or(reason);
            }
            reason
        })
    }
}

/// The reason in a message that tells of the end.
fn ending(line: &str) -> Option<String> {
    let message: Message = serde_json::from_str(line).ok()?;
    message.event.filter(|event| event == END).and(message.data?.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_an_ending_is_read_and_all_else_is_passed_over() {
        let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert_eq!(ending(event).as_deref(), Some("guest-reset"));
        for other in [r#"{"return": {}}"#, r#"{"QMP": {"version": {}}}"#, r#"{"event": "RESUME"}"#, "", "nonsense"] {
            assert_eq!(ending(other), None);
        }
    }
}
