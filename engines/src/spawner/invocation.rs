//! A command as engines describe it, and as execve(2) takes it. Pure.

use std::{
    ffi::{CString, NulError, OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use unifaas_actors::spec::DEFAULT_PATH;

use crate::syscalls::Program;

/// A complete command. No `Debug`: its arguments and environment contain secrets.
#[derive(PartialEq, Eq)]
pub struct Invocation {
    /// A path relative to the working directory, or a name to be looked up in the PATH of `env`.
    pub program: PathBuf,
    /// The zeroth argument.
    pub name: String,
    /// The other arguments.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Invocation {
    /// Returns the files that the program may be in, in the order in which they are tried.
    pub fn files(&self) -> Vec<PathBuf> {
        let path = self.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
        let files = files(&self.program, path.unwrap_or(OsStr::new(DEFAULT_PATH)));
        files.into_iter().map(|file| OsString::from_vec(file).into()).collect()
    }
}

impl TryFrom<&Invocation> for Program {
    type Error = NulError;

    /// # Errors
    /// If a string contains a zero byte.
    fn try_from(invocation: &Invocation) -> Result<Self, NulError> {
        let Invocation { name, arguments, env, .. } = invocation;
        let files = invocation.files().into_iter().map(|file| CString::new(file.into_os_string().into_vec()));
        let arguments = [name].into_iter().chain(arguments).map(|argument| CString::new(argument.as_bytes()));
        let environment =
            env.iter().map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
            arguments: arguments.collect::<Result<_, _>>()?,
            environment: environment.collect::<Result<_, _>>()?,
        })
    }
}

/// Returns the files that a program may be in. An empty directory in `path` is the working directory.
fn files(program: &Path, path: &OsStr) -> Vec<Vec<u8>> {
    let name = program.as_os_str().as_bytes();
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let directories = path.as_bytes().split(|byte| *byte == b':');
    let join = |directory: &[u8]| if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
    directories.map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, env: &[(&str, &str)]) -> Program {
        let arguments = vec!["a b".to_owned()];
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Program::try_from(&Invocation { program: name.into(), name: "zeroth".to_owned(), arguments, env }).unwrap()
    }

    #[test]
    fn names_are_looked_up_in_path_and_paths_are_not() {
        let files = |name: &str, env: &[(&str, &str)]| -> Vec<String> {
            program(name, env).files.into_iter().map(|file| file.into_string().unwrap()).collect()
        };
        assert_eq!(files("sh", &[("PATH", "/usr/bin:/bin")]), ["/usr/bin/sh", "/bin/sh"]);
        assert_eq!(files("sh", &[("PATH", "/usr/bin::bin")]), ["/usr/bin/sh", "sh", "bin/sh"]);
        assert_eq!(files("./sh", &[("PATH", "/usr/bin")]), ["./sh"]);
        assert_eq!(files("/bin/sh", &[]), ["/bin/sh"]);
        assert!(files("sh", &[]).contains(&"/usr/bin/sh".to_owned()));
    }

    #[test]
    fn keeps_arguments_and_environment_in_order() {
        let program = program("sh", &[("B", "1=2"), ("A", "")]);
        assert_eq!(program.arguments, [c"zeroth".to_owned(), c"a b".to_owned()]);
        assert_eq!(program.environment, [c"B=1=2".to_owned(), c"A=".to_owned()]);
    }

    #[test]
    fn refuses_zero_bytes() {
        for (program, argument, value) in [("a\0b", "", ""), ("a", "b\0", ""), ("a", "", "\0")] {
            let env = vec![("V".into(), value.into())];
            let arguments = vec![argument.to_owned()];
            let invocation = Invocation { program: program.into(), name: "a".to_owned(), arguments, env };
            assert!(Program::try_from(&invocation).is_err());
        }
    }
}
