//! Root file systems of the tests' own, for containers and virtual machines: a program and what it needs.

use std::{path::Path, process::Command};

/// Puts a program into the directory, as `/testfn` and without its symbols, and the libraries that it names.
///
/// # Panics
/// When that cannot be.
pub fn make(program: &Path, root: &Path) {
    run(Command::new("strip").arg(program).arg("-o").arg(root.join("testfn")));
    let output = Command::new("ldd").arg(program).output().expect("ldd can be run");
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let libraries = listing.split_whitespace().filter(|word| word.starts_with('/') && Path::new(word).is_file());
    for library in libraries {
        run(Command::new("cp").args(["--parents", "--dereference", library]).arg(root));
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it fails.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
