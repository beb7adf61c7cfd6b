//! The nodes of the cluster as a table, for `unifaas ps --cluster` and `unifaas top --cluster`.

use serde_json::Value;

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::{members, or_dash, string, style_of},
    terminal::{Cell, Column, Output, Table, millis, number, span, text, thousands},
};

const NODES: [Column; 10] = [
    text("NODE"),
    text("STATE"),
    number("HEARD"),
    number("RTT"),
    number("MIB FREE"),
    number("FUNCTIONS"),
    number("SLOTS FREE"),
    number("WAITING"),
    text("ADDRESS"),
    text("WHY"),
];
const LOADS: [Column; 6] =
    [text("FUNCTION"), text("NODE"), number("SLOTS FREE"), number("OF"), number("WAITING"), text("STATE")];

/// Reads what the daemon knows of its cluster.
///
/// # Errors
/// Those of the client; the daemon runs without a cluster.
pub async fn read(client: &mut Client) -> Result<Value, CommandError> {
    let refused = match client.page("/debug/cluster", Subject::None).await {
        Err(error @ CommandError::NotAllowed(_)) => error,
        page => return page,
    };
    // The same answer as where no page is shown.
    let is_shown = client.summary().await.is_ok();
    Err(if is_shown { CommandError::NotFound("the daemon runs without --cluster".to_owned()) } else { refused })
}

/// Returns the lines of two tables: the nodes, and the functions with instances or waiting requests on each.
pub fn lines(page: &Value, output: &Output) -> Vec<String> {
    let mut lines = vec![link(page), String::new()];
    lines.extend(nodes(page).lines(output));
    let loads = loads(page);
    if !loads.is_empty() {
        lines.push(String::new());
        lines.extend(loads.lines(output));
    }
    lines
}

fn link(page: &Value) -> String {
    let link = &page["link"];
    let frozen = if page["is_frozen"] == true { "; the directory is frozen" } else { "" };
    let how = match string(&link["state"]) {
        "connected" => format!("NATS server {} ({})", string(&link["server"]), string(&link["version"])),
        "refused" => format!("not in the cluster: {}", string(&link["why"])),
        _ => format!("no NATS server: {}", link["error"].as_str().unwrap_or("not connected")),
    };
    format!("{} of site {}, {how}{frozen}", string(&page["name"]), string(&page["site"]))
}

fn nodes(page: &Value) -> Table {
    let mut table = Table::new(&NODES);
    let own = &page["beat"];
    if own.is_object() {
        let state = if own["is_draining"] == true { "draining" } else { "serving" };
        let name = format!("{} (this node)", string(&page["name"]));
        table.row(row(&name, state, own, ["–".into(), "–".into(), "–".into()], ""));
    }
    for peer in page["peers"].as_array().into_iter().flatten() {
        let state = match string(&peer["health"]) {
            "fresh" if peer["is_draining"] == true => "draining",
            "fresh" => "serving",
            _ => "suspect",
        };
        let heard = span(peer["age_ms"].as_f64().unwrap_or_default() / 1e3).into();
        let rtt = peer["rtt_ms"].as_f64().map_or_else(|| "–".into(), |ms| millis(ms).into());
        table.row(row(
            string(&peer["name"]),
            state,
            peer,
            [heard, rtt, or_dash(&peer["functions"])],
            string(&peer["why"]),
        ));
    }
    table
}

fn row(name: &str, state: &str, node: &Value, [heard, rtt, functions]: [Cell; 3], why: &str) -> Vec<Cell> {
    let sum = |key: &str| members(&node["loads"]).filter_map(|(_, load)| load[key].as_u64()).sum::<u64>();
    vec![
        name.into(),
        Cell::from(state).in_style(style_of(state)),
        heard,
        rtt,
        Cell::from(&node["memory_free"]),
        functions,
        format!("{} of {}", thousands(sum("free")), thousands(sum("capacity"))).into(),
        thousands(sum("waiting")).into(),
        string(&node["address"]).into(),
        why.into(),
    ]
}

fn loads(page: &Value) -> Table {
    let own = [(string(&page["name"]), &page["beat"])];
    let peers = page["peers"].as_array().into_iter().flatten().map(|peer| (string(&peer["name"]), peer));
    let mut rows: Vec<_> = own
        .into_iter()
        .chain(peers)
        .flat_map(|(node, beat)| members(&beat["loads"]).map(move |(function, load)| (function.as_str(), node, load)))
        .collect();
    rows.sort_by_key(|(function, node, _)| (*function, *node));
    let mut table = Table::new(&LOADS);
    for (function, node, load) in rows {
        let state = match (load["is_failing"] == true, load["is_full"] == true) {
            (true, _) => "failing",
            (_, true) => "full",
            _ => "serving",
        };
        let mut row = vec![function.into(), node.into()];
        row.extend(["free", "capacity", "waiting"].map(|key| Cell::from(&load[key])));
        row.push(Cell::from(state).in_style(style_of(state)));
        table.row(row);
    }
    table
}
