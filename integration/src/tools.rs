//! Installed programs: clients and interpreters. A test without its program prints a message and passes; under CI it fails.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use tokio::process::Command;

use crate::within;

/// Returns the path of a program, or `None` after printing that the test is skipped.
///
/// # Panics
/// When it is not installed and this is CI.
pub fn program(name: &str) -> Option<PathBuf> {
    find(name, |path| path.is_file())
}

/// Returns the path of a program that may be where only root looks; otherwise like [`program`].
///
/// # Panics
/// When it is not installed and this is CI.
pub fn system_program(name: &str) -> Option<PathBuf> {
    let system = ["/usr/sbin", "/usr/local/sbin"].map(|directory| Path::new(directory).join(name));
    system.into_iter().find(|path| path.is_file()).or_else(|| program(name))
}

/// Returns the path of a program that any user may run, which functions are; otherwise like [`program`].
///
/// # Panics
/// When it is not installed and this is CI.
pub fn public_program(name: &str) -> Option<PathBuf> {
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    find(name, |path| path.is_file() && path.ancestors().all(is_open))
}

#[allow(clippy::print_stderr, reason = "the test runner shows it")]
fn find(name: &str, suits: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|directory| directory.join(name)).find(|path| suits(path));
    if found.is_none() {
        assert!(!matches!(env::var("CI").as_deref(), Ok("true" | "1")), "{name} is not installed, and this is CI");
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// Runs a program and returns its output, whatever the exit status.
///
/// # Panics
/// When it cannot be run, or takes longer than 30 s.
pub async fn output<I: AsRef<OsStr>>(program: &PathBuf, arguments: impl IntoIterator<Item = I>) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    let what = format!("the end of {:?}", command.as_std());
    within(Duration::from_secs(30), what, command.output()).await.expect("it can be run")
}

/// Runs a program that must succeed and returns its output.
///
/// # Panics
/// When it fails, or takes longer than 30 s.
pub async fn run<I: AsRef<OsStr>>(program: &PathBuf, arguments: impl IntoIterator<Item = I>) -> Output {
    let output = output(program, arguments).await;
    assert!(output.status.success(), "{output:?}");
    output
}

/// Writes a file that leaves so many bytes free on its file system.
///
/// # Panics
/// When it cannot be written.
pub fn fill_disk(file: &Path, left: u64) {
    let directory = file.parent().expect("a file in a directory");
    let space = nix::sys::statvfs::statvfs(directory).expect("a file system");
    let free = space.blocks_available() * space.fragment_size();
    let file = fs::File::create(file).expect("a file");
    let zeros = vec![0_u8; 1 << 16];
    let mut at = 0;
    while at + left < free {
        let piece = (free - left - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..piece as usize], at).expect("there is room");
        at += piece;
    }
}
