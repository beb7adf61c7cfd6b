//! What a child executes, made ready before there is a child: between clone and exec nothing may be allocated.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
    ptr,
};

use nix::{errno::Errno, libc};

use super::Invocation;

/// What a text without a first line that names its interpreter is given to.
const SHELL: &CStr = c"/bin/sh";

/// The arguments of execve(2).
#[derive(Debug)]
pub struct Program {
    /// The files to be tried, in this order.
    files: Vec<CString>,
    arguments: Vector,
    /// For a script without an interpreter: the shell, the place for the script, and what follows the name in `arguments`.
    script: Vector,
    env: Vector,
}

impl Program {
    /// # Errors
    /// `InvalidInput` if a word contains a zero byte.
    pub fn new(invocation: &Invocation) -> io::Result<Self> {
        let word = |text: &str| Ok::<_, io::Error>(CString::new(text)?);
        let rest = || invocation.arguments.iter().map(|argument| word(argument));
        let name = || word(&invocation.name);
        let env = invocation.env.iter().map(|(name, value)| {
            let mut pair = OsString::from(name);
            pair.push("=");
            pair.push(value);
            Ok(CString::new(pair.into_vec())?)
        });
        let path = invocation.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
        Ok(Self {
            files: files(&invocation.program, path.unwrap_or_default())?,
            arguments: Vector::new(std::iter::once_with(name).chain(rest()))?,
            script: Vector::new([Ok(SHELL.to_owned()), name()].into_iter().chain(rest()))?,
            env: Vector::new(env)?,
        })
    }

    /// Becomes the program, or says why that cannot be. Neither allocates nor locks.
    pub fn execute(&mut self) -> Errno {
        let mut denied = false;
        for file in &self.files {
            let error = execve(file, &self.arguments, &self.env);
            match error {
                Errno::ENOEXEC => {
                    self.script.pointers[1] = file.as_ptr();
                    return execve(SHELL, &self.script, &self.env);
                }
                Errno::EACCES => denied = true,
                Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT => {}
                error => return error,
            }
        }
        if denied { Errno::EACCES } else { Errno::ENOENT }
    }
}

/// A name without a slash is looked for in `path`, of which an empty part is the working directory.
fn files(program: &Path, path: &OsStr) -> io::Result<Vec<CString>> {
    let name = program.as_os_str().as_bytes();
    if name.contains(&b'/') {
        return Ok(vec![CString::new(name)?]);
    }
    let places = path.as_bytes().split(|byte| *byte == b':');
    let join = |place: &[u8]| if place.is_empty() { name.to_vec() } else { [place, b"/", name].concat() };
    places.map(|place| Ok(CString::new(join(place))?)).collect()
}

/// A list of words as the kernel wants it.
#[derive(Debug)]
struct Vector {
    /// Into `_words`, and a null at the end.
    pointers: Vec<*const libc::c_char>,
    _words: Vec<CString>,
}

impl Vector {
    fn new(words: impl Iterator<Item = io::Result<CString>>) -> io::Result<Self> {
        let words = words.collect::<io::Result<Vec<CString>>>()?;
        let pointers = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { pointers, _words: words })
    }
}

fn execve(file: &CStr, arguments: &Vector, env: &Vector) -> Errno {
    // SAFETY: each list ends with a null and points to strings that live as long as it does, or as `Program`.
    unsafe { libc::execve(file.as_ptr(), arguments.pointers.as_ptr(), env.pointers.as_ptr()) };
    Errno::last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn looked_for(program: &str, path: &str, expected: &[&str]) {
        let files = files(Path::new(program), OsStr::new(path)).unwrap();
        let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
        assert_eq!(files, expected);
    }

    #[test]
    fn names_are_looked_for_in_the_path_and_paths_are_not() {
        looked_for("sh", "/usr/bin:/bin", &["/usr/bin/sh", "/bin/sh"]);
        looked_for("sh", "/usr/bin::bin", &["/usr/bin/sh", "sh", "bin/sh"]);
        looked_for("./f", "/usr/bin", &["./f"]);
        looked_for("/bin/f", "/usr/bin", &["/bin/f"]);
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let name = "f".to_owned();
        let invocation = Invocation { program: "f".into(), name, arguments: vec!["a\0b".to_owned()], env: Vec::new() };
        assert_eq!(Program::new(&invocation).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
