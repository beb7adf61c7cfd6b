//! The files that `read` and `unzip` need, for functions that run as processes. Containers and guests bring their own.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, process::Stdio};

use tempfile::TempDir;
use tokio::process::Command;

use super::Session;
use crate::{error::BenchError, options::Experiment, registry::Source};

/// Writes the files, if an experiment of the plan and a function need them.
///
/// # Errors
/// When the disk is full.
pub async fn files(session: &Session, sources: &[Source]) -> Result<Option<TempDir>, BenchError> {
    let reads = |experiment: &Experiment| matches!(experiment, Experiment::Read | Experiment::Unzip);
    let is_needed = session.plan.experiments.iter().any(reads) && sources.iter().any(|source| source.has("process"));
    if !is_needed || session.place.is_some() {
        return Ok(None);
    }
    let public = Permissions::from_mode(0o755);
    let directory = tempfile::Builder::new().prefix("unifaas-bench-files-").permissions(public).tempdir();
    let directory = directory.map_err(|error| BenchError::Write(std::env::temp_dir(), error))?;
    let mut command = Command::new(&session.program);
    command.args(["bench-function", "files"]).arg(directory.path()).stdin(Stdio::null()).kill_on_drop(true);
    let status = command.status().await.map_err(|error| BenchError::System("the benchmark function", error))?;
    if !status.success() {
        let failed = std::io::Error::other("the files of the benchmark function cannot be written");
        return Err(BenchError::Write(directory.path().to_owned(), failed));
    }
    Ok(Some(directory))
}
