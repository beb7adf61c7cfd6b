//! Asynchronous invocations on the overview and on a function's page.

use maud::{Markup, html};
use unifaas_actors::inbox::{Record, State};

use super::{
    Known,
    format::{age, count, duration, mebibytes, plural, time},
    layout::{self, heads, state, table},
};
use crate::inbox::{FunctionOverview, InboxOverview, StoreReport};

/// Dead letters that a function's page shows.
const LETTERS: usize = 10;
const MIB: f64 = 1048576.0;

/// Returns the card of the overview. It is empty while no asynchronous invocation was ever stored.
pub fn card(inbox: &InboxOverview) -> Markup {
    let store = &inbox.store;
    html! {
        @if store.is_open || store.problem.is_some() {
            div.card {
                h2 { "Asynchronous" }
                p.big { (count(inbox.queued as u64)) small { " queued" } }
                p {
                    (inbox.running) " running · "
                    span.poor[inbox.dead > 0] { (plural(inbox.dead as u64, "dead letter", "dead letters")) }
                    @if store.undelivered > 0 { " · " (plural(store.undelivered, "result", "results")) " to deliver" }
                    (waited(inbox.oldest_seconds))
                }
                @if store.handed_over + store.stored_node > 0 {
                    p { (count(store.handed_over)) " handed over to the site" }
                }
                @if let Some(results @ 1..) = inbox.site_undelivered {
                    p { (plural(results, "result", "results")) " of the site to deliver" }
                }
                @if let Some(why) = &inbox.site_problem { p { (state("warning")) " not handed over: " (why) } }
                p { @if store.is_open { (commits(store)) } @else { (state("error")) " the database is not open" } }
            }
        }
    }
}

fn commits(store: &StoreReport) -> Markup {
    html! {
        (mebibytes(store.bytes as f64 / MIB))
        @if store.commit_ms > 0.0 { " · a commit takes " (duration(store.commit_ms / 1e3)) }
    }
}

/// Returns for how long work has been due, from a second on.
fn waited(seconds: f64) -> Markup {
    html! { @if seconds >= 1.0 { " · the oldest waits for " (age(seconds.floor())) } }
}

/// Returns the section of a function's page. It is empty without asynchronous invocations.
pub async fn section(known: &Known<'_>, function: Option<&FunctionOverview>) -> Markup {
    let Some(function) = function else { return html! {} };
    let letters = if function.dead == 0 { Vec::new() } else { known.dead_letters(&function.function, LETTERS).await };
    let head = heads(&["Dead letter", "Reason", "#Status", "#Attempts", "Ended", "Action"]);
    let rows = html! { @for record in &letters { (letter(record)) } };
    html! {
        h2 { "Asynchronous invocations" }
        p {
            b { (count(function.queued as u64)) } " queued · " b { (function.running) } " running · "
            b.poor[function.dead > 0] { (count(function.dead as u64)) } " "
            (if function.dead == 1 { "dead letter" } else { "dead letters" })
            (waited(function.oldest_seconds))
        }
        @if !letters.is_empty() {
            (table("Dead letters, the oldest first", "letters", &head, &rows))
            @if function.dead > letters.len() {
                p { "And " (count((function.dead - letters.len()) as u64)) " more: " code { "unifaas dead list" } " has all." }
            }
        }
    }
}

fn letter(record: &Record) -> Markup {
    let State::Dead { ended, reason, status } = record.state else { return html! {} };
    let page = format!("/debug/inbox/{}", record.id);
    html! {
        tr data-key=(record.id) {
            th scope="row" { a href=(page) { code { (record.id) } } }
            td { (reason.code().replace('_', " ")) }
            td.number { @match status { Some(status) => (status), None => "–" } }
            td.number { (record.attempts) }
            td { (time(ended.into())) }
            td {
                (layout::actions(&[
                    ("Redrive", format!("{page}/redrive"), None),
                    ("Remove", format!("{page}/remove"), Some(format!("Remove {} for good?", record.id))),
                ]))
            }
        }
    }
}
