//! The page of a start: where its time went, compared with other starts of the function.

use maud::{Markup, html};
use unifaas_actors::{BootReport, InstanceId, Rung, StartCause};

use super::{
    Known,
    boots::{result, trail},
    charts,
    format::{duration, time},
    instance,
    layout::{Content, facts, table, to_function},
    page::Page,
    phases::{MEANINGS, Step, name, steps, total},
};

/// Starts of which the median is taken.
const COMPARED: usize = 50;

/// Returns the page of a start. `None`: it is not remembered.
pub fn content(known: &Known<'_>, id: InstanceId) -> Option<Content> {
    let history = &known.shared.history;
    let kept = history.instances.find(id).map(|record| record.boot.report());
    let boot = kept.or_else(|| history.boots.of_instance(id))?;
    let name = boot.function.clone();
    let others: Vec<_> =
        history.boots.recent(Some(&name), COMPARED + 1).into_iter().filter(|it| it.instance != id).collect();
    let previous = others.iter().find(|other| other.wanted < boot.wanted).cloned();
    let slowest = history.boots.slowest(Some(&name), 1).into_iter().next().filter(|it| it.instance != id);
    let mut content = Content::new(format!("Boot of {}", instance::short(id)))
        .section("status", head(&boot))
        .section("phases", phases(&boot, &others, slowest.as_ref(), previous.as_ref()));
    content.trail = trail(Some(&name));
    content.trail.push(("Boots".to_owned(), Page::Boots(Some(name.to_string())).to_string()));
    Some(content)
}

fn head(boot: &BootReport) -> Markup {
    let cause = match boot.cause {
        StartCause::Caller => "a request waited",
        StartCause::Minimum => "min-instances are kept ready",
        StartCause::Prewarm => "a request was expected",
        StartCause::Template => "a snapshot is taken of it",
    };
    html! {
        div.head {
            h1 { "Boot of " code { (instance::short(boot.instance)) } }
            p.lead role="status" { (result(boot)) }
            p.lead { b { (duration(boot.took_us as f64 / 1e6)) } }
        }
        @if let Some(exit) = &boot.exit { pre tabindex="0" aria-label="Why it failed" { (exit) } }
        (facts(&[
            ("function", to_function(&boot.function)),
            ("kind", html! { (boot.kind) }),
            ("origin", html! { (boot.origin) }),
            ("revision", html! { (boot.revision) }),
            ("because", html! { (cause) }),
            ("wanted at", time(boot.wanted)),
            ("instance", html! { (instance::link(boot.instance)) }),
            ("made room", evicted(boot)),
        ]))
    }
}

/// Returns the instances that made room for this one.
fn evicted(boot: &BootReport) -> Markup {
    html! {
        @if boot.evicted.is_empty() { "no other instance" }
        @for (position, evicted) in boot.evicted.iter().enumerate() {
            @if position > 0 { ", " }
            (to_function(&evicted.function)) "/" (instance::link(evicted.instance))
            @match evicted.to { Rung::Paused => " (paused)", Rung::Ended => " (ended)" }
        }
    }
}

fn phases(
    boot: &BootReport,
    others: &[BootReport],
    slowest: Option<&BootReport>,
    previous: Option<&BootReport>,
) -> Markup {
    let steps = steps(boot);
    let total = total(boot).max(1) as f64;
    let successes: Vec<_> = others.iter().filter(|other| other.result == "ready").collect();
    let of = |boot: &BootReport, phase| {
        super::phases::steps(boot).into_iter().find(|step| step.phase == phase).map(|step| step.to - step.from)
    };
    let median = |phase| median(successes.iter().filter_map(|other| of(other, phase)).collect());
    let written = |micros: Option<u64>| micros.map_or_else(|| "–".to_owned(), |micros| duration(micros as f64 / 1e6));
    let compared = |boot: Option<&BootReport>, label: &str| {
        html! {
            th.number scope="col" { @match boot {
                Some(boot) => a href=(Page::Boot(boot.instance)) { (label) },
                None => (label),
            } }
        }
    };
    let longest = steps.iter().max_by_key(|step| step.to - step.from).map(|step| step.phase);
    let head = html! {
        th scope="col" { "Phase" } th.number scope="col" { "Took" } th.phases scope="col" { "From start to end" }
        th.number scope="col" { "Median of " (successes.len()) }
        (compared(slowest, "Slowest"))
        (compared(previous, "Previous"))
    };
    let rows = html! {
        @for (phase, meaning) in MEANINGS {
            @let step = steps.iter().find(|step| step.phase == phase);
            tr {
                th scope="row" { (name(phase)) br; small { (meaning) } }
                td.number.most[longest == Some(phase)] { (written(step.map(|step| step.to - step.from))) }
                td.phases {
                    @if let Some(Step { from, to, .. }) = step {
                        (charts::span(phase.as_str(), *from as f64 / total, *to as f64 / total))
                    }
                }
                td.number { (written(median(phase))) }
                td.number { (written(slowest.and_then(|boot| of(boot, phase)))) }
                td.number { (written(previous.and_then(|boot| of(boot, phase)))) }
            }
        }
        tr.sum {
            th scope="row" { "until ready" }
            td.number { (duration(boot.took_us as f64 / 1e6)) }
            td {}
            td.number { (written(self::median(successes.iter().map(|other| other.took_us).collect()))) }
            td.number { (written(slowest.map(|boot| boot.took_us))) }
            td.number { (written(previous.map(|boot| boot.took_us))) }
        }
    };
    let marks: Vec<_> =
        boot.marks.iter().map(|mark| (&*mark.name, html! { (duration(mark.at_us as f64 / 1e6)) })).collect();
    html! {
        h2 { "Where the time went" }
        (table("Phases of this start, compared with others of the function", "xray", &head, &rows))
        @if !boot.marks.is_empty() {
            h3 { "Marks of the instance" }
            (facts(&marks))
        }
        p.small {
            "The instance can add up to 8 marks: it prints " code { "unifaas-mark: NAME" } " on a line of its own."
        }
    }
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_value_that_occurred() {
        assert_eq!((median(vec![]), median(vec![7]), median(vec![9, 1, 5])), (None, Some(7), Some(5)));
    }
}
