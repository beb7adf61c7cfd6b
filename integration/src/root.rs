//! Builds root file systems for containers and virtual machines: one program and its libraries.

use std::{path::Path, process::Command};

/// Copies a program into the directory, stripped and named `/testfn`, with its shared libraries.
///
/// # Panics
/// When a step fails.
pub fn make(program: &Path, root: &Path) {
    run(Command::new("strip").arg(program).arg("-o").arg(root.join("testfn")));
    let output = Command::new("ldd").arg(program).output().expect("ldd can be run");
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let libraries = listing.split_whitespace().filter(|word| word.starts_with('/') && Path::new(word).is_file());
    for library in libraries {
        run(Command::new("cp").args(["--parents", "--dereference", library]).arg(root));
    }
}

/// Runs a command and waits for it.
///
/// # Panics
/// When it fails.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
