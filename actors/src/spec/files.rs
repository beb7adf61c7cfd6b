//! Reads a `function.toml` and checks the files that it names. `kernel.rs` recognises kernels.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::{
    FunctionSpec, SPEC_FILE,
    check::check,
    error::{Problem, SpecError},
    kernel,
    raw::{Section, line_at},
};

/// Largest `function.toml`, in bytes.
const MAX_SIZE: u64 = 64 << 10;

/// A file that a function needs, and the key that names it.
pub(super) struct Reference {
    key: String,
    line: Option<usize>,
    path: PathBuf,
    target: Target,
}

/// What a path has to lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A regular file that the daemon can read.
    File,
    /// A file that QEMU can boot.
    Kernel,
    /// A file that Firecracker can boot.
    ElfKernel,
    /// A directory that the daemon can read.
    Directory,
    /// A regular file with an execute permission.
    Program,
}

impl Reference {
    pub(super) fn new(section: &Section<'_>, key: &str, path: PathBuf, target: Target) -> Self {
        Reference { key: section.path_of(key), line: section.line_of(key), path, target }
    }

    fn check(&self) -> Result<(), Problem> {
        look(&self.path, self.target).map_err(|reason| Problem {
            key: Some(self.key.clone()),
            line: self.line,
            message: format!("{:?} {reason}", self.path),
        })
    }
}

pub(super) fn load(directory: &Path) -> Result<FunctionSpec, SpecError> {
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
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let mut checked = check(&name, &absolute, &text);
    checked.problems.extend(checked.references.iter().filter_map(|reference| reference.check().err()));
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
fn look(path: &Path, target: Target) -> Result<(), String> {
    match target {
        Target::Directory if !metadata(path)?.is_dir() => Err("is not a directory".to_owned()),
        Target::Directory => fs::read_dir(path).map(drop).map_err(|error| reason(&error)),
        Target::File => open(path).map(drop),
        Target::Kernel | Target::ElfKernel => {
            let (mut start, file) = (Vec::new(), open(path)?);
            file.take(kernel::START).read_to_end(&mut start).map_err(|error| reason(&error))?;
            kernel::check(&start, target == Target::ElfKernel)
        }
        Target::Program => {
            let metadata = metadata(path)?;
            regular(&metadata)?;
            match metadata.permissions().mode() & 0o111 {
                0 => Err("is not executable".to_owned()),
                _ => Ok(()),
            }
        }
    }
}

fn metadata(path: &Path) -> Result<Metadata, String> {
    fs::metadata(path).map_err(|error| reason(&error))
}

/// Opens a regular file only: opening a device may have effects, and opening a named pipe waits for a writer.
///
/// `O_NONBLOCK` covers a pipe that replaces the file between the check and the call.
fn open(path: &Path) -> Result<File, String> {
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
