//! QMP client that reads why a guest ended.
//!
//! QEMU's standard input is one end of a socket pair. QEMU sends events once the client has negotiated its capabilities;
//! that command is written before QEMU runs.

use std::{
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixStream,
    task::{self, JoinHandle},
};

const NEGOTIATE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
const SHUTDOWN: &str = "SHUTDOWN";

#[derive(Debug, Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    reason: Option<String>,
}

/// Returns the standard input for QEMU, and a task that reads events from its other end until QEMU has ended. The result is
/// the reason of the last SHUTDOWN event.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn listen() -> io::Result<(OwnedFd, JoinHandle<Option<String>>)> {
    let (mut ours, theirs) = StdUnixStream::pair()?;
    ours.write_all(NEGOTIATE)?;
    ours.set_nonblocking(true)?;
    let mut lines = BufReader::new(UnixStream::from_std(ours)?).lines();
    let reason = task::spawn_local(async move {
        let mut last = None;
        while let Ok(Some(line)) = lines.next_line().await {
            last = shutdown_reason(&line).or(last);
        }
        last
    });
    Ok((theirs.into(), reason))
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
