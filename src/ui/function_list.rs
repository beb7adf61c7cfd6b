//! The list of functions on the overview: which are listed, in which order, and the form that asks for others.

use std::{cmp::Reverse, sync::Arc};

use foldhash::HashMap;
use maud::{Markup, html};

use super::{
    attention::Recent,
    format::{count, duration, percent, rate},
    history::STEP,
    layout::{state, table, to_function},
    page::{Filter, Listing, Page, ROWS, Sort},
    sample::{Row, Sample},
};

/// Returns the section.
pub fn section(sample: &Sample, recent: &HashMap<Arc<str>, Recent>, listing: &Listing) -> Markup {
    let mut rows: Vec<_> = sample.rows.iter().filter(|row| is_listed(row, listing)).collect();
    sort(&mut rows, recent, listing.sort);
    let pages = rows.len().div_ceil(ROWS).max(1);
    let page = listing.page.min(pages - 1);
    let shown = rows.get(page * ROWS..((page + 1) * ROWS).min(rows.len())).unwrap_or_default();
    let link = |name: &str, sort: Sort| {
        let is_current = listing.sort == sort;
        let address = Page::Overview(Listing { sort, page: 0, ..listing.clone() });
        html! { a href=(address) aria-current=[is_current.then_some("true")] { (name) } }
    };
    let head = html! {
        th scope="col" { (link("Function", Sort::Name)) }
        th scope="col" { (link("State", Sort::State)) }
        th scope="col" { "Kind" }
        th.number scope="col" { (link("Instances", Sort::Instances)) }
        th.number scope="col" { (link("Requests/s", Sort::Requests)) }
        th.number scope="col" { (link("p95", Sort::Latency)) }
        th.number scope="col" { (link("Failed", Sort::Failed)) }
        th.number scope="col" { "Cold" }
        th.number scope="col" { (link("Queue", Sort::Queue)) }
    };
    let body = html! {
        @for Row { handle, summary } in shown {
            @let recent = recent.get(handle.name()).filter(|recent| recent.requests > 0.0);
            tr data-key=(handle.name()) {
                th scope="row" { (to_function(handle.name())) }
                td { (state(summary.state)) }
                td { (summary.kind.unwrap_or("–")) }
                td.number {
                    (summary.booting + summary.idle + summary.busy + summary.paused)
                    @if summary.busy > 0 { small { " " (summary.busy) " busy" } }
                }
                @match recent {
                    Some(recent) => {
                        td.number { (rate(recent.requests / recent.seconds.max(STEP))) }
                        td.number { @if recent.p95 > 0.0 { (duration(recent.p95)) } @else { "–" } }
                        td.number.bad[recent.failed > 0.0] { (percent(recent.failed / recent.requests)) }
                        td.number { (percent(recent.cold / recent.requests)) }
                    }
                    None => { td.number { "0" } td.number { "–" } td.number { "–" } td.number { "–" } }
                }
                td.number.poor[summary.waiting > 0] { (summary.waiting) }
            }
        }
    };
    html! {
        h2 { "Functions" }
        (form(listing))
        @if rows.is_empty() {
            p.none {
                @if sample.rows.is_empty() {
                    "The registry has no function. " code { "unifaas new NAME" } " makes one."
                } @else { "No function matches. " a href="/ui/" { "Show all" } }
            }
        } @else {
            (table("Functions: requests of the last five minutes", "functions", &head, &body))
            (pager(listing, page, pages, rows.len()))
        }
    }
}

fn form(listing: &Listing) -> Markup {
    html! {
        form.filter action="/ui/" method="get" role="search" {
            label { "Name " input #find type="search" name="find" value=(listing.find) autocomplete="off"; }
            label { "State "
                select #state name="state" {
                    @for filter in Filter::ALL {
                        option value=(filter.as_str()) selected[filter == listing.state] { (filter.as_str()) }
                    }
                }
            }
            @if listing.sort != Sort::default() { input type="hidden" name="sort" value=(listing.sort.as_str()); }
            button type="submit" { "Show" }
        }
    }
}

fn pager(listing: &Listing, page: usize, pages: usize, rows: usize) -> Markup {
    let whole = |number: usize| count(number as u64);
    let at = |page| Page::Overview(Listing { page, ..listing.clone() });
    html! {
        nav.pager aria-label="Pages of functions" {
            @if page > 0 { a href=(at(page - 1)) rel="prev" { "← Previous" } }
            span { (whole(page * ROWS + 1)) "–" (whole(((page + 1) * ROWS).min(rows))) " of " (whole(rows)) }
            @if page + 1 < pages { a href=(at(page + 1)) rel="next" { "Next →" } }
        }
    }
}

fn is_listed(row: &Row, listing: &Listing) -> bool {
    let Row { handle, summary } = row;
    let has_state = match listing.state {
        Filter::All => true,
        Filter::Running => summary.booting + summary.idle + summary.busy + summary.paused > 0,
        state => summary.state == state.as_str(),
    };
    has_state && (listing.find.is_empty() || handle.name().contains(&listing.find))
}

/// Sorts rows, which are in the order of their names.
fn sort(rows: &mut [&Row], recent: &HashMap<Arc<str>, Recent>, sort: Sort) {
    let recent = |row: &Row| recent.get(row.handle.name()).copied().unwrap_or_default();
    // Micro-units, as floats have no order.
    let whole = |value: f64| Reverse((value * 1e6) as u64);
    let instances = |row: &Row| row.summary.booting + row.summary.idle + row.summary.busy + row.summary.paused;
    match sort {
        Sort::Name => {}
        Sort::State => rows.sort_by_key(|row| (rank(row.summary.state), instances(row) == 0)),
        Sort::Instances => rows.sort_by_key(|row| Reverse(instances(row))),
        Sort::Requests => rows.sort_by_cached_key(|row| whole(recent(row).requests)),
        Sort::Latency => rows.sort_by_cached_key(|row| whole(recent(row).p95)),
        Sort::Failed => rows.sort_by_cached_key(|row| {
            let recent = recent(row);
            whole(recent.failed / recent.requests.max(1.0))
        }),
        Sort::Queue => rows.sort_by_key(|row| Reverse(row.summary.waiting)),
    }
}

fn rank(state: &str) -> usize {
    ["failing", "misconfigured", "draining"].iter().position(|known| *known == state).unwrap_or(3)
}
