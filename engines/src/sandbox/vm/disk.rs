//! Private copies of root disks: a reflink where the file system supports it, else a sparse copy.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Seek, SeekFrom},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    },
    path::Path,
};

use io::Read;
use nix::{
    errno::Errno,
    libc,
    unistd::{Whence, lseek},
};

nix::ioctl_write_int_bad!(file_clone, libc::FICLONE);

/// Copies a disk image, or a directory that is shared as a root file system. Blocks for as long as the copy takes: never
/// call it on the actors' thread.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    // `from` itself may be a link, and its target is copied; links inside of a directory stay links.
    if metadata.is_dir() || from.is_dir() { copy_directory(from, to) } else { copy_file(from, to) }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target)?;
            permit(&target, entry.metadata()?.permissions())?;
        }
        // Sockets and named pipes are not copied.
    }
    permit(to, fs::metadata(from)?.permissions())
}

/// Sets the permissions, without the set-user-id bits where the service manager forbids those (RestrictSUIDSGID).
fn permit(file: &Path, permissions: Permissions) -> io::Result<()> {
    let mode = permissions.mode();
    match fs::set_permissions(file, permissions) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && mode & 0o6000 != 0 => {
            fs::set_permissions(file, Permissions::from_mode(mode & 0o1777))
        }
        result => result,
    }
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    // SAFETY: both are open files, and the call takes only their numbers.
    if unsafe { file_clone(target.as_raw_fd(), source.as_raw_fd()) }.is_ok() {
        return Ok(());
    }
    copy_data(&source, &target)
}

fn copy_data(mut source: &File, mut target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut position = 0;
    while position < length {
        let start = match lseek(source, position as libc::off_t, Whence::SeekData) {
            Ok(start) => start as u64,
            // Only a hole up to the end.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = lseek(source, start as libc::off_t, Whence::SeekHole)? as u64;
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        io::copy(&mut source.take(end - start), &mut target)?;
        position = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn copy_has_same_bytes_and_stays_sparse() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 * MIB).unwrap();
        file.write_all_at(b"start", 0).unwrap();
        file.write_all_at(&[7; 10_000], 20 * MIB + 123).unwrap();
        drop(file);

        copy_data(&File::open(&from).unwrap(), &File::create(&to).unwrap()).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(to.metadata().unwrap().blocks() * 512 < MIB, "the holes were filled");
        fs::remove_file(&to).unwrap();
        copy(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
    }

    #[test]
    fn copy_is_independent_and_never_replaces_a_file() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::write(&from, "one").unwrap();
        copy(&from, &to).unwrap();
        fs::write(&from, "two").unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"one");
        assert_eq!(copy(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::write(place.path().join("empty"), "").unwrap();
        copy(&place.path().join("empty"), &place.path().join("copy")).unwrap();
    }

    #[test]
    fn copies_directory_with_links_and_permissions() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/f"), "program").unwrap();
        fs::set_permissions(from.join("bin/f"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("bin/f", from.join("init")).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_link(to.join("init")).unwrap(), Path::new("bin/f"));
        assert_eq!(fs::metadata(to.join("bin/f")).unwrap().permissions().mode() & 0o7777, 0o4755);
    }
}
