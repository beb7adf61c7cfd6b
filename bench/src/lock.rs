//! One run at a time for each state directory. Each experiment has a daemon of its own, so the daemon's own lock is free
//! between them.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use crate::error::BenchError;

/// Takes the lock beside a state directory. It is released when the file is dropped, and when this process ends.
///
/// # Errors
/// When another run has it.
pub fn take(state: &Path) -> Result<File, BenchError> {
    let mut path = state.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let failed = |error| BenchError::Write(path.clone(), error);
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BenchError::Usage(format!(
            "another `unifaas bench` uses the state directory {}. Wait for its end, as two runs disturb each other, or name \
             another directory with --state-dir",
            state.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_while_the_first_one_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("new/state");
        let first = take(&state).unwrap();
        let said = take(&state).unwrap_err().to_string();
        assert!(said.contains("new/state") && said.contains("--state-dir"), "{said}");
        assert!(take(&directory.path().join("other")).is_ok());
        drop(first);
        assert!(take(&state).is_ok());
    }
}
