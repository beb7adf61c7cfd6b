//! The lock of the state directory: one daemon at a time. The kernel releases it however the daemon ends.
//!
//! It is a lock of the process (`fcntl`) and not of the open file (`flock`), so children do not hold it. For the same
//! reason no other code of this process may open the file: closing it would release the lock.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use super::file;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Why the lock cannot be taken.
#[derive(Debug)]
pub enum Refusal {
    /// Another daemon holds it, with this process id if that is known.
    Held(Option<i32>),
    Failed(io::Error),
}

impl Lock {
    /// Takes the lock on the file at `path`, without waiting.
    pub fn take(path: &Path) -> Result<Self, Refusal> {
        let open = file::open_regular(path, OpenOptions::new().write(true).create(true).truncate(false));
        let file = open.map_err(Refusal::Failed)?;
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => Ok(Self(file)),
            Err(Errno::EACCES | Errno::EAGAIN) => Err(Refusal::Held(holder(&file))),
            Err(errno) => Err(Refusal::Failed(errno.into())),
        }
    }
}

impl Lock {
    /// Returns which other process holds the lock on the file at `path`. Not to be called for a lock of this process,
    /// which this would release.
    pub fn holder(path: &Path) -> Option<i32> {
        file::open_regular(path, OpenOptions::new().write(true)).ok().and_then(|file| holder(&file))
    }
}

fn holder(file: &File) -> Option<i32> {
    let mut lock = whole_file();
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK && lock.l_pid > 0).then_some(lock.l_pid)
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
