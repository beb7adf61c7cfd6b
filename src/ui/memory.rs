//! The page of memory: who has it, who waits for it, and what would another instance find?

use std::cmp::Reverse;

use maud::{Markup, html};
use unifaas_actors::AdmissionReport;

use super::{
    Known,
    charts::{self, Line, Part},
    format::{age, count, duration, mebibytes, percent, plural},
    history::STEP,
    layout::{Content, heads, table, to_function},
    shares::{self, Next, Share},
};

/// Functions in the table, and in the bar.
const MAX_ROWS: usize = 100;
const MAX_PARTS: usize = 5;
const MIB: f64 = (1 << 20) as f64;
/// Columns of the table.
const HEADS: [&str; 14] = [
    "Function",
    "#Instances",
    "#Idle",
    "#Idle for",
    "#Charged",
    "#Of the budget",
    "#Declared",
    "#Used",
    "#Peak of one",
    "#Evicted",
    "#Paused early",
    "#Waiting",
    "#Waits for the host",
    "Another one",
];

/// Returns the page.
pub async fn content(known: &Known<'_>) -> Content {
    let budget = known.shared.settings().memory_budget;
    let admission = known.admission().await;
    let mut shares: Vec<_> = shares::read(known, admission, budget).await.into_iter().collect();
    shares.sort_by_key(|(_, share)| Reverse(share.charged_bytes));
    Content::new("Memory").section("memory", body(known, &shares, admission, budget as f64))
}

fn body(known: &Known<'_>, shares: &[(Box<str>, Share)], admission: Option<AdmissionReport>, budget: f64) -> Markup {
    let taken = admission.map_or(0.0, |admission| admission.memory_taken as f64);
    let line = Line { class: "main", name: "all instances", values: known.history().memory() };
    let span = (line.values.len() as f64 * STEP).max(STEP);
    let rows = html! { @for (name, share) in shares.iter().take(MAX_ROWS) { (row(name, share, budget)) } };
    html! {
        div.head {
            h1 { "Memory" }
            p.lead { b { (mebibytes(taken)) } " of " (mebibytes(budget)) " are charged to instances" }
        }
        (charts::bar("Who has the memory", &parts(shares), budget))
        @if let Some(admission) = admission {
            p {
                (count(admission.starting as u64)) " starting · "
                (plural(admission.functions_waiting as u64, "function waits", "functions wait"))
                " for memory or for leave to start"
                @if admission.functions_waiting > 0 { ": instances that are idle make room for them" }
            }
        }
        div.charts {
            (charts::over_time("Charged memory", &[line], span, mebibytes))
        }
        h2.later { "By function" }
        @if shares.is_empty() { p.none { "No instance exists." } }
        @else { (table("Memory by function", "memory", &heads(&HEADS), &rows)) }
        @if shares.len() > MAX_ROWS { p { "And " (shares.len() - MAX_ROWS) " more functions." } }
        p.small {
            "A running instance is charged the limit that it declares, " code { "memory" } " of its function.toml, and a "
            "paused one what it holds. The sum of all stays within the budget. What is used is read from its cgroup, if it "
            "has one. The peak is the most that one instance has used, of those that exist or are remembered: its limit "
            "may be lowered towards that. Idle instances make room for others: they are paused early or evicted, those "
            "first whose memory is worth the least. Waits are those of requests for memory, or for leave to start an "
            "instance. The last column says what would happen if the function needed another instance now."
        }
    }
}

fn row(name: &str, share: &Share, budget: f64) -> Markup {
    let bytes = |bytes: u64| mebibytes(bytes as f64 / MIB);
    let optional = |amount: Option<u64>| amount.map_or_else(|| "–".to_owned(), bytes);
    let is_scarce = matches!(share.next, Some(Next::Waits | Next::Never));
    let peak = html! {
        (optional(share.peak_bytes))
        @if let (Some(_), Some(limit)) = (share.peak_bytes, share.limit_bytes) { small { " of " (bytes(limit)) } }
    };
    let waits = html! {
        @if share.waits == 0 { "–" }
        @else { (count(share.waits)) " × " (duration(share.wait_seconds / share.waits as f64)) }
    };
    let calm = |text: String| (html! { (text) }, false);
    let cells = [
        calm(share.instances.to_string()),
        calm(share.idle.to_string()),
        calm(share.idle_seconds.map_or_else(|| "–".to_owned(), age)),
        calm(bytes(share.charged_bytes)),
        calm(percent(share.charged_bytes as f64 / MIB / budget.max(1.0))),
        calm(bytes(share.declared_bytes)),
        calm(optional(share.used_bytes)),
        (peak, false),
        calm(count(share.evicted)),
        calm(count(share.early_pauses)),
        (html! { (share.waiting) }, share.waiting > 0),
        (waits, false),
        (html! { (share.next.map_or("–", Next::as_str)) }, is_scarce),
    ];
    html! {
        tr data-key=(name) {
            th scope="row" { (to_function(name)) }
            @for (head, (cell, is_poor)) in HEADS.iter().skip(1).zip(cells) {
                // A narrow window shows the name of the column in each cell.
                @let label = head.trim_start_matches('#');
                td.number[head.starts_with('#')].poor[is_poor] data-label=(label) { (cell) }
            }
        }
    }
}

/// Returns the parts of the bar: the functions with the most memory, and all others.
fn parts(shares: &[(Box<str>, Share)]) -> Vec<Part<'_>> {
    let part = |class, name, bytes: u64| {
        let mib = bytes as f64 / MIB;
        Part { class, name, value: mib, text: mebibytes(mib) }
    };
    let classes = ["main", "good", "poor", "calm", "other"];
    let first = shares.iter().filter(|(_, share)| share.charged_bytes > 0).zip(classes);
    let mut parts: Vec<_> = first.map(|((name, share), class)| part(class, name, share.charged_bytes)).collect();
    let rest: u64 = shares.iter().skip(MAX_PARTS).map(|(_, share)| share.charged_bytes).sum();
    if rest > 0 {
        parts.push(part("more", "all others", rest));
    }
    parts
}
