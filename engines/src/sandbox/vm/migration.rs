//! Saves a guest of QEMU to a file, and restores one from it: a migration with the memory in the stream.
//!
//! The file is passed to QEMU as an open descriptor (`getfd`), so every version takes it, and QEMU needs no access to its
//! path. The guest is not stopped first: a guest that was saved as stopped would be restored as stopped.

use std::{fs::File, os::fd::AsFd, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;
use unifaas_actors::sandbox::RestoreError;

use super::{
    RESTORE_TIMEOUT, SAVE_TIMEOUT,
    qmp::{QmpClient, QmpError, Reported},
};

/// Bytes per second. QEMU's default is 128 MiB, as for a network.
const BANDWIDTH: u64 = 1 << 40;
const NAME: &str = "snapshot";
const FAILED: &str = "failed";

/// Why a guest was not saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("the migration failed: {0}")]
    Failed(String),
    #[error("{0} took more than {1:?}")]
    TimedOut(&'static str, Duration),
    #[error("the snapshot was written by QEMU {written}, and this is {present}")]
    OtherVersion { written: String, present: String },
}

impl From<MigrationError> for RestoreError {
    fn from(error: MigrationError) -> Self {
        match error {
            MigrationError::TimedOut(..) => Self::TimedOut(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Saves a guest, which runs no more afterwards. Returns the version of QEMU.
///
/// # Errors
/// When it cannot be saved.
pub async fn save(qmp: &QmpClient, to: &File) -> Result<String, MigrationError> {
    let save = async {
        let version = version(qmp).await?;
        pass(qmp, to).await?;
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH }), None).await?;
        qmp.execute("migrate", json!({ "uri": uri() }), None).await?;
        ended(qmp, |seen| seen.migration.as_deref() == Some("completed")).await?;
        Ok(version)
    };
    timeout(SAVE_TIMEOUT, save).await.unwrap_or(Err(MigrationError::TimedOut("to save the guest", SAVE_TIMEOUT)))
}

/// Restores a guest in a QEMU that was started with `-incoming defer`, until it runs. `written` is the version of QEMU that
/// has saved it.
///
/// # Errors
/// When it does not run.
pub async fn restore(qmp: &QmpClient, from: &File, written: &str) -> Result<(), MigrationError> {
    let restore = async {
        let present = version(qmp).await?;
        if present != written {
            return Err(MigrationError::OtherVersion { written: written.to_owned(), present });
        }
        pass(qmp, from).await?;
        qmp.execute("migrate-incoming", json!({ "uri": uri() }), None).await?;
        ended(qmp, |seen| seen.is_resumed).await
    };
    timeout(RESTORE_TIMEOUT, restore).await.unwrap_or(Err(MigrationError::TimedOut("the restore", RESTORE_TIMEOUT)))
}

fn uri() -> String {
    format!("fd:{NAME}")
}

async fn version(qmp: &QmpClient) -> Result<String, QmpError> {
    Ok(qmp.reported(|seen| seen.version.is_some()).await?.version.unwrap_or_default())
}

/// Passes the file, and asks for events about the migration.
async fn pass(qmp: &QmpClient, file: &File) -> Result<(), QmpError> {
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    qmp.execute("migrate-set-capabilities", events, None).await?;
    qmp.execute("getfd", json!({ "fdname": NAME }), Some(file.as_fd())).await?;
    Ok(())
}

/// Waits for success, or for the failure of the migration.
async fn ended(qmp: &QmpClient, is_success: impl Fn(&Reported) -> bool) -> Result<(), MigrationError> {
    let has_failed = |seen: &Reported| seen.migration.as_deref() == Some(FAILED);
    let seen = qmp.reported(|seen| is_success(seen) || has_failed(seen)).await?;
    if is_success(&seen) {
        return Ok(());
    }
    let report = qmp.execute("query-migrate", Value::Object(serde_json::Map::new()), None).await.unwrap_or_default();
    Err(MigrationError::Failed(report["error-desc"].as_str().unwrap_or("QEMU does not say why").to_owned()))
}
