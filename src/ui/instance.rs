//! The page of an instance: what is it doing, and what did it say?

use std::sync::Arc;

use maud::{Markup, html};
use unifaas_actors::{EndedReport, InstanceId, InstanceRecord, InstanceSnapshot, OutputLine};

use super::{
    Known,
    format::{age, count, mebibytes, time},
    layout::{self, Content, facts, state, to_function},
    page::Page,
};

/// Returns the page. `None`: there is no such instance, or it was forgotten.
pub async fn content(known: &Known<'_>, id: InstanceId) -> Option<Content> {
    let record = known.shared.history.instances.find(id)?;
    let handle = known.shared.directory.find(&record.function);
    let live = match handle {
        Some(handle) => handle.inspect_instance(id).await,
        None => None,
    };
    let content = Content::new(format!("Instance {}", short(id)));
    let mut content = match live {
        Some(instance) => content.section("status", of_live(&record, &instance)),
        None => content.section("status", of_ended(&record, &record.ended()?)),
    };
    let lines = record.output.complete(usize::MAX);
    content.last = Some(lines.last().map_or_else(|| known.shared.history.feed.last_sequence(), |line| line.sequence));
    content.log = Some(log(&lines));
    let function = record.function.to_string();
    let page = Page::Function(function.clone()).to_string();
    content.trail = vec![("Overview".to_owned(), "/ui/".to_owned()), (function, page)];
    Some(content)
}

/// Returns a button that ends an instance now.
pub fn stop(id: InstanceId) -> Markup {
    html! {
        div.actions data-key="actions" {
            button type="button" data-post={ "/debug/instances/" (id) "/stop" } data-question="End this instance now?"
                aria-label={ "Stop instance " (short(id)) } { "Stop" }
            span role="status" {}
        }
    }
}

fn of_live(record: &InstanceRecord, instance: &InstanceSnapshot) -> Markup {
    let stop = format!("/debug/instances/{}/stop", record.instance);
    // Changes between these two are too frequent to be announced.
    let announced = if matches!(instance.state, "busy" | "idle" | "pausing" | "paused" | "resuming") {
        "serving"
    } else {
        instance.state
    };
    let optional = |value: Option<String>| html! { @match &value { Some(value) => code { (value) }, None => "–" } };
    html! {
        div.head {
            h1 { "Instance " code { (short(record.instance)) } }
            p.lead { (state(instance.state)) " for " (age(instance.since_seconds)) }
            p.unseen role="status" { (announced) }
            (layout::actions(&[("Stop", stop, Some("End this instance now?".to_owned()))]))
        }
        (facts(&[
            ("function", to_function(&record.function)),
            ("id", html! { code { (record.instance) } }),
            ("origin", html! { (instance.origin) }),
            ("in flight", html! { (instance.in_flight) }),
            ("served", html! { (count(instance.served)) }),
            ("memory", memory_and_peak(record)),
            ("revision", html! { (instance.revision) }),
            ("process", optional(instance.pid.map(|pid| pid.to_string()))),
            ("address", optional(instance.address.clone())),
            ("container", optional(instance.engine_id.as_ref().map(|id| id.chars().take(12).collect()))),
            ("boot", boot(record)),
            ("*holds", held(&instance.resources)),
        ]))
    }
}

/// Returns the memory that an instance uses, if that is known, what it declares, and what it is charged if that is less.
pub fn memory(record: &InstanceRecord) -> Markup {
    html! {
        @if let Some(bytes) = record.memory_used() { (mebibytes(bytes as f64 / f64::from(1 << 20))) " of " }
        (mebibytes(record.memory as f64))
        @if record.charged() < record.memory { ", charged " (mebibytes(record.charged() as f64)) }
    }
}

/// Returns the same with the most that the instance has used, if that is known.
fn memory_and_peak(record: &InstanceRecord) -> Markup {
    html! {
        (memory(record))
        @if let Some(bytes) = record.memory_peak() { ", at most " (mebibytes(bytes as f64 / f64::from(1 << 20))) }
    }
}

fn held(resources: &[String]) -> Markup {
    html! {
        @if resources.is_empty() { "–" }
        @for (position, resource) in resources.iter().enumerate() { @if position > 0 { ", " } code { (resource) } }
    }
}

fn boot(record: &InstanceRecord) -> Markup {
    let report = record.boot.report();
    html! {
        a href=(Page::Boot(record.instance)) {
            @if report.result == "ready" { "ready after " } @else { (report.result.replace('_', " ")) " after " }
            (super::format::duration(report.took_us as f64 / 1e6))
        }
    }
}

fn of_ended(record: &InstanceRecord, ended: &EndedReport) -> Markup {
    html! {
        div.head {
            h1 { "Instance " code { (short(record.instance)) } }
            p.lead role="status" { (state(ended.state)) " " (ended.cause.replace('_', " ")) }
        }
        (facts(&[
            ("function", to_function(&record.function)),
            ("id", html! { code { (record.instance) } }),
            ("exit", html! { (ended.exit.as_deref().unwrap_or("–")) }),
            ("ended", time(ended.ended)),
            ("lived", html! { (age(ended.lifetime_seconds)) }),
            ("served", html! { (count(ended.served)) }),
            ("memory", memory_and_peak(record)),
            ("revision", html! { (ended.revision) }),
            ("boot", boot(record)),
        ]))
    }
}

fn log(lines: &[Arc<OutputLine>]) -> Markup {
    html! {
        section #log aria-labelledby="log-title" {
            h2 #log-title { "Output" }
            div.tools hidden {
                label { input #follow type="checkbox" checked; " Follow" }
                button #pause type="button" aria-pressed="false" { "Pause" }
                label {
                    span.unseen { "Search in the output" }
                    input #search type="search" placeholder="Search…" autocomplete="off";
                }
                span #matches role="status" {}
                button #copy type="button" { "Copy" }
            }
            ol #lines.log tabindex="0" aria-label="Lines of output" {
                @for line in lines { (self::line(line, None)) }
            }
            p.small { "The last 100 lines are kept, also after the end of the instance." }
        }
    }
}

/// Returns a line of output. `instance`: that it is of, where several are shown.
pub fn line(line: &OutputLine, instance: Option<InstanceId>) -> Markup {
    html! {
        li.(line.stream.as_str()) data-key=[instance.map(|_| line.sequence)] {
            (time(line.time)) " "
            @if let Some(id) = instance { (link(id)) " " }
            span.stream { (line.stream.as_str()) } " "
            span.text { (line.text) }
        }
    }
}

/// Returns a link to an instance, by the first digits of its id.
pub fn link(id: InstanceId) -> Markup {
    html! { a.id href=(Page::Instance(id)) title=(id) { (short(id)) } }
}

/// Returns the first digits of an id, which are enough to tell a few instances from each other.
pub fn short(id: InstanceId) -> String {
    id.to_string().chars().take(8).collect()
}
