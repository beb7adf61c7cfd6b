//! The page of failures: what broke, since when, and is it still going on?

use maud::{Markup, html};
use unifaas_actors::ErrorReport;

use super::{
    Known,
    format::{count, time},
    instance,
    layout::{Content, heads, table, to_function},
    overview::in_code,
    page::Page,
};

/// Returns the page of failures, of one function or of all.
pub fn content(known: &Known<'_>, function: Option<&str>) -> Content {
    let errors = known.shared.history.errors.reports(function);
    let title = function.map_or_else(|| "Errors".to_owned(), |name| format!("Errors of {name}"));
    let body = html! {
        div.head { h1 { (title) } }
        p { "Failures of requests and starts by function, code and cause; the last one first. 64 groups are kept." }
        @if errors.is_empty() { p.none { "Nothing has failed." } } @else { (list(&errors, function.is_none())) }
    };
    let mut content = Content::new(title).section("errors", body);
    content.trail = vec![("Overview".to_owned(), "/ui/".to_owned())];
    content.trail.extend(function.map(|name| (name.to_owned(), Page::Function(name.to_owned()).to_string())));
    content
}

/// Returns the failures of a function as a part of its page.
pub fn short(errors: &[ErrorReport], name: &str) -> Markup {
    if errors.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Errors" }
        (list(errors.get(..errors.len().min(5)).unwrap_or_default(), false))
        @if errors.len() > 5 { p { a href=(Page::Errors(Some(name.to_owned()))) { "All errors" } } }
    }
}

fn list(errors: &[ErrorReport], of_all: bool) -> Markup {
    let mut names = vec!["#Times", "Code", "What happened", "First", "Last", "Look at"];
    if of_all {
        names.insert(1, "Function");
    }
    let rows = html! {
        @for error in errors {
            tr data-key={ (error.function) "/" (error.code) "/" (error.first) } {
                td.number data-label="times" { b { (count(error.count)) } }
                @if of_all { td { (to_function(&error.function)) } }
                th scope="row" { code { (error.code) } }
                td.message {
                    p.cut { (error.message) }
                    @if let Some(advice) = advice(error.code) { p.advice { (in_code(advice)) } }
                }
                td data-label="first" { (time(error.first)) }
                td data-label="last" { (time(error.last)) }
                td {
                    @if let Some(id) = error.instance { "instance " (instance::link(id)) " " }
                    a href=(Page::Boots(Some(error.function.clone()))) { "boots" }
                    @if let Some(request) = &error.request_id { br; small { "request " (request) } }
                }
            }
        }
    };
    table("Failures, the last one first", "errors", &heads(&names), &rows)
}

/// Returns what to change about failures of a code.
fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "queue_timed_out" | "function_saturated" => {
            "More slots: raise `max-instances` or `concurrent-requests`. More patience: `queue` and `queue-timeout`."
        }
        "host_saturated" => "Less per instance: lower `memory`, here or of other functions. Or raise --memory-budget.",
        "boot_timed_out" => {
            "See its boots: where does the time go? A function that needs no callback sets `readiness`."
        }
        "boot_failed" | "start_failed" => "The last lines of the instance say why.",
        "instance_failed" => "The instance ended while it served: its output and its exit say why.",
        "function_timed_out" => "Raise `timeout`, or answer sooner.",
        "function_misconfigured" => "Correct its function.toml: the page of the function has all problems.",
        "body_too_large" => "Raise `max-body`, if such bodies are meant to be.",
        _ => return None,
    })
}
