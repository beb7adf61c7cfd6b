//! Where things are: the binaries, and the directories of a daemon.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;

use crate::{function::Function, processes};

/// The function under test.
const TESTFN: &str = "testfn";

/// The binary under test: `UNIFAAS_EXE`, or the one that was built along with the tests.
///
/// # Panics
/// When there is none.
pub fn unifaas() -> PathBuf {
    env::var_os("UNIFAAS_EXE").map_or_else(|| built("unifaas"), PathBuf::from)
}

/// A file or directory of the repository.
pub fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A program that was built along with the tests.
///
/// # Panics
/// When it is not there.
pub fn built(program: &str) -> PathBuf {
    let this = env::current_exe().expect("the test has a path");
    let found = this.ancestors().skip(1).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {program} above {}: build it first", this.display()))
}

/// Puts a program of ours where an unprivileged user may run it.
fn put_program(built: &Path, place: &Path) {
    if fs::hard_link(built, place).is_err() {
        // By another process: one of ours that is being forked meanwhile would hold the file open for writing, and
        // nobody could run it.
        let copied = Command::new("cp").arg(built).arg(place).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", built.display());
    }
}

/// The directories of a daemon. They outlive it, so that a second one can take over.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    token: String,
}

impl Home {
    /// An empty registry and no state.
    ///
    /// # Panics
    /// When directories cannot be made.
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

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory with the functions.
    pub fn registry(&self) -> PathBuf {
        self.path("registry")
    }

    /// The function under test, as a program that anybody may run.
    pub fn testfn(&self) -> PathBuf {
        self.path(TESTFN)
    }

    /// A program that was built along with the tests, where anybody may run it.
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

    /// What every process of this registry's functions carries among its arguments.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Writes a function into the registry, or rewrites it.
    #[track_caller]
    pub fn put(&self, function: &Function) {
        function.write(&self.registry(), self);
    }

    /// Takes a function out of the registry.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn remove(&self, function: &str) {
        fs::remove_dir_all(self.registry().join(function)).expect("the function is there");
    }

    /// Processes of the functions, whoever started them.
    pub fn processes(&self) -> Vec<u32> {
        processes::with_token(&self.token)
    }
}
