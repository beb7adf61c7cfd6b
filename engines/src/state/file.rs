//! Files of the state directory, opened and replaced so that neither a crash nor a foreign file can mislead the daemon.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{fcntl::OFlag, libc};

/// The extension of a file that is being written.
pub const TEMPORARY: &str = "new";
/// Only the daemon's user reads and writes them.
const MODE: u32 = 0o600;

/// Opens a regular file.
///
/// # Errors
/// Also for a named pipe, which would block, and for a link, which may lead to a file without an end.
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let irregular = || io::Error::other("it is no regular file");
    match options.mode(MODE).custom_flags(flags.bits()).open(path) {
        Ok(file) => file.metadata()?.is_file().then_some(file).ok_or_else(irregular),
        // The errors for a link, and for a named pipe that is opened for writing.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Err(irregular()),
        Err(error) => Err(error),
    }
}

/// Replaces the file at `path` in one step: readers find the old content or the new one. Does not wait for the disk.
///
/// # Errors
/// When it cannot be written; the old file is as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(TEMPORARY);
    let write = || {
        let mut file = create(&temporary)?;
        file.write_all(content)?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Creates the file, which must not exist. A leftover of a daemon that was killed is removed.
fn create(path: &Path) -> io::Result<File> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()
        }
        created => created,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn refuses_links_pipes_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let [link, pipe] = ["link", "pipe"].map(|name| directory.path().join(name));
        symlink("/dev/zero", &link).unwrap();
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for path in [&link, &pipe, directory.path()] {
            let refused = open_regular(path, OpenOptions::new().read(true)).unwrap_err().to_string();
            assert!(refused.contains("no regular file"), "{refused}");
        }
        let refused = open_regular(&pipe, OpenOptions::new().write(true)).unwrap_err().to_string();
        assert!(refused.contains("no regular file"), "{refused}");
    }

    #[test]
    fn replaces_file_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for content in ["one", "another"] {
            // As a daemon leaves it that was killed while it wrote.
            symlink("/dev/full", path.with_extension(TEMPORARY)).unwrap();
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
        fs::create_dir(path.with_extension(TEMPORARY)).unwrap();
        replace(&path, b"third").unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    }
}
