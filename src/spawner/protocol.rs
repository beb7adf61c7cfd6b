//! The messages between the daemon and the spawner process: JSON after its length, with descriptors beside it.

use std::{
    borrow::Cow,
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

use super::confinement::Confinement;
use crate::state::SessionLeader;

/// Standard input, output and error of a child.
pub const STANDARD: usize = 3;
/// The step that executes the program: its error is the program's.
pub const EXEC: &str = "exec";
/// The bytes of a length.
const LENGTH: usize = size_of::<u32>();

/// A complete command. No `Debug`: its arguments and environment contain secrets.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// A path relative to the function's directory, or a name to be looked up in the PATH of `env`.
    pub program: PathBuf,
    /// The zeroth argument.
    pub name: String,
    /// The other arguments.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
}

/// A child to be created. No `Debug`, as [`Invocation`].
#[derive(Serialize, Deserialize)]
pub struct Launch {
    pub invocation: Invocation,
    /// The working directory.
    pub directory: OsString,
    /// `None`: a program of the host, which keeps the daemon's user and privileges.
    pub confinement: Option<Confinement>,
}

/// A request of the daemon. Ids of children are never reused.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// Creates a child. Its standard descriptors come with the message.
    Start { id: u64, launch: Box<Launch> },
    /// Signals the process group of a child, unless the child has been reaped.
    Signal { id: u64, signal: i32 },
}

/// A change of one child.
#[derive(Debug, Serialize, Deserialize)]
pub struct Event {
    pub id: u64,
    pub change: Change,
}

/// The life of a child: `Failed`, or all others in this order. `Failed` may follow `Created`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Change {
    /// It exists, and has not yet executed its program.
    Created(SessionLeader),
    /// It has executed its program.
    Executed,
    /// It could not be started. Nothing is left of it.
    Failed(Failure),
    /// It was reaped, with this status of wait(2).
    Exited(i32),
}

/// A step of a start that failed, and its error number.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub step: Cow<'static, str>,
    pub errno: i32,
}

/// Returns the conversion of an error at `step`.
pub fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure {
        step: step.into(),
        errno: error.into().raw_os_error().unwrap_or(nix::errno::Errno::EINVAL as i32),
    }
}

/// Sends a message with descriptors. Not cancel-safe.
///
/// # Errors
/// If the other end is closed, or the message cannot be serialized.
pub async fn send(
    writer: &mut OwnedWriteHalf,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - LENGTH).map_err(io::Error::other)?;
    bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
    let socket = writer.as_ref();
    let sent = socket.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STANDARD))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        Ok(sendmsg(socket.as_fd(), &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
    });
    let sent = sent.await?;
    writer.write_all(&bytes[sent..]).await
}

/// Receives a message with its descriptors, which are closed at exec. `None` once the other end is closed. Not cancel-safe.
///
/// # Errors
/// If the message is malformed or incomplete.
pub async fn receive<T: DeserializeOwned>(reader: &mut OwnedReadHalf) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (mut length, mut descriptors) = ([0; LENGTH], Vec::new());
    let socket = reader.as_ref();
    let received = socket.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STANDARD))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let buffers = &mut [IoSliceMut::new(&mut length)];
        let received = recvmsg(socket.as_fd(), buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        Ok(received.bytes)
    });
    let received = received.await?;
    if received == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut length[received..]).await?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    reader.read_exact(&mut body).await?;
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn messages_arrive_with_their_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((_, mut writer), (mut reader, _)) = (ours.into_split(), theirs.into_split());
        let (from, mut to) = io::pipe().unwrap();
        to.write_all(b"through").unwrap();
        drop(to);
        let long = "x".repeat(1 << 20);
        let sending = async {
            send(&mut writer, &long, &[from.as_fd()]).await.unwrap();
            send(&mut writer, &"short", &[]).await.unwrap();
            drop(writer);
        };
        let receiving = async {
            let (message, mut descriptors): (String, _) = receive(&mut reader).await.unwrap().unwrap();
            assert_eq!((message == long, descriptors.len()), (true, 1));
            let mut text = String::new();
            File::from(descriptors.remove(0)).read_to_string(&mut text).unwrap();
            assert_eq!(text, "through");
            let (message, descriptors): (String, _) = receive(&mut reader).await.unwrap().unwrap();
            assert_eq!((message.as_str(), descriptors.len()), ("short", 0));
            assert!(receive::<String>(&mut reader).await.unwrap().is_none());
        };
        futures::future::join(sending, receiving).await;
    }
}
