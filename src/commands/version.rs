//! `unifaas version`: the versions of this program and of the daemon.

use serde_json::{Value, json};

use super::{
    client::Client,
    error::CommandError,
    ps::string,
    terminal::{Output, words},
};
use crate::cli::client::Version;

/// Prints them. A daemon that is not there is no error.
///
/// # Errors
/// When the settings are wrong.
pub async fn run(arguments: &Version, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    let own = env!("CARGO_PKG_VERSION");
    let summary = client.summary().await;
    if arguments.daemon.json {
        let daemon = summary.map_or(Value::Null, |mut summary| summary["daemon"].take());
        return output.line(&json!({ "version": own, "url": client.url(), "daemon": daemon }).to_string());
    }
    output.line(&format!("unifaas {own}"))?;
    match summary {
        Ok(summary) => {
            let state = if summary["daemon"]["draining"] == true { ", draining" } else { "" };
            let version = string(&summary["daemon"]["version"]);
            output.line(&format!("daemon  {version} at {}{state}", client.url()))
        }
        Err(error) => {
            words(error.to_string().lines().next().unwrap_or_default());
            Ok(())
        }
    }
}
