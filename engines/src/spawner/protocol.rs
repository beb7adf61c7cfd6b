//! The messages between the daemon and the spawner process: postcard after its length, with descriptors beside it. Two
//! daemons exchange messages in the same form during an upgrade.

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::{
    state::SessionLeader,
    syscalls::{Failed, Launch, STANDARD},
};

/// Descriptors beside one message.
const MAX_DESCRIPTORS: usize = STANDARD + 1;
/// The bytes of a length.
const LENGTH: usize = size_of::<u32>();

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

/// The life of a child: `Failed`, or both others in this order.
#[derive(Debug, Serialize, Deserialize)]
pub enum Change {
    /// It has executed its program.
    Started(SessionLeader),
    /// It could not be started. Nothing is left of it.
    Failed(Failure),
    /// It was reaped, with this status of wait(2).
    Exited(i32),
}

/// Why a child could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// A step of the child before its program failed.
    #[error("{0}")]
    Step(Failed),
    /// Other processes stopped the child, this number of times.
    #[error("other processes stopped it {0} times before it executed its program")]
    Stopped(u32),
    /// The spawner process has ended.
    #[error("the spawner process has ended")]
    SpawnerEnded,
    /// The request could not be sent to the spawner process. Holds the error number of the system.
    #[error("the spawner process cannot be used: {}", io::Error::from_raw_os_error(*.0))]
    Spawner(i32),
}

impl Failure {
    /// Returns the error of the operating system, if there is one.
    pub fn error(self) -> Option<io::Error> {
        match self {
            Self::Step(failed) => Some(failed.error()),
            Self::Spawner(errno) => Some(io::Error::from_raw_os_error(errno)),
            Self::Stopped(_) | Self::SpawnerEnded => None,
        }
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Self::Step(failed)
    }
}

/// Appends a message to `buffer`.
///
/// # Errors
/// If the message cannot be serialized.
pub fn encode(message: &impl Serialize, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let begin = buffer.len();
    buffer.extend([0; LENGTH]);
    let mut buffer = postcard::to_extend(message, buffer).map_err(io::Error::other)?;
    let length = u32::try_from(buffer.len() - begin - LENGTH).map_err(io::Error::other)?;
    buffer[begin..begin + LENGTH].copy_from_slice(&length.to_le_bytes());
    Ok(buffer)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(io::Error::other)
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
    let bytes = encode(message, Vec::new())?;
    let socket = writer.as_ref();
    let sent = socket.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        Ok(sendmsg(socket.as_fd(), &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
    });
    let sent = sent.await?;
    writer.write_all(&bytes[sent..]).await
}

/// Receives a message with its descriptors, which are closed at exec. `None` once the other end is closed. Blocks.
///
/// # Errors
/// If the message is malformed or incomplete.
pub fn receive_blocking<T: DeserializeOwned>(socket: &mut UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (mut length, mut descriptors) = ([0; LENGTH], Vec::new());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut length)];
    let received = recvmsg(&*socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut length[received..])?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut body)?;
    Ok(Some((decode(&body)?, descriptors)))
}

/// Receives a message without descriptors. `None` once the other end is closed. Not cancel-safe.
///
/// # Errors
/// If the message is malformed or incomplete.
pub async fn receive<T: DeserializeOwned>(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<T>> {
    if reader.fill_buf().await?.is_empty() {
        return Ok(None);
    }
    let mut body = vec![0; reader.read_u32_le().await? as usize];
    reader.read_exact(&mut body).await?;
    decode(&body).map(Some)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        thread,
    };

    use tokio::net::UnixStream as AsyncUnixStream;

    use super::*;

    #[tokio::test]
    async fn requests_arrive_with_their_descriptors() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (_, mut writer) = AsyncUnixStream::from_std(ours).unwrap().into_split();
        let (from, mut to) = io::pipe().unwrap();
        to.write_all(b"through").unwrap();
        drop(to);
        let long = "x".repeat(1 << 20);
        let expected = long.clone();
        let receiving = thread::spawn(move || {
            let (message, mut descriptors): (String, _) = receive_blocking(&mut theirs).unwrap().unwrap();
            assert_eq!((message == expected, descriptors.len()), (true, 1));
            let mut text = String::new();
            File::from(descriptors.remove(0)).read_to_string(&mut text).unwrap();
            assert_eq!(text, "through");
            let (message, descriptors): (String, _) = receive_blocking(&mut theirs).unwrap().unwrap();
            assert_eq!((message.as_str(), descriptors.len()), ("short", 0));
            assert!(receive_blocking::<String>(&mut theirs).unwrap().is_none());
        });
        send(&mut writer, &long, &[from.as_fd()]).await.unwrap();
        send(&mut writer, &"short", &[]).await.unwrap();
        drop(writer);
        receiving.join().unwrap();
    }

    #[tokio::test]
    async fn events_arrive_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (reader, _writer) = AsyncUnixStream::from_std(ours).unwrap().into_split();
        let long = "x".repeat(1 << 20);
        let events = ["short", &long, "end"].into_iter().try_fold(Vec::new(), |buffer, text| encode(&text, buffer));
        let events = events.unwrap();
        let sending = thread::spawn(move || theirs.write_all(&events).unwrap());
        let mut reader = BufReader::new(reader);
        let mut next = async || receive::<String>(&mut reader).await.unwrap();
        assert_eq!(next().await.as_deref(), Some("short"));
        assert!(next().await == Some(long));
        assert_eq!((next().await.as_deref(), next().await), (Some("end"), None));
        sending.join().unwrap();
    }
}
