//! The charts of traffic: of the daemon, or of a function.

use maud::{Markup, html};

use super::{
    charts::{self, Line},
    format::{duration, rate},
    history::STEP,
    point::Point,
};

/// Returns the section with these charts.
pub fn section(charts: &[Markup]) -> Markup {
    html! {
        h2 { "Traffic" }
        div.charts { @for chart in charts { (chart) } }
    }
}

/// Returns how many requests there were, and how many failed.
pub fn requests(points: &[Point]) -> Markup {
    let lines = [
        line("main", "all", points, |point| Some(point.requests / STEP)),
        line("bad", "failed", points, |point| Some(point.failed / STEP)),
    ];
    charts::over_time("Requests per second", &lines, span(points), rate)
}

/// Returns how long requests took.
pub fn durations(points: &[Point]) -> Markup {
    let quantile = |index: usize| move |point: &Point| point.quantiles.and_then(|it| it.get(index).copied());
    let lines = [
        line("good", "p50", points, quantile(0)),
        line("main", "p95", points, quantile(1)),
        line("poor", "p99", points, quantile(2)),
    ];
    charts::over_time("Duration", &lines, span(points), duration)
}

/// Returns how many requests waited.
pub fn waiting(points: &[Point]) -> Markup {
    let lines = [line("poor", "in queues", points, |point| Some(point.queue))];
    charts::over_time("Waiting requests", &lines, span(points), rate)
}

/// Returns how many instances were ready.
pub fn instances(points: &[Point]) -> Markup {
    let lines = [line("main", "ready", points, |point| Some(point.instances))];
    charts::over_time("Instances", &lines, span(points), rate)
}

fn line<'a>(class: &'a str, name: &'a str, points: &[Point], value: impl Fn(&Point) -> Option<f64>) -> Line<'a> {
    Line { class, name, values: points.iter().map(value).collect() }
}

/// Returns how far points reach back, in seconds.
fn span(points: &[Point]) -> f64 {
    (points.len() as f64 * STEP).max(STEP)
}
