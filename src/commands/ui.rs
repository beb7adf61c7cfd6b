//! `unifaas ui`: opens the dashboard in a browser.

use std::{
    env,
    process::{Command, Stdio},
};

use serde_json::json;

use super::{
    client::Client,
    error::CommandError,
    terminal::{Output, words},
};
use crate::cli::client::Ui;

const OPENER: &str = "xdg-open";

/// Prints the address of the dashboard, and opens it on a desktop.
///
/// # Errors
/// Those of the client: there must be a daemon that shows its pages to this user.
pub async fn run(arguments: &Ui, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    client.summary().await?;
    let url = format!("{}/ui/", client.pages_url());
    if arguments.daemon.json {
        return output.line(&json!({ "url": url }).to_string());
    }
    output.line(&url)?;
    let has_desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| env::var_os(name).is_some_and(|it| !it.is_empty()));
    if has_desktop {
        let opened =
            Command::new(OPENER).arg(&url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if let Err(error) = opened {
            words(&format!("{OPENER} cannot be run: {error}"));
        }
    }
    Ok(())
}
