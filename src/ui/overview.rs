//! The overview: is all well, and what needs attention? `function_list.rs` has the list of functions.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::HashMap;
use maud::{Markup, html};
use unifaas_actors::{AdmissionReport, inbox::UnixMillis, trigger::TriggerOverview};

use super::{
    Known,
    attention::{self, FunctionFacts, HostFacts, Notice, Recent, Severity},
    charts::{self, Part},
    format::{count, duration, mebibytes, percent, plural},
    function_list, inbox,
    layout::{self, Content, state, to_function},
    page::Listing,
    sample::{Row, Sample},
    traffic, triggers,
};
use crate::{http::ListenerKind, inbox::InboxOverview};

/// Things that need attention and are listed.
const MAX_NOTICES: usize = 20;

/// Returns the page.
pub async fn content(known: &Known<'_>, listing: &Listing) -> Content {
    let sample = known.sample().await;
    let admission = known.admission().await;
    let recent = known.history().recent();
    let (inbox, triggers) = (known.shared.inbox.overview_with_site().await, known.triggers().await);
    let mut notices = notices(known, &sample, &recent, admission, inbox.as_ref());
    if let Some(triggers) = &triggers {
        notices.extend(triggers::notices(triggers, UnixMillis::now()));
        notices.sort_by_key(|notice| notice.severity);
    }
    let points = known.history().daemon();
    Content::new("Overview")
        .section("status", status(known, &sample, admission, inbox.as_ref(), triggers.as_ref(), notices.len()))
        .section("attention", needs_attention(&notices))
        .section("traffic", traffic::section(&[traffic::requests(&points), traffic::waiting(&points)]))
        .section("functions", function_list::section(&sample, &recent, listing))
}

fn notices(
    known: &Known<'_>,
    sample: &Sample,
    recent: &HashMap<Arc<str>, Recent>,
    admission: Option<AdmissionReport>,
    inbox: Option<&InboxOverview>,
) -> Vec<Notice> {
    let mut notices = attention::of_host(&host(known, admission, inbox));
    // The words of more functions than are listed are of no use.
    let mut with_words = 0;
    for Row { handle, summary } in &sample.rows {
        let recent = recent.get(handle.name()).copied();
        let inbox = inbox.and_then(|inbox| inbox.of(handle.name()));
        if recent.is_none() && inbox.is_none() && summary.state == "serving" && summary.waiting == 0 {
            continue;
        }
        let spec = handle.spec();
        let spec = spec.as_deref();
        let is_mute = summary.state != "failing" || with_words >= MAX_NOTICES;
        with_words += usize::from(!is_mute);
        let words = if is_mute { None } else { known.last_words(handle.name()) };
        notices.extend(attention::of_function(&FunctionFacts {
            name: handle.name(),
            state: summary.state,
            why: summary.why.as_deref(),
            words: words.as_deref(),
            waiting: summary.waiting,
            queue: spec.map_or(usize::MAX, |spec| spec.queue.get()),
            instances: summary.booting + summary.idle + summary.busy + summary.paused,
            max_instances: spec.and_then(|spec| spec.max_instances).map(std::num::NonZeroUsize::get),
            concurrent_requests: spec.map_or(1, |spec| spec.concurrent_requests.get()),
            recent,
            inbox,
            async_concurrency: spec.map_or(0, |spec| spec.asynchronous.concurrency.get()),
        }));
    }
    notices
}

fn host<'a>(known: &Known<'_>, admission: Option<AdmissionReport>, inbox: Option<&'a InboxOverview>) -> HostFacts<'a> {
    let settings = known.shared.settings();
    HostFacts {
        is_draining: known.shared.is_draining(),
        memory_taken: admission.map_or(0, |admission| admission.memory_taken),
        memory_budget: settings.memory_budget,
        functions_waiting: admission.map_or(0, |admission| admission.functions_waiting),
        connections: known.shared.server.connections(ListenerKind::Front).report().open,
        max_connections: settings.max_connections,
        inbox_problem: inbox.and_then(|inbox| inbox.store.problem.as_deref()),
    }
}

fn status(
    known: &Known<'_>,
    sample: &Sample,
    admission: Option<AdmissionReport>,
    inbox: Option<&InboxOverview>,
    triggers: Option<&TriggerOverview>,
    notices: usize,
) -> Markup {
    let shared = known.shared;
    let settings = shared.settings();
    let mut states = BTreeMap::<&str, usize>::new();
    let (mut busy, mut idle, mut paused, mut booting, mut waiting) = (0, 0, 0, 0, 0);
    for Row { summary, .. } in &sample.rows {
        *states.entry(summary.state).or_default() += 1;
        busy += summary.busy;
        idle += summary.idle;
        paused += summary.paused;
        booting += summary.booting;
        waiting += summary.waiting;
    }
    let word = if shared.is_draining() { "draining" } else { "serving" };
    let budget = settings.memory_budget as f64;
    let taken = admission.map_or(0.0, |admission| admission.memory_taken as f64);
    let share = percent(taken / budget.max(1.0));
    let charged = Part { class: "main", name: "charged to instances", value: taken, text: share };
    html! {
        div.head {
            h1 { "Overview" }
            p.lead {
                (state(word)) " "
                @if notices == 0 { "All is well." }
                @else { (plural(notices as u64, "thing needs attention.", "things need attention.")) }
            }
            (layout::actions(&[("Read the registry", "/debug/rescan".to_owned(), None)]))
        }
        div.cards {
            div.card {
                h2 { "Functions" }
                p.big { (count(sample.rows.len() as u64)) }
                ul.inline { @for (name, number) in &states { li { (state(name)) " " (count(*number as u64)) } } }
            }
            div.card {
                h2 { "Instances" }
                p.big { (count((busy + idle + paused + booting) as u64)) }
                p { (busy) " busy · " (idle) " idle · " @if paused > 0 { (paused) " paused · " } (booting) " starting, up to " (settings.max_starts) " at once" }
            }
            div.card {
                h2 { "Waiting" }
                p.big { (count(waiting as u64)) }
                p { (plural(waiting as u64, "request", "requests")) " in queues" }
            }
            @if let Some(inbox) = inbox { (inbox::card(inbox)) }
            @if let Some(triggers) = triggers { (triggers::card(triggers)) }
            div.card.wide {
                h2 { "Memory" }
                p.big { (mebibytes(taken)) small { " of " (mebibytes(budget)) } }
                (charts::bar("Memory of all instances", &[charged], budget))
            }
        }
        p.small {
            "UniFaaS " (env!("CARGO_PKG_VERSION")) " · up " (uptime(shared.started.elapsed().as_secs()))
            " · listens on " code { (settings.listen) }
            " · registry " code { (settings.registry) }
            " · " (count(shared.server.connections(ListenerKind::Front).report().open as u64)) " connections"
        }
    }
}

/// Returns how long the daemon has been running, in whole minutes, so that the page changes seldom.
fn uptime(seconds: u64) -> String {
    if seconds < 60 { "less than 1 min".to_owned() } else { duration((seconds / 60 * 60) as f64) }
}

fn needs_attention(notices: &[Notice]) -> Markup {
    html! {
        h2 { "Needs attention" }
        p.unseen role="status" {
            @if notices.is_empty() { "Nothing needs attention." }
            @else {
                // Without numbers, which change all the time.
                @for notice in notices.iter().take(MAX_NOTICES) { (word(notice)) ": " (subject(notice)) "; " }
            }
        }
        @if notices.is_empty() {
            p.calm { (state("ready")) " – nothing. Functions that fail or are slow appear here, with what to change." }
        } @else {
            ul.notices {
                @for notice in notices.iter().take(MAX_NOTICES) {
                    li.(class(notice)) data-key=(subject(notice)) {
                        (state(word(notice)))
                        div {
                            p {
                                strong {
                                    @match &notice.function { Some(name) => (to_function(name)), None => "This host" }
                                }
                                " " (notice.what)
                            }
                            p.advice { (in_code(&notice.advice)) }
                        }
                    }
                }
            }
            @if notices.len() > MAX_NOTICES {
                p {
                    "And " (notices.len() - MAX_NOTICES) " more: " a href="/ui/?state=failing" { "failing" } ", "
                    a href="/ui/?state=misconfigured" { "misconfigured" } "."
                }
            }
        }
    }
}

fn word(notice: &Notice) -> &'static str {
    match notice.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn class(notice: &Notice) -> &'static str {
    match notice.severity {
        Severity::Error => "bad",
        Severity::Warning => "poor",
    }
}

fn subject(notice: &Notice) -> &str {
    notice.function.as_deref().unwrap_or("This host")
}

/// Returns a text whose parts between backticks are code.
pub fn in_code(text: &str) -> Markup {
    html! {
        @for (position, part) in text.split('`').enumerate() {
            @if position % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// Returns a notice as a part of the function's own page.
pub fn advice(notice: &Notice) -> Markup {
    html! {
        div.notice.(class(notice)) {
            (state(word(notice)))
            div { p { strong { (notice.what) } } p.advice { (in_code(&notice.advice)) } }
        }
    }
}
