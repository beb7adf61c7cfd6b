//! `unifaas versions`, `rollout`, `rollback`, `unpublish`: which versions of published functions nodes serve.

use serde_json::Value;

use super::{
    client::{Client, Subject},
    error::CommandError,
    nodes,
    ps::{members, string},
    terminal::{Output, Table, number, text, thousands, words},
};
use crate::cli::publish::{Rollback, Rollout, Unpublish, Versions};

/// Lists versions.
///
/// # Errors
/// Those of the client; there is no such function.
pub async fn list(arguments: &Versions, output: &Output) -> Result<(), CommandError> {
    let mut page = nodes::read(&mut Client::new(&arguments.daemon)?).await?;
    if let Some(name) = &arguments.function {
        let only = page["published"]["functions"][name].take();
        if only.is_null() {
            return Err(CommandError::NotFound(format!("{name} is not published")));
        }
        page["published"]["functions"] = serde_json::json!({ name: only });
    }
    if arguments.daemon.json {
        return output.line(&page["published"].to_string());
    }
    let published = &page["published"];
    if let Some(trouble) = published["trouble"].as_str() {
        words(&format!("the catalogue is not followed: {trouble}"));
    }
    let columns = [
        text("FUNCTION"),
        text("VERSION"),
        text("STATE"),
        text("SERVED BY"),
        text("FAILED ON"),
        number("KIB"),
        text("PUBLISHED"),
    ];
    let mut table = Table::new(&columns);
    for (name, function) in members(&published["functions"]) {
        for version in function["versions"].as_array().into_iter().flatten() {
            let id = string(&version["version"]);
            let short = &id[..id.len().min(12)];
            table.row(vec![
                name.as_str().into(),
                short.into(),
                state(function, id).into(),
                on(&page, name, |versions| string(&versions["serves"]) == short).into(),
                on(&page, name, |versions| has(&versions["failed"], short)).into(),
                thousands(version["bytes"].as_u64().unwrap_or_default().div_ceil(1024)).into(),
                string(&version["at"]).into(),
            ]);
        }
        if let Some(problem) = function["problem"].as_str() {
            words(&format!("{name}: {problem}"));
        }
        if function["state"] == "shadowed" {
            words(&format!("{name}: the registry has a function of this name, which this node serves instead"));
        }
    }
    if table.is_empty() {
        words("no published functions");
        return Ok(());
    }
    output.table(&table)
}

fn state(function: &Value, version: &str) -> String {
    let trial = &function["trial"];
    if string(&function["wanted"]) == version {
        "wanted".to_owned()
    } else if string(&trial["version"]) == version {
        format!("tried by {} %", trial["percent"])
    } else if string(&function["before"]) == version {
        "before".to_owned()
    } else {
        String::new()
    }
}

/// Returns the nodes of whose versions of a function something is true.
fn on(page: &Value, function: &str, is_so: impl Fn(&Value) -> bool) -> String {
    let own = (string(&page["name"]), &page["versions"][function]);
    let peers = page["peers"].as_array().into_iter().flatten();
    let peers = peers.map(|peer| (string(&peer["name"]), &peer["versions"][function]));
    let names: Vec<_> = [own].into_iter().chain(peers).filter(|(_, it)| is_so(it)).map(|(name, _)| name).collect();
    names.join(", ")
}

fn has(list: &Value, version: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|it| string(it) == version))
}

/// Has a share of the nodes serve a version.
///
/// # Errors
/// Those of the client, also when there is no such version.
pub async fn roll_out(arguments: &Rollout, output: &Output) -> Result<(), CommandError> {
    let Rollout { function, version, percent, daemon } = arguments;
    if !version.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(CommandError::Usage(format!(
            "{version:?} is no version: `unifaas versions {function}` lists them"
        )));
    }
    let path = format!("/debug/functions/{function}/rollout?version={version}&percent={percent}");
    let done = Client::new(daemon)?.act(&path, Subject::Function(function)).await?;
    let what = format!("{function}: version {version} is rolled out to {percent} % of the nodes");
    output.line(&if daemon.json { done.to_string() } else { what })
}

/// Goes back to the version before.
///
/// # Errors
/// Those of the client, also when there is none.
pub async fn roll_back(arguments: &Rollback, output: &Output) -> Result<(), CommandError> {
    let Rollback { function, daemon } = arguments;
    let path = format!("/debug/functions/{function}/rollback");
    let done = Client::new(daemon)?.act(&path, Subject::Function(function)).await?;
    let wanted = string(&done["wanted"]);
    let what = format!("{function}: nodes go back to version {}", &wanted[..wanted.len().min(12)]);
    output.line(&if daemon.json { done.to_string() } else { what })
}

/// Removes a published function from all nodes.
///
/// # Errors
/// Those of the client, also when it is not published.
pub async fn unpublish(arguments: &Unpublish, output: &Output) -> Result<(), CommandError> {
    let Unpublish { function, daemon } = arguments;
    let path = format!("/debug/functions/{function}/unpublish");
    let done = Client::new(daemon)?.act(&path, Subject::Function(function)).await?;
    output.line(&if daemon.json { done.to_string() } else { format!("{function}: removed from all nodes") })
}

/// Says which version of a published function this node serves. `None`: it is not published.
pub fn line(published: &Value) -> Option<String> {
    let digits = |version: &Value| version.as_str().map(|id| id[..id.len().min(12)].to_owned());
    let serves = digits(&published["serves"]);
    Some(match (published["state"].as_str()?, digits(&published["wanted"])) {
        ("shadowed", _) => "the function of the registry is served instead".to_owned(),
        (state, wanted) => format!(
            "version {}, {state}{}",
            serves.as_deref().unwrap_or("none"),
            wanted
                .filter(|wanted| Some(wanted) != serves.as_ref())
                .map(|it| format!(", wanted {it}"))
                .unwrap_or_default()
        ),
    })
}
