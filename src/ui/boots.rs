//! The page of starts: the last and the slowest ones.

use maud::{Markup, html};
use unifaas_actors::BootReport;

use super::{
    Known,
    format::{duration, time},
    instance,
    layout::{Content, state, table, to_function},
    page::Page,
    phases::{MEANINGS, Step, name, steps, total},
};

/// Starts on the page of starts.
const RECENT: usize = 50;
const SLOWEST: usize = 10;

/// Returns the page of starts, of one function or of all.
pub fn content(known: &Known<'_>, function: Option<&str>) -> Content {
    let history = &known.shared.history.boots;
    let (recent, slowest) = (history.recent(function, RECENT), history.slowest(function, SLOWEST));
    let title = function.map_or_else(|| "Boots".to_owned(), |name| format!("Boots of {name}"));
    let of_all = function.is_none();
    let body = html! {
        div.head { h1 { (title) } }
        p { "Where the time of starts goes. Each bar is one start; the parts are its phases." }
        (legend())
        h2 { "The slowest of the last hour" }
        @if slowest.is_empty() { p.none { "No start yet." } } @else { (list("The slowest starts", &slowest, of_all)) }
        h2.later { "The last ones" }
        @if recent.is_empty() { p.none { "No start yet." } } @else { (list("The last starts", &recent, of_all)) }
    };
    let mut content = Content::new(title).section("boots", body);
    content.trail = trail(function);
    content
}

/// Returns how the pages of starts lead back.
pub fn trail(function: Option<&str>) -> Vec<(String, String)> {
    let mut trail = vec![("Overview".to_owned(), "/ui/".to_owned())];
    trail.extend(function.map(|name| (name.to_owned(), Page::Function(name.to_owned()).to_string())));
    trail
}

fn legend() -> Markup {
    html! {
        ul.keys {
            @for (phase, _) in MEANINGS {
                li.key.(phase.as_str()) {
                    svg viewBox="0 0 16 16" aria-hidden="true" { rect x="2" y="2" width="12" height="12" rx="2" {} }
                    (name(phase))
                }
            }
        }
    }
}

/// Returns a table of starts. `of_all`: of several functions.
pub fn list(caption: &str, boots: &[BootReport], of_all: bool) -> Markup {
    let longest = boots.iter().map(total).max().unwrap_or_default().max(1);
    let head = html! {
        th scope="col" { "Instance" }
        @if of_all { th scope="col" { "Function" } }
        th scope="col" { "Wanted" }
        th scope="col" { "Origin" }
        th scope="col" { "Result" }
        th.number scope="col" { "Took" }
        th.phases scope="col" { "Phases" }
    };
    let rows = html! {
        @for boot in boots {
            tr data-key=(boot.instance) {
                @let id = boot.instance;
                th scope="row" { a.id href=(Page::Boot(id)) title=(id) { (instance::short(id)) } }
                @if of_all { td { (to_function(&boot.function)) } }
                td { (time(boot.wanted)) }
                td { (boot.origin) }
                td { (result(boot)) }
                td.number { (duration(boot.took_us as f64 / 1e6)) }
                td.phases { (bar(boot, longest)) }
            }
        }
    };
    table(caption, "boots", &head, &rows)
}

/// Returns the result of a start as a state.
pub fn result(boot: &BootReport) -> Markup {
    match boot.result {
        "ready" | "booting" => state(boot.result),
        failed => html! { (state("error")) " " (failed.replace('_', " ")) },
    }
}

/// Returns all phases of a start in one bar.
fn bar(boot: &BootReport, longest: u64) -> Markup {
    let scale = |micros: u64| format!("{:.1}", micros as f64 / longest as f64 * 600.0);
    html! {
        svg.span viewBox="0 0 600 10" preserveAspectRatio="none" aria-hidden="true" {
            rect.rest width="600" height="10" {}
            @for Step { phase, from, to, .. } in steps(boot) {
                rect.(phase.as_str()) x=(scale(from)) width=(scale(to - from)) height="10" {}
            }
        }
    }
}
