//! One daemon at a time: a lock on a file, which the kernel takes away when the daemon ends, however it does.
//!
//! It is a lock of the process (`fcntl`), not of an open file (`flock`): children have no part in it. For the same reason
//! nobody else in this process may open the file.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

/// Held as long as it exists.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Why there is none.
#[derive(Debug)]
pub enum Refusal {
    /// Another daemon has it. Its process id, where that can be known.
    Held(Option<i32>),
    Failed(io::Error),
}

impl Lock {
    pub fn take(path: &Path) -> Result<Self, Refusal> {
        let open = super::open(path, OpenOptions::new().write(true).create(true).truncate(false).mode(0o600));
        let file = open.map_err(Refusal::Failed)?;
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => Ok(Self(file)),
            Err(Errno::EACCES | Errno::EAGAIN) => Err(Refusal::Held(holder(&file))),
            Err(errno) => Err(Refusal::Failed(errno.into())),
        }
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
