//! Locates the executables of VMMs.

use std::{
    env,
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use unifaas_actors::{sandbox::LaunchError, spec::DEFAULT_PATH};

/// An executable of virtual machines.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The environment variable with its path, which is looked at first.
    pub variable: &'static str,
    /// Its name on the PATH.
    pub name: &'static str,
}

/// The Firecracker VMM.
pub const FIRECRACKER: Program = Program { variable: "FIRECRACKER_EXE", name: "firecracker" };
/// Confines Firecracker.
pub const JAILER: Program = Program { variable: "JAILER_EXE", name: "jailer" };
/// The QEMU VMM, for x86-64.
pub const QEMU: Program = Program { variable: "QEMU_EXE", name: "qemu-system-x86_64" };

impl Program {
    /// Returns its absolute path.
    pub fn find(self) -> Result<PathBuf, LaunchError> {
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        self.find_in(env::var_os(self.variable).as_deref(), &path)
    }

    fn find_in(self, chosen: Option<&OsStr>, path: &OsStr) -> Result<PathBuf, LaunchError> {
        let Program { variable, name } = self;
        if let Some(chosen) = chosen.filter(|chosen| !chosen.is_empty()) {
            let chosen = Path::new(chosen);
            return executable(chosen).ok_or_else(|| {
                LaunchError::Missing(format!("{variable} is {}, which is not an executable file", chosen.display()))
            });
        }
        env::split_paths(path)
            .find_map(|directory| executable(&directory.join(name)))
            .ok_or_else(|| LaunchError::Missing(format!("{name} is not on the PATH, and {variable} is not set")))
    }
}

/// Returns the absolute path of an executable: the child has another working directory than the daemon.
fn executable(path: &Path) -> Option<PathBuf> {
    let metadata = path.metadata().ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then(|| std::path::absolute(path).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program { variable: "SHELL_EXE", name: "sh" };

    #[test]
    fn variable_takes_precedence_over_path() {
        assert_eq!(SHELL.find_in(Some("/bin/cat".as_ref()), "/bin".as_ref()).unwrap(), Path::new("/bin/cat"));
        assert_eq!(SHELL.find_in(None, "/no/such:/bin".as_ref()).unwrap(), Path::new("/bin/sh"));
        assert_eq!(SHELL.find_in(Some("".as_ref()), "/bin".as_ref()).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn error_names_program_and_variable() {
        let said = SHELL.find_in(None, "/no/such".as_ref()).unwrap_err().to_string();
        assert_eq!(said, "sh is not on the PATH, and SHELL_EXE is not set");
        let said = SHELL.find_in(Some("/etc/passwd".as_ref()), "/bin".as_ref()).unwrap_err().to_string();
        assert_eq!(said, "SHELL_EXE is /etc/passwd, which is not an executable file");
    }
}
