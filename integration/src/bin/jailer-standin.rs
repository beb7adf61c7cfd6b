//! Stands in for Firecracker's jailer: it accepts the jailer's arguments and starts the program in the directory that would
//! be its root. It does not chroot, because QEMU, which stands in for Firecracker, is not in there.
//!
//! Like releases up to 1.12 it wants a program with "firecracker" in its name; later ones accept any.

use std::{
    collections::HashMap,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

const REQUIRED: [&str; 5] = ["--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let why = match prepare(&arguments) {
        Ok(mut program) => format!("Failed to exec into Firecracker: {}", program.exec()),
        Err(why) => why,
    };
    // The words, and the Debug form of its error.
    eprintln!("{why}\nError: JailerError({why:?})");
    ExitCode::FAILURE
}

fn prepare(arguments: &[String]) -> Result<Command, String> {
    let mut words = arguments.iter();
    let mut own = HashMap::new();
    for word in words.by_ref() {
        match REQUIRED.iter().find(|name| *name == word) {
            Some(name) => {
                own.insert(*name, "");
            }
            None if word == "--" => break,
            None => match own.values_mut().find(|value| value.is_empty()) {
                Some(value) => *value = word.as_str(),
                None => return Err(format!("Found argument '{word}' which wasn't expected, or isn't valid here.")),
            },
        }
    }
    let value = |name: &str| {
        own.get(name)
            .copied()
            .filter(|value| !value.is_empty())
            .ok_or(format!("Argument '{name}' required, but not found."))
    };
    let (id, program) = (value("--id")?, Path::new(value("--exec-file")?));
    let program = &program.canonicalize().map_err(|error| format!("Failed to canonicalize path: {error}"))?;
    for name in ["--uid", "--gid"] {
        value(name)?.parse::<u32>().map_err(|error| format!("Invalid {name}: {error}"))?;
    }
    if id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(format!("Invalid instance ID: {id}"));
    }
    let name = program.file_name().ok_or("Failed to extract filename from path")?;
    if !name.to_string_lossy().contains("firecracker") {
        let name = name.display();
        return Err(format!("Invalid filename {name}. The filename of --exec-file must contain \"firecracker\"."));
    }
    let root = Path::new(value("--chroot-base-dir")?).join(name).join(id).join("root");
    // The real jailer loses its parent death signal by changing the user: its program outlives a killed daemon.
    let _ = nix::sys::prctl::set_pdeathsig(None);
    let mut command = Command::new(program);
    command.args(["--id", id]).args(words).current_dir(root);
    Ok(command)
}
