//! Whether this host can execute a program: where it is, and for which machine it was built.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

use elf::abi;

use super::{
    elf::{self as headers, machine_name},
    files::open,
};

/// The PATH when neither the function nor the daemon has one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest line by which a script names its interpreter, in bytes.
const MAX_LINE: usize = 256;
/// Where the kernel lists the interpreters for other files than its own.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// Returns the machines whose programs the kernel of this host executes; none if that is not known.
fn native() -> &'static [u16] {
    match env::consts::ARCH {
        "x86_64" => &[abi::EM_X86_64, abi::EM_386],
        "aarch64" => &[abi::EM_AARCH64, abi::EM_ARM],
        _ => &[],
    }
}

/// Looks a program up in `own`, the PATH in `[env]`, or else in the PATH of this process. Relative directories start at
/// `directory`.
pub(super) fn find(name: &str, own: Option<&str>, directory: &Path) -> Result<(), String> {
    let path = match own {
        Some(path) => path.into(),
        None => env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
    };
    let Some(program) = lookup(name, &path, directory) else {
        // A value of `[env]` may be a secret.
        let place =
            own.map_or_else(|| format!("PATH, which is {}", path.display()), |_| "the PATH of [env]".to_owned());
        return Err(format!("there is no program {name:?} in {place}"));
    };
    // It may be executable without being readable.
    let file = open(&program).ok();
    file.map_or(Ok(()), |file| check(&file)).map_err(|reason| format!("{name:?} {reason}"))
}

fn lookup(name: &str, path: &OsString, directory: &Path) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path).map(|place| directory.join(place).join(name)).find(is_program)
}

/// Returns what the file of a program was built for, if this host cannot execute it. For the message of a failed start.
pub fn foreign_machine(program: &Path) -> Option<String> {
    foreign(&start_of(&open(program).ok()?))
}

/// Checks that the host can execute a file with execute permission. The error is a predicate for it.
pub(super) fn check(file: &File) -> Result<(), String> {
    let start = start_of(file);
    if let Some(machine) = foreign(&start) {
        return Err(format!("is built for {machine}, and this host executes {}", env::consts::ARCH));
    }
    match interpreter(&start) {
        Some(interpreter) if interpreter.is_absolute() && !interpreter.exists() => {
            Err(format!("needs the interpreter {}, which does not exist", interpreter.display()))
        }
        _ => Ok(()),
    }
}

fn start_of(file: &File) -> Vec<u8> {
    let mut start = vec![0; MAX_LINE];
    let length = file.read_at(&mut start, 0).unwrap_or_default();
    start.truncate(length);
    start
}

/// Returns the machine of an ELF file that starts like this, if nothing on this host executes it.
fn foreign(start: &[u8]) -> Option<String> {
    let machine = headers::machine(start)?;
    let is_native = native().is_empty() || native().contains(&machine);
    (!is_native && !has_interpreter(start)).then(|| machine_name(machine))
}

/// Returns the interpreter in the first line of a script.
fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.trim_ascii_start().split(|byte| byte.is_ascii_whitespace()).next()?;
    std::str::from_utf8(word).ok().map(PathBuf::from)
}

/// Returns whether an interpreter for files that start like this is registered, such as an emulator of another machine.
fn has_interpreter(start: &[u8]) -> bool {
    let entries = fs::read_dir(BINFMT_MISC).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|entry| accepts(&entry, start))
}

/// Returns whether an entry of binfmt_misc is enabled and matches the start of a file.
fn accepts(entry: &str, start: &[u8]) -> bool {
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let bytes = |name: &str| {
        let digits = field(name)?;
        let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        (0..digits.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()
    };
    let offset: usize = field("offset ").and_then(|offset| offset.parse().ok()).unwrap_or_default();
    let (Some(magic), Some(found)) = (bytes("magic "), start.get(offset..)) else { return false };
    let mask = bytes("mask ").unwrap_or_else(|| vec![0xff; magic.len()]);
    let matches = |((magic, mask), found): ((&u8, &u8), &u8)| (magic ^ found) & mask == 0;
    entry.starts_with("enabled") && found.len() >= magic.len() && magic.iter().zip(&mask).zip(found).all(matches)
}

#[cfg(test)]
mod tests {
    use super::{
        super::elf::tests::{file, kernel},
        *,
    };

    /// An entry of Debian's `qemu-user-static`.
    const AARCH64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn program(machine: u16) -> Vec<u8> {
        let mut elf = kernel(1);
        elf[18..20].copy_from_slice(&machine.to_le_bytes());
        elf
    }

    #[test]
    fn programs_of_other_machines_are_named() {
        let [own, foreign] = match env::consts::ARCH {
            "aarch64" => [abi::EM_AARCH64, abi::EM_X86_64],
            _ => [abi::EM_X86_64, abi::EM_MIPS],
        };
        assert_eq!(check(&file(&program(own))), Ok(()));
        let said = check(&file(&program(foreign))).unwrap_err();
        assert!(said.starts_with(&format!("is built for {}", machine_name(foreign))), "{said}");
        assert_eq!(check(&file(b"echo no header\n")), Ok(()));
    }

    #[test]
    fn scripts_need_their_interpreter() {
        assert_eq!(check(&file(b"#! /bin/sh -e\n")), Ok(()));
        let said = check(&file(b"#!/no/such/python3\n")).unwrap_err();
        assert_eq!(said, "needs the interpreter /no/such/python3, which does not exist");
    }

    #[test]
    fn registered_emulators_execute_other_machines() {
        assert!(accepts(AARCH64, &program(abi::EM_AARCH64)));
        assert!(!accepts(AARCH64, &program(abi::EM_RISCV)));
        assert!(!accepts(&AARCH64.replace("enabled", "disabled"), &program(abi::EM_AARCH64)));
        assert!(!accepts("enabled\n", b"") && !accepts("enabled\nextension .py\n", &program(abi::EM_AARCH64)));
    }

    #[test]
    fn looks_up_programs_like_the_kernel() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().join("tool");
        fs::write(&own, "").unwrap();
        let path = Some("/no/such:.");
        assert_eq!(find("sh", Some("/no/such:/bin"), place.path()), Ok(()));
        assert_eq!(
            find("tool", path, place.path()).unwrap_err(),
            "there is no program \"tool\" in the PATH of [env]",
            "it is not executable"
        );
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", path, place.path()), Ok(()));
        let said = find("no-such-program", None, place.path()).unwrap_err();
        assert!(said.starts_with("there is no program \"no-such-program\" in PATH, which is /"), "{said}");
    }
}
