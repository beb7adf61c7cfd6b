//! `unifaas ps`: the functions, or their instances, as a table.

use serde_json::{Value, json};

use super::{
    client::{Client, Subject},
    error::CommandError,
    nodes,
    terminal::{Cell, Column, Output, Style, Table, number, span, text, words},
};
use crate::cli::client::Ps;

const FUNCTIONS: [Column; 12] = [
    text("FUNCTION"),
    text("STATE"),
    text("KIND"),
    number("BUSY"),
    number("IDLE"),
    number("PAUSED"),
    number("BOOTING"),
    number("ENDING"),
    number("WAITING"),
    number("REQUESTS"),
    number("FAILED"),
    text("WHY"),
];
/// Where the versions of published functions are, if there are any.
const VERSION_AT: usize = 3;
const INSTANCES: [Column; 8] = [
    text("INSTANCE"),
    text("STATE"),
    number("FOR"),
    text("ORIGIN"),
    number("IN FLIGHT"),
    number("SERVED"),
    number("PID"),
    text("ADDRESS"),
];
const ENDED: [Column; 6] = [text("ENDED"), text("CAUSE"), number("LIVED"), number("SERVED"), text("AT"), text("EXIT")];
const FUNCTION: Column = text("FUNCTION");

/// Prints the table.
///
/// # Errors
/// Those of the client.
pub async fn run(arguments: &Ps, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    if arguments.cluster {
        let page = nodes::read(&mut client).await?;
        let lines = if arguments.daemon.json { vec![page.to_string()] } else { nodes::lines(&page, output) };
        return lines.iter().try_for_each(|line| output.line(line));
    }
    if let (None, false) = (&arguments.function, arguments.all) {
        return functions(&mut client, arguments.daemon.json, output).await;
    }
    let functions = match &arguments.function {
        Some(function) => vec![function.clone()],
        None => members(&client.summary().await?["functions"]).map(|(name, _)| name.clone()).collect(),
    };
    let (mut instances, mut ended) = (Vec::new(), Vec::new());
    for function in functions {
        let mut page = match client.page(&format!("/debug/functions/{function}"), Subject::Function(&function)).await {
            // It has been removed just now.
            Err(CommandError::NotFound(_)) if arguments.function.is_none() => continue,
            page => page?,
        };
        let mut take = |list: &str, into: &mut Vec<Value>| {
            for mut instance in page[list].as_array_mut().map(std::mem::take).unwrap_or_default() {
                instance["function"] = function.as_str().into();
                into.push(instance);
            }
        };
        take("instances", &mut instances);
        if arguments.all {
            take("ended", &mut ended);
        }
    }
    if arguments.daemon.json {
        instances.append(&mut ended);
        return output.line(&json!(instances).to_string());
    }
    if instances.is_empty() && ended.is_empty() {
        words("no instances");
    }
    print_instances(&instances, true, output)?;
    if !instances.is_empty() && !ended.is_empty() {
        output.line("")?;
    }
    print_ended(&ended, true, output)
}

async fn functions(client: &mut Client, json: bool, output: &Output) -> Result<(), CommandError> {
    let summary = client.summary().await?;
    if json {
        return output.line(&summary["functions"].to_string());
    }
    let are_published = members(&summary["functions"]).any(|(_, function)| !function["version"].is_null());
    let mut columns = FUNCTIONS.to_vec();
    if are_published {
        columns.insert(VERSION_AT, text("VERSION"));
    }
    let mut table = Table::new(&columns);
    for (name, function) in members(&summary["functions"]) {
        let state = string(&function["state"]);
        let counts = ["busy", "idle", "paused", "booting", "ending", "waiting", "requests", "failed"];
        let mut row = vec![name.into(), Cell::from(state).in_style(style_of(state)), or_dash(&function["kind"])];
        row.extend(counts.map(|count| Cell::from(&function[count])));
        row.push(string(&function["why"]).into());
        if are_published {
            row.insert(VERSION_AT, or_dash(&function["version"]));
        }
        table.row(row);
    }
    if table.is_empty() {
        words("no functions: each directory of the registry with a function.toml is one; `unifaas new` writes one");
        return Ok(());
    }
    output.table(&table)
}

/// Prints running instances as a table, with the names of their functions if they may differ.
///
/// # Errors
/// When standard output is closed.
pub fn print_instances(instances: &[Value], with_function: bool, output: &Output) -> Result<(), CommandError> {
    print(instances, with_function, &INSTANCES, output, |instance| {
        let state = string(&instance["state"]);
        vec![
            string(&instance["id"]).into(),
            Cell::from(state).in_style(style_of(state)),
            span(instance["since_seconds"].as_f64().unwrap_or_default()).into(),
            string(&instance["origin"]).into(),
            Cell::from(&instance["in_flight"]),
            Cell::from(&instance["served"]),
            or_dash(&instance["pid"]),
            or_dash(&instance["address"]),
        ]
    })
}

/// Prints instances that have ended as a table.
///
/// # Errors
/// When standard output is closed.
pub fn print_ended(instances: &[Value], with_function: bool, output: &Output) -> Result<(), CommandError> {
    print(instances, with_function, &ENDED, output, |instance| {
        let cause = string(&instance["cause"]);
        vec![
            string(&instance["id"]).into(),
            Cell::from(cause).in_style(style_of(cause)),
            span(instance["lifetime_seconds"].as_f64().unwrap_or_default()).into(),
            Cell::from(&instance["served"]),
            string(&instance["ended"]).into(),
            string(&instance["exit"]).into(),
        ]
    })
}

fn print(
    instances: &[Value],
    with_function: bool,
    columns: &[Column],
    output: &Output,
    row: impl Fn(&Value) -> Vec<Cell>,
) -> Result<(), CommandError> {
    let mut columns = columns.to_vec();
    if with_function {
        columns.insert(1, FUNCTION);
    }
    let mut table = Table::new(&columns);
    for instance in instances {
        let mut cells = row(instance);
        if with_function {
            cells.insert(1, string(&instance["function"]).into());
        }
        table.row(cells);
    }
    if table.is_empty() { Ok(()) } else { output.table(&table) }
}

/// Returns the colour of a state of a function or an instance, or of the cause of an end.
pub fn style_of(state: &str) -> Option<Style> {
    match state {
        "serving" | "busy" | "idle" => Some(Style::Good),
        "draining" | "stopping" | "reaping" | "launching" | "booting" | "restoring" | "capturing" => {
            Some(Style::Warning)
        }
        "failing" | "misconfigured" | "suspect" | "launch_failed" | "boot_failed" | "boot_timed_out" | "exited"
        | "resume_failed" | "restore_failed" | "capture_failed" | "request_failed" | "bug" => Some(Style::Bad),
        _ => None,
    }
}

/// Returns a text; that of everything else is empty.
pub fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns what is in an object.
pub fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

pub fn or_dash(value: &Value) -> Cell {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.into(),
        other => other.into(),
    }
}
