//! Reads a `function.toml` and checks what it names on this host: files, programs and users. `kernel.rs` recognises kernels,
//! `program.rs` programs; `guest.rs` checks whether a guest can boot with all of it.

use std::{
    borrow::Cow,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{fcntl::OFlag, unistd::User};

use super::{
    FunctionSpec, Readiness, SPEC_FILE, VmSpec,
    check::check,
    error::{Problem, SpecError},
    kernel::{self, Vmm},
    program,
    raw::{Section, line_at},
};

/// Largest `function.toml`, in bytes.
const MAX_SIZE: u64 = 64 << 10;
/// How a qcow2 image starts.
const QCOW2: &[u8; 4] = b"QFI\xfb";

/// Something that is checked on this host, and the key that names it.
pub(super) struct Reference {
    key: String,
    line: Option<usize>,
    subject: Subject,
}

pub(super) enum Subject {
    /// A file or directory.
    Path(PathBuf, Target),
    /// A program to be looked up in this PATH, in the function's directory.
    Program { name: String, path: Option<String>, directory: PathBuf },
    /// A user of this host.
    User(String),
    /// The memory of a guest.
    Memory(VmSpec),
    /// The command line of a guest, and how its readiness is detected.
    Cmdline(VmSpec, Readiness),
}

/// What a path has to lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A regular file that the daemon can read.
    File,
    /// A disk image as Firecracker takes it.
    RawDisk,
    /// An initial ramdisk.
    Initrd,
    /// A file that this VMM can boot.
    Kernel(Vmm),
    /// A directory that the daemon can read.
    Directory,
    /// A regular file with an execute permission that this host can execute.
    Program,
}

impl Reference {
    pub(super) fn new(section: &Section<'_>, key: &str, subject: Subject) -> Self {
        Reference { key: section.path_of(key), line: section.line_of(key), subject }
    }

    /// Whether it may come and go without a change of the function: then the daemon leaves it to the starts.
    fn is_of_host(&self) -> bool {
        matches!(self.subject, Subject::Program { .. } | Subject::User(_))
    }

    fn check(&self) -> Result<(), Problem> {
        let checked = match &self.subject {
            Subject::Path(path, target) => look(path, *target).map_err(|reason| format!("{path:?} {reason}")),
            Subject::Program { name, path, directory } => program::find(name, path.as_deref(), directory),
            Subject::User(name) => user(name),
            Subject::Memory(vm) => vm.check_memory(),
            Subject::Cmdline(vm, readiness) => vm.check_cmdline(readiness),
        };
        checked.map_err(|message| Problem { key: Some(self.key.clone()), line: self.line, message })
    }
}

/// Checks that there is such a user. A number needs no account.
fn user(name: &str) -> Result<(), String> {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    // An error says nothing about the user: a directory server may be unreachable.
    match User::from_name(name) {
        Ok(None) if !is_number => Err(format!("there is no user {name:?} on this host")),
        _ => Ok(()),
    }
}

/// Reads a function, which is named like its directory unless it has another name; with `host`, checks its programs in PATH and
/// its user, too.
pub(super) fn load(directory: &Path, name: Option<&str>, host: bool) -> Result<FunctionSpec, SpecError> {
    let refuse = |file: PathBuf, problem| Err(SpecError::new(file, vec![problem]));
    let absolute = match std::path::absolute(directory) {
        Ok(absolute) => absolute,
        Err(error) => return refuse(directory.join(SPEC_FILE), Problem::of_file(format!("no usable path: {error}"))),
    };
    let file = absolute.join(SPEC_FILE);
    let text = match read(&file) {
        Ok(text) => text,
        Err(problem) => return refuse(file, problem),
    };
    let name = name.map_or_else(|| absolute.file_name().unwrap_or_default().to_string_lossy(), Cow::Borrowed);
    let mut checked = check(&name, &absolute, &text);
    let references = checked.references.iter().filter(|reference| host || !reference.is_of_host());
    checked.problems.extend(references.filter_map(|reference| reference.check().err()));
    checked.finish(file)
}

fn read(file: &Path) -> Result<String, Problem> {
    let unreadable = |error: io::Error| Problem::of_file(reason(&error));
    let file = open(file).map_err(Problem::of_file)?;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(Problem::of_file(format!("is larger than {} KiB", MAX_SIZE >> 10)));
    }
    String::from_utf8(bytes).map_err(|error| Problem {
        key: None,
        line: Some(line_at(error.as_bytes(), error.utf8_error().valid_up_to())),
        message: "is not UTF-8".to_owned(),
    })
}

/// Checks that `path` leads to the target. The error is a predicate for the path.
pub(super) fn look(path: &Path, target: Target) -> Result<(), String> {
    match target {
        Target::Directory if !metadata(path)?.is_dir() => Err("is not a directory".to_owned()),
        Target::Directory => fs::read_dir(path).map(drop).map_err(|error| reason(&error)),
        Target::File => open(path).map(drop),
        Target::RawDisk => {
            let (file, mut start) = (open(path)?, [0; QCOW2.len()]);
            // A shorter file is none.
            match file.read_exact_at(&mut start, 0) {
                Ok(()) if start == *QCOW2 => {
                    Err("is a qcow2 image, and Firecracker takes raw ones: qemu-img convert -O raw".to_owned())
                }
                _ => Ok(()),
            }
        }
        Target::Initrd => match open(path)?.metadata().map_err(|error| reason(&error))?.len() {
            0 => Err("is empty".to_owned()),
            _ => Ok(()),
        },
        Target::Kernel(vmm) => kernel::inspect(&open(path)?, vmm).map(drop),
        Target::Program => {
            let metadata = metadata(path)?;
            regular(&metadata)?;
            if metadata.permissions().mode() & 0o111 == 0 {
                return Err("is not executable".to_owned());
            }
            // It may be executable without being readable.
            open(path).map_or(Ok(()), |file| program::check(&file))
        }
    }
}

fn metadata(path: &Path) -> Result<Metadata, String> {
    fs::metadata(path).map_err(|error| reason(&error))
}

/// Opens a regular file only: opening a device may have effects, and opening a named pipe waits for a writer.
///
/// `O_NONBLOCK` covers a pipe that replaces the file between the check and the call.
pub(super) fn open(path: &Path) -> Result<File, String> {
    let no = |error: io::Error| reason(&error);
    regular(&metadata(path)?)?;
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(no)?;
    regular(&file.metadata().map_err(no)?)?;
    Ok(file)
}

fn regular(metadata: &Metadata) -> Result<(), String> {
    if metadata.is_dir() {
        Err("is a directory, not a file".to_owned())
    } else if !metadata.is_file() {
        Err("is not a regular file".to_owned())
    } else {
        Ok(())
    }
}

pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read by the daemon's user".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}
