//! QMP client: sends commands to QEMU, and notes what QEMU reports by itself.
//!
//! QEMU's standard input is one end of a socket pair. QEMU sends events once the client has negotiated its capabilities;
//! that command is written before QEMU runs. Replies come in the order of the commands.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    rc::Rc,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
    task,
};

const NEGOTIATE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// A line from QEMU.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    event: Option<String>,
    data: Option<Data>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<ErrorReply>,
}

#[derive(Debug, Deserialize)]
struct Greeting {
    version: Value,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    reason: Option<String>,
    status: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ErrorReply {
    desc: String,
}

/// What QEMU has reported so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Its version, in its own words. From the greeting on.
    pub version: Option<String>,
    /// The last status of a migration.
    pub migration: Option<String>,
    /// The guest was resumed.
    pub is_resumed: bool,
    /// Why the guest ended.
    pub shutdown: Option<String>,
    /// QEMU has ended.
    pub has_ended: bool,
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("QEMU refuses {command}: {why}")]
    Refused { command: &'static str, why: String },
    #[error("QEMU has ended")]
    Ended,
    #[error("QEMU's monitor: {0}")]
    Io(#[from] io::Error),
}

type Reply = oneshot::Sender<Result<Value, String>>;

/// The client of one QEMU.
#[derive(Debug, Clone)]
pub struct QmpClient {
    /// Its drop would end the monitor, so the reader has it, too.
    writer: Rc<OwnedWriteHalf>,
    replies: Rc<RefCell<VecDeque<Reply>>>,
    reported: watch::Receiver<Reported>,
}

impl QmpClient {
    /// Returns the standard input for QEMU, and the client at its other end, which reads until QEMU has ended.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn listen() -> io::Result<(OwnedFd, Self)> {
        let (mut ours, theirs) = StdUnixStream::pair()?;
        ours.write_all(NEGOTIATE)?;
        ours.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let (note, reported) = watch::channel(Reported::default());
        // The reply to the negotiation is not waited for.
        let replies = Rc::new(RefCell::new(VecDeque::from([oneshot::channel().0])));
        let client = Self { writer: Rc::new(writer), replies, reported };
        task::spawn_local(read(reader, note, client.replies.clone(), client.writer.clone()));
        Ok((theirs.into(), client))
    }

    /// Executes a command. `file` is passed along with it.
    pub async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        let (reply, answer) = oneshot::channel();
        self.replies.borrow_mut().push_back(reply);
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.send(line.as_bytes(), file).await?;
        match answer.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(why)) => Err(QmpError::Refused { command, why }),
            Err(_) => Err(QmpError::Ended),
        }
    }

    async fn send(&self, line: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let socket: &UnixStream = (*self.writer).as_ref();
        let mut sent = 0;
        while sent < line.len() {
            sent += socket
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut ancillary = SendAncillaryBuffer::new(&mut space);
                    let files = file.as_slice();
                    // With the first bytes.
                    if sent == 0 && !files.is_empty() {
                        ancillary.push(SendAncillaryMessage::ScmRights(files));
                    }
                    Ok(sendmsg(socket.as_fd(), &[IoSlice::new(&line[sent..])], &mut ancillary, SendFlags::NOSIGNAL)?)
                })
                .await?;
        }
        Ok(())
    }

    /// Waits until QEMU has reported what `is_enough`, and returns all that it has reported.
    ///
    /// # Errors
    /// When QEMU ends before.
    pub async fn reported(&self, is_enough: impl Fn(&Reported) -> bool) -> Result<Reported, QmpError> {
        let mut reported = self.reported.clone();
        let reported = reported.wait_for(|seen| seen.has_ended || is_enough(seen)).await;
        // The reader notes the end before it ends.
        let reported = reported.map_err(|_| QmpError::Ended)?.clone();
        if is_enough(&reported) { Ok(reported) } else { Err(QmpError::Ended) }
    }

    /// Waits until QEMU has ended, and returns the reason of the last SHUTDOWN event.
    pub async fn exit_reason(&self) -> Option<String> {
        self.reported(|seen| seen.has_ended).await.ok()?.shutdown
    }
}

/// Reads what QEMU sends until it ends. `_writer` keeps the monitor open.
async fn read(
    reader: OwnedReadHalf,
    note: watch::Sender<Reported>,
    replies: Rc<RefCell<VecDeque<Reply>>>,
    _writer: Rc<OwnedWriteHalf>,
) {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        let reply = match (&message.result, &message.error) {
            (Some(result), _) => Some(Ok(result.clone())),
            (None, Some(error)) => Some(Err(error.desc.clone())),
            (None, None) => None,
        };
        if let Some(reply) = reply
            && let Some(waiting) = replies.borrow_mut().pop_front()
        {
            // The command may have been given up.
            let _ = waiting.send(reply);
        }
        note.send_if_modified(|reported| reported.add(message));
    }
    note.send_modify(|reported| reported.has_ended = true);
    replies.borrow_mut().clear();
}

impl Reported {
    /// Notes a message, and returns whether it says something.
    fn add(&mut self, message: Message) -> bool {
        let data = message.data.unwrap_or_default();
        match (message.greeting, message.event.as_deref()) {
            (Some(greeting), _) => self.version = Some(version(&greeting.version)),
            (None, Some("SHUTDOWN")) => self.shutdown = data.reason.or(self.shutdown.take()),
            (None, Some("MIGRATION")) => self.migration = data.status,
            (None, Some("RESUME")) => self.is_resumed = true,
            (None, _) => return false,
        }
        true
    }
}

/// Returns a version as `7.2.22 (Debian 1:7.2+dfsg-7)`.
fn version(version: &Value) -> String {
    let part = |name: &str| version["qemu"][name].as_u64().unwrap_or_default();
    let package = version["package"].as_str().unwrap_or_default();
    format!("{}.{}.{} ({package})", part("major"), part("minor"), part("micro"))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{BufRead, BufReader as StdBufReader, Seek},
    };

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use tokio::task::LocalSet;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

    #[tokio::test]
    async fn notes_what_is_reported_and_ignores_the_rest() {
        LocalSet::new().run_until(notes()).await;
    }

    async fn notes() {
        let (theirs, client) = QmpClient::listen().unwrap();
        let mut qemu = StdUnixStream::from(theirs);
        for line in [
            GREETING,
            r#"{"return": {}}"#,
            "",
            "nonsense",
            r#"{"timestamp": {"seconds": 1}, "event": "STOP"}"#,
            r#"{"event": "RESUME"}"#,
            r#"{"event": "MIGRATION", "data": {"status": "active"}}"#,
            r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
        ] {
            writeln!(qemu, "{line}").unwrap();
        }
        let seen = client.reported(|seen| seen.shutdown.is_some()).await.unwrap();
        assert_eq!((seen.version.as_deref(), seen.migration.as_deref()), (Some("7.2.22 (Debian)"), Some("active")));
        assert!(seen.is_resumed && !seen.has_ended);
        drop(qemu);
        assert_eq!(client.exit_reason().await.as_deref(), Some("guest-reset"));
        assert!(matches!(client.execute("quit", Value::Null, None).await, Err(QmpError::Ended | QmpError::Io(_))));
        assert!(matches!(client.reported(|_| false).await, Err(QmpError::Ended)));
    }

    #[tokio::test]
    async fn replies_belong_to_commands_in_order_and_files_are_passed() {
        LocalSet::new().run_until(replies()).await;
    }

    async fn replies() {
        let (theirs, client) = QmpClient::listen().unwrap();
        let qemu = StdUnixStream::from(theirs);
        let monitor = std::thread::spawn(move || {
            let mut replies = qemu.try_clone().unwrap();
            let mut negotiation = String::new();
            StdBufReader::with_capacity(1, &qemu).read_line(&mut negotiation).unwrap();
            assert_eq!(negotiation.as_bytes(), NEGOTIATE);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut first = [0; 4096];
            let buffers = &mut [io::IoSliceMut::new(&mut first)];
            recvmsg(&qemu, buffers, &mut ancillary, RecvFlags::empty()).unwrap();
            let passed = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut files) => files.next(),
                _ => None,
            });
            File::from(passed.expect("a file")).write_all(b"state").unwrap();
            writeln!(replies, r#"{{"return": {{}}}}"#).unwrap();
            writeln!(replies, r#"{{"return": {{"x": 1}}}}"#).unwrap();
            let mut second = String::new();
            StdBufReader::with_capacity(1, &qemu).read_line(&mut second).unwrap();
            assert!(second.contains("migrate"), "{second}");
            writeln!(replies, r#"{{"error": {{"class": "GenericError", "desc": "no"}}}}"#).unwrap();
        });
        let mut file = tempfile::tempfile().unwrap();
        let got = client.execute("getfd", json!({ "fdname": "f" }), Some(file.as_fd())).await.unwrap();
        assert_eq!(got, json!({ "x": 1 }));
        let refused = client.execute("migrate", json!({ "uri": "fd:f" }), None).await.unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refuses migrate: no");
        monitor.join().unwrap();
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "state");
    }
}
