//! Paths: the binaries, and the directories of a daemon.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;

use crate::{SOON, eventually, function::Function, processes};

/// The function under test.
const TESTFN: &str = "testfn";

/// Returns the binary under test: `UNIFAAS_EXE`, or the one in the same target directory.
///
/// # Panics
/// When it does not exist.
pub fn unifaas() -> PathBuf {
    env::var_os("UNIFAAS_EXE").map_or_else(|| built("unifaas"), PathBuf::from)
}

/// Returns whether the daemon was built with the release profile, as its path says.
///
/// # Panics
/// When it does not exist.
pub fn is_release() -> bool {
    unifaas().components().any(|component| component.as_os_str() == "release")
}

/// Returns the path of a file or directory of the repository.
pub fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns the path of a program of this workspace.
///
/// # Panics
/// When it was not built.
pub fn built(program: &str) -> PathBuf {
    let this = env::current_exe().expect("the test has a path");
    let found = this.ancestors().skip(1).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {program} above {}: build it first", this.display()))
}

/// Copies a program to a place where an unprivileged user may run it.
fn put_program(built: &Path, place: &Path) {
    if fs::hard_link(built, place).is_err() {
        // Copied by another process: a concurrent fork of this one would inherit the descriptor open for writing, and exec
        // would fail with ETXTBSY.
        let copied = Command::new("cp").arg(built).arg(place).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", built.display());
    }
}

/// The directories of a daemon. They outlive it, so that a second daemon can use them.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    token: String,
}

impl Home {
    /// Creates an empty registry without state.
    ///
    /// # Panics
    /// When the directories cannot be created.
    pub fn new() -> Arc<Self> {
        let public = fs::Permissions::from_mode(0o755);
        let directory = tempfile::Builder::new().prefix("unifaas-").permissions(public).tempdir();
        let directory = directory.expect("a temporary directory");
        fs::create_dir(directory.path().join("registry")).expect("a registry");
        let token = format!("token-of-{}", directory.path().file_name().unwrap_or_default().to_string_lossy());
        let home = Self { directory, token };
        home.program(TESTFN);
        Arc::new(home)
    }

    /// Returns a path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the registry's directory.
    pub fn registry(&self) -> PathBuf {
        self.path("registry")
    }

    /// Returns the path of the function under test, executable by every user.
    pub fn testfn(&self) -> PathBuf {
        self.path(TESTFN)
    }

    /// Returns the path of a program of this workspace, executable by every user.
    ///
    /// # Panics
    /// When it was not built.
    pub fn program(&self, name: &str) -> PathBuf {
        let place = self.path(name);
        if !place.exists() {
            put_program(&built(name), &place);
        }
        place
    }

    /// Returns the token that every process of these functions carries among its arguments.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Writes or replaces a function in the registry.
    #[track_caller]
    pub fn put(&self, function: &Function) {
        function.write(&self.registry(), self);
    }

    /// Removes a function from the registry.
    ///
    /// # Panics
    /// When it does not exist.
    #[track_caller]
    pub fn remove(&self, function: &str) {
        fs::remove_dir_all(self.registry().join(function)).expect("the function is there");
    }

    /// Waits until `count` processes of the functions are left.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn left(&self, count: usize) -> impl Future<Output = ()> {
        let what = format!("{count} processes of functions are left");
        let left = eventually(SOON, what, async || self.described(), move |left| left.len() == count);
        async { drop(left.await) }
    }

    /// Returns a line about each process of the functions.
    pub fn described(&self) -> Vec<String> {
        self.processes().into_iter().map(processes::describe).collect()
    }

    /// Returns the processes of the functions, of every daemon.
    pub fn processes(&self) -> Vec<u32> {
        processes::with_token(&self.token)
    }
}
