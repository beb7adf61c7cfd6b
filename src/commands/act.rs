//! `unifaas restart`, `stop`, `rescan`, `upgrade`, `inbox reset`: what an operator may do to a running daemon.

use std::time::Duration;

use serde_json::Value;

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::string,
    terminal::{Output, words},
};
use crate::cli::client::{Inbox, InboxAction, Rescan, Restart, Stop, Upgrade};

/// Longer than the daemon waits for the new one.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

/// Replaces the instances of a function by new ones.
///
/// # Errors
/// Those of the client.
pub async fn restart(arguments: &Restart, output: &Output) -> Result<(), CommandError> {
    let name = arguments.function.as_str();
    let mut client = Client::new(&arguments.daemon)?;
    let done = client.act(&format!("/debug/functions/{name}/restart"), Subject::Function(name)).await?;
    if arguments.daemon.json {
        return output.line(&done.to_string());
    }
    output.line(&match done["replacing"].as_u64() {
        Some(count @ 1..) => {
            format!("{name}: {} replaced; each ends when its requests have", instances(count, "is", "are"))
        }
        _ => format!("{name}: no instance to replace; the next request starts one"),
    })
}

/// Ends the instances of a function, or one instance.
///
/// # Errors
/// Those of the client.
pub async fn stop(arguments: &Stop, output: &Output) -> Result<(), CommandError> {
    let name = arguments.name.as_str();
    let subject = Subject::named(name);
    let path = match subject {
        Subject::Instance(id) => format!("/debug/instances/{id}/stop"),
        _ => format!("/debug/functions/{name}/stop"),
    };
    let done = Client::new(&arguments.daemon)?.act(&path, subject).await?;
    if arguments.daemon.json {
        return output.line(&done.to_string());
    }
    output.line(&match done["stopped"].as_u64() {
        Some(count @ 1..) => format!("{name}: {} stopped", instances(count, "is", "are")),
        _ => format!("{name}: no instance to stop"),
    })
}

/// Sets a damaged inbox aside.
///
/// # Errors
/// Those of the client, also when the inbox is not damaged.
pub async fn reset_inbox(arguments: &Inbox, output: &Output) -> Result<(), CommandError> {
    let InboxAction::Reset = arguments.action;
    let done = Client::new(&arguments.daemon)?.act("/debug/inbox/reset", Subject::None).await?;
    if arguments.daemon.json {
        return output.line(&done.to_string());
    }
    output
        .line(&format!("a new inbox was begun; the damaged one is {} in the state directory", string(&done["damaged"])))
}

/// Makes the daemon read its registry.
///
/// # Errors
/// Those of the client; [`CommandError::No`] when functions are misconfigured.
pub async fn rescan(arguments: &Rescan, output: &Output) -> Result<(), CommandError> {
    let done = Client::new(&arguments.daemon)?.act("/debug/rescan", Subject::None).await?;
    let invalid: Vec<_> = done["invalid"].as_array().into_iter().flatten().map(string).collect();
    if arguments.daemon.json {
        output.line(&done.to_string())?;
    } else {
        output.line(&format!("functions: {}", done["functions"].as_u64().unwrap_or_default()))?;
        invalid.iter().for_each(|reason| words(reason));
    }
    if invalid.is_empty() {
        return Ok(());
    }
    Err(CommandError::No(format!("misconfigured functions: {} of {}", invalid.len(), Value::clone(&done["functions"]))))
}

/// Has the daemon replaced by one of the program that is installed now.
///
/// # Errors
/// Those of the client; [`CommandError::No`] when the daemon was not replaced.
pub async fn upgrade(arguments: &Upgrade, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    let done = client.act_within(UPGRADE_TIMEOUT, "/debug/upgrade", Subject::None).await?;
    if arguments.daemon.json {
        return output.line(&done.to_string());
    }
    output.line(&format!("the daemon is process {} now", done["pid"].as_u64().unwrap_or_default()))
}

fn instances(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("1 instance {one}") } else { format!("{count} instances {more}") }
}
