//! Chooses the Firecracker that tests run with: the one of `FIRECRACKER_EXE`, or the stand-in, which boots the same guest in
//! QEMU (`src/bin/firecracker-standin`).

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    sync::Once,
};

use crate::home::built;

/// Firecracker and its jailer, as the tests run them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firecracker {
    /// Its executable.
    pub program: PathBuf,
    /// The executable of the jailer.
    pub jailer: PathBuf,
    /// Whether it is Firecracker itself.
    pub is_real: bool,
}

impl Firecracker {
    /// Returns the one of `FIRECRACKER_EXE`, else the stand-in.
    pub fn chosen() -> Self {
        Self::choose(env::var_os("FIRECRACKER_EXE"), env::var_os("JAILER_EXE"))
    }

    /// Returns the stand-ins.
    pub fn stand_in() -> Self {
        Self { program: built("firecracker-standin"), jailer: built("jailer-standin"), is_real: false }
    }

    /// The real one comes with its own jailer, which is beside it unless `jailer` names another.
    fn choose(program: Option<OsString>, jailer: Option<OsString>) -> Self {
        let given = |path: Option<OsString>| path.filter(|path| !path.is_empty()).map(PathBuf::from);
        match given(program) {
            Some(program) => {
                let jailer = given(jailer).unwrap_or_else(|| program.with_file_name("jailer"));
                Self { program, jailer, is_real: true }
            }
            None => Self::stand_in(),
        }
    }

    /// Prints once for each test program which one its tests run with, past the capture of test output.
    pub fn report(&self) {
        static REPORTED: Once = Once::new();
        REPORTED.call_once(|| {
            let test = env::current_exe().unwrap_or_default();
            let test = test.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // Cargo appends a hash.
            let test = test.rsplit_once('-').map_or(test.as_str(), |(name, _)| name);
            let kind = if self.is_real { "the real one" } else { "a stand-in; FIRECRACKER_EXE names a real one" };
            let _ = writeln!(io::stderr(), "{test}: Firecracker is {} ({kind})", self.program.display());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_firecracker_is_chosen_with_its_own_jailer() {
        let choose = |program: Option<&str>, jailer: Option<&str>| {
            Firecracker::choose(program.map(OsString::from), jailer.map(OsString::from))
        };
        let real =
            |program: &str, jailer: &str| Firecracker { program: program.into(), jailer: jailer.into(), is_real: true };
        assert_eq!(choose(Some("/opt/firecracker"), None), real("/opt/firecracker", "/opt/jailer"));
        assert_eq!(choose(Some("/opt/fc"), Some("/usr/bin/jailer")), real("/opt/fc", "/usr/bin/jailer"));
        for (program, jailer) in [(None, None), (Some(""), None), (None, Some("/usr/bin/jailer"))] {
            assert_eq!(choose(program, jailer), Firecracker::stand_in());
        }
    }
}
