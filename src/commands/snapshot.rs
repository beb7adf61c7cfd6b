//! `unifaas snapshot`: lists snapshots, and has them taken and removed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::{members, or_dash, string, style_of},
    terminal::{Cell, Column, Output, Table, number, text, words},
};
use crate::{
    cli::{
        DaemonArgs,
        client::{Snapshot, SnapshotAction},
    },
    thousands::thousands,
};

const COLUMNS: [Column; 6] =
    [text("FUNCTION"), text("STATE"), number("KIB"), text("TAKEN"), text("MONITOR"), text("WHY")];

/// Runs the command.
///
/// # Errors
/// Those of the client; [`CommandError::No`] when the function wants no snapshot, or has none to remove.
pub async fn snapshot(arguments: &Snapshot, output: &Output) -> Result<(), CommandError> {
    let Snapshot { action, function, daemon } = arguments;
    match (action, function) {
        (SnapshotAction::Ls, _) | (_, None) => list(daemon, output).await,
        (SnapshotAction::Make, Some(function)) => {
            let done = act(daemon, function, "snapshot", output).await?;
            let refused = format!("{function} wants no snapshot: its function.toml has no `snapshot` in [vm]");
            let ordered = format!("{function}: a snapshot is taken as soon as no request waits");
            answer(daemon, done["ordered"] == true, &ordered, refused, output)
        }
        (SnapshotAction::Rm, Some(function)) => {
            let done = act(daemon, function, "snapshot/remove", output).await?;
            let removed = format!("{function}: the snapshot was removed");
            answer(daemon, done["removed"] == true, &removed, format!("{function} has no snapshot"), output)
        }
    }
}

async fn act(daemon: &DaemonArgs, function: &str, action: &str, output: &Output) -> Result<Value, CommandError> {
    let path = format!("/debug/functions/{function}/{action}");
    let done = Client::new(daemon)?.act(&path, Subject::Function(function)).await?;
    if daemon.json {
        output.line(&done.to_string())?;
    }
    Ok(done)
}

fn answer(
    daemon: &DaemonArgs,
    is_done: bool,
    done: &str,
    refused: String,
    output: &Output,
) -> Result<(), CommandError> {
    match is_done {
        false => Err(CommandError::No(refused)),
        true if daemon.json => Ok(()),
        true => output.line(done),
    }
}

async fn list(daemon: &DaemonArgs, output: &Output) -> Result<(), CommandError> {
    let page = Client::new(daemon)?.page("/debug/snapshots", Subject::None).await?;
    if daemon.json {
        return output.line(&page.to_string());
    }
    let mut functions: BTreeMap<_, Vec<_>> =
        members(&page["functions"]).map(|(name, _)| (name.as_str(), Vec::new())).collect();
    for kept in page["snapshots"].as_array().into_iter().flatten() {
        functions.entry(string(&kept["function"])).or_default().push(kept);
    }
    let mut table = Table::new(&COLUMNS);
    for (name, kept) in functions {
        let report = &page["functions"][name];
        let (state, why) = (string(&report["state"]), string(&report["error"]));
        let nothing = [&Value::Null].into_iter().filter(|_| kept.is_empty() && (state != "none" || !why.is_empty()));
        for it in kept.iter().copied().chain(nothing) {
            table.row(vec![
                name.into(),
                Cell::from(state).in_style(style_of(state)),
                it["bytes"].as_u64().map_or_else(|| "-".to_owned(), |bytes| thousands(bytes.div_ceil(1024))).into(),
                or_dash(&it["taken"]),
                or_dash(&it["monitor"]),
                why.into(),
            ]);
        }
    }
    if table.is_empty() {
        words("no snapshots: the first one of a function with `snapshot` in [vm] is taken after its first start");
        return Ok(());
    }
    output.table(&table)
}
