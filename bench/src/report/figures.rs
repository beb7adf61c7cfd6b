//! The plots of an experiment.

use super::QUICK;
use crate::{
    experiments::{BASELINE, CONTROL, memory, original, replay::SIMULATED},
    options::{Experiment, Preset},
    plot::{BoxRow, Curve, Line, LinePoint, PartsRow, Texts, boxes, ecdf, lines, parts},
    results::Results,
    summary::{
        DetailRow, Details, Evaluation, MEMORY_TIME, Metric, PART_NAMES, PARTS, POLICIES, Point, Row, SHARE, STEPS,
        Series, is_of_whole_trace,
    },
};

/// Names of the work of the benchmark function, as variants begin with them.
const WORKS: [&str; 6] = ["fib", "fft", "matrix", "alloc", "read", "unzip"];

/// A plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Its name in files.
    pub id: String,
    /// What it shows.
    pub caption: String,
    /// The SVG document.
    pub svg: String,
}

/// Returns the plots of an experiment.
pub fn of(results: &Results, evaluation: &Evaluation) -> Vec<Figure> {
    let summary = &evaluation.summary;
    let mut figures = Vec::new();
    for (metric, series) in summary.metrics.iter().zip(&evaluation.series) {
        let id = metric.id.as_str();
        match summary.experiment {
            Experiment::Cold => {
                figures.push(box_figure(results, metric, series));
                figures.push(ecdf_figure(results, series));
                figures.push(timeline(results, series));
            }
            // Rounds of a few values, or what others show as well.
            Experiment::Warm if ["warm-direct-pauses", "warm-daemon-pauses"].contains(&id) => {}
            Experiment::Burst if !["burst-first", "burst-last"].contains(&id) => {}
            Experiment::Load if id == "load-p99.9" => {}
            Experiment::Burst | Experiment::Throughput | Experiment::Load => {
                figures.push(count_figure(results, metric));
            }
            // A plot of both together says more.
            Experiment::Replay => {}
            _ => figures.push(box_figure(results, metric, series)),
        }
    }
    for details in &summary.details {
        match details.id.as_str() {
            PARTS => figures.push(parts_figure(results, details)),
            STEPS => figures.push(steps_figure(results, details)),
            POLICIES => figures.push(policies_figure(results, details)),
            _ => {}
        }
    }
    figures
}

fn titled(results: &Results, title: &str) -> String {
    if results.plan.preset == Preset::Quick { format!("{title} ({QUICK})") } else { title.to_owned() }
}

fn is_emulated(results: &Results, name: &str) -> bool {
    results.functions.iter().any(|function| function.name == original(name) && function.sandbox.emulated)
}

/// Returns the name of a function in a plot.
fn shown(function: &str) -> String {
    if let Some(original) = function.strip_suffix(CONTROL) {
        return format!("{original} again");
    }
    function.strip_suffix(BASELINE).map_or_else(|| function.to_owned(), |original| format!("{original}, baseline"))
}

/// What differs between the series of a plot, so that their names say it.
#[derive(Debug, Clone, Copy)]
struct Varied {
    variant: bool,
    n: bool,
}

impl Varied {
    fn of(series: &[Series]) -> Self {
        let differs = |is_other: &dyn Fn(&Series, &Series) -> bool| {
            series.iter().any(|one| series.first().is_some_and(|first| is_other(first, one)))
        };
        Self {
            variant: differs(&|first, one| first.variant != one.variant),
            n: differs(&|first, one| first.n != one.n),
        }
    }
}

/// Returns the name of a series in a plot.
fn name(results: &Results, series: &Series, varied: Varied) -> String {
    let emulated = if is_emulated(results, &series.function) { ", emulated" } else { "" };
    let mut name = shown(&series.function);
    if varied.variant && series.variant != "cold" {
        // The work itself is in the title.
        let variant = series.variant.split_once(", ").filter(|(work, _)| WORKS.contains(work));
        name = format!("{name}, {}", variant.map_or(series.variant.as_str(), |(_, rest)| rest));
    }
    if varied.n {
        name = format!("{name}, {}", series.n);
    }
    format!("{name}{emulated}")
}

/// Returns the series of contestants, without those that have no values.
fn with_values(series: &[Series]) -> Vec<(usize, &Series)> {
    series.iter().enumerate().filter(|(_, one)| !one.points.is_empty()).collect()
}

fn box_figure(results: &Results, metric: &Metric, series: &[Series]) -> Figure {
    let varied = Varied::of(series);
    let groups: Vec<_> = series.iter().map(|one| (one.variant.as_str(), one.n)).collect();
    let row = |(place, one): (usize, &Series)| BoxRow {
        name: name(results, one, varied),
        values: one.points.iter().map(|point| point.value).collect(),
        interval: metric.rows.get(place).and_then(|row| row.interval).map(|interval| (interval.low, interval.high)),
        is_emulated: is_emulated(results, &one.function),
        group: groups.iter().position(|group| *group == (one.variant.as_str(), one.n)).unwrap_or(0),
    };
    let rows: Vec<_> = with_values(series).into_iter().map(row).collect();
    let caption = "Quartiles (box), median (thick line), 95 % interval of the median (whisker inside) and every round (marks). \
                   Hatched: emulated processor.";
    let id = format!("{}-box", metric.id);
    figure(results, &id, &metric.title, (&metric.meaning, ""), caption, |texts| boxes(texts, &rows))
}

fn ecdf_figure(results: &Results, series: &[Series]) -> Figure {
    let varied = Varied::of(series);
    let curve = |(_, one): (usize, &Series)| Curve { name: name(results, one, varied), values: one.values.clone() };
    let curves: Vec<_> = with_values(series).into_iter().map(curve).collect();
    let caption = "Share of cold starts that were not slower. Bands: the true distributions lie inside with 95 % (DKW), from 20 \
                   samples on. Markers: medians.";
    let axes = ("ms", "share of starts");
    figure(results, "cold-ecdf", "Distribution of cold starts", axes, caption, |texts| ecdf(texts, &curves))
}

fn timeline(results: &Results, series: &[Series]) -> Figure {
    let varied = Varied::of(series);
    let point = |point: &Point| LinePoint { x: f64::from(point.round), y: point.value, band: None };
    let line = |(_, one): (usize, &Series)| Line {
        name: name(results, one, varied),
        points: one.points.iter().map(point).collect(),
    };
    let all: Vec<_> = with_values(series).into_iter().map(line).collect();
    let caption = "Each round, in order: drift and disturbances show here.";
    figure(results, "cold-timeline", "Cold starts over the run", ("round", "ms"), caption, |texts| lines(texts, &all))
}

fn parts_figure(results: &Results, details: &Details) -> Figure {
    let row = |row: &DetailRow| {
        let variant = if row.variant == "cold" { String::new() } else { format!(", {}", row.variant) };
        let parts = row.values.iter().take(PART_NAMES.len()).map(|value| value.unwrap_or(0.0)).collect();
        PartsRow { name: format!("{}{variant}", shown(&row.function)), parts }
    };
    let rows: Vec<_> = details.rows.iter().map(row).collect();
    let caption = "Medians of the parts of a cold start.";
    let title = "Where the time of a cold start goes";
    figure(results, PARTS, title, ("ms", ""), caption, |texts| parts(texts, &PART_NAMES, &rows))
}

/// Returns lines over a number, such as that of simultaneous requests.
fn lines_over(
    results: &Results,
    id: &str,
    title: &str,
    axes: (&str, &str),
    caption: &str,
    points: &[(String, LinePoint)],
) -> Figure {
    let mut all: Vec<Line> = Vec::new();
    for (name, point) in points {
        match all.iter_mut().find(|line| line.name == *name) {
            Some(line) => line.points.push(*point),
            None => all.push(Line { name: name.clone(), points: vec![*point] }),
        }
    }
    figure(results, id, title, axes, caption, |texts| lines(texts, &all))
}

/// Returns a metric over the numbers of its contestants.
fn count_figure(results: &Results, metric: &Metric) -> Figure {
    let is_varied = metric.rows.iter().any(|row| metric.rows.first().is_some_and(|first| first.variant != row.variant));
    let point = |row: &Row| {
        let location = row.location?;
        let band = row.interval.map_or((location.min, location.max), |interval| (interval.low, interval.high));
        let variant = if is_varied { format!(", {}", row.variant) } else { String::new() };
        let point = LinePoint { x: f64::from(row.n), y: location.median, band: Some(band) };
        Some((format!("{}{variant}", shown(&row.function)), point))
    };
    let points: Vec<_> = metric.rows.iter().filter_map(point).collect();
    let caption = "Medians of the rounds. Bands: the 95 % interval, or below six rounds their range.";
    lines_over(results, &metric.id, &metric.title, (&metric.count, &metric.unit), caption, &points)
}

/// Returns the memory over the number of instances.
fn steps_figure(results: &Results, details: &Details) -> Figure {
    let point = |row: &DetailRow| {
        let y = row.value(details, memory::AVAILABLE)?;
        Some((shown(&row.function), LinePoint { x: f64::from(row.n), y, band: None }))
    };
    let points: Vec<_> = details.rows.iter().filter_map(point).collect();
    let caption = "Decrease of the host's available memory with the number of idle instances; medians of the rounds.";
    lines_over(results, STEPS, "Memory of idle instances", ("instances", "MiB"), caption, &points)
}

/// Returns cold starts against memory: a point for each policy.
fn policies_figure(results: &Results, details: &Details) -> Figure {
    let point = |row: &DetailRow| {
        let (x, y) = row.value(details, MEMORY_TIME).zip(row.value(details, SHARE))?;
        let simulated = if row.variant.contains(SIMULATED) { ", simulated" } else { "" };
        Some((format!("{}{simulated}", shown(&row.function)), LinePoint { x, y, band: None }))
    };
    let rows = details.rows.iter().filter(|row| !is_of_whole_trace(&row.variant));
    let mut points: Vec<_> = rows.filter_map(point).collect();
    points.sort_by(|(_, one), (_, other)| one.x.total_cmp(&other.x));
    let caption = "A point for each policy, joined by growing memory: the lower left is better. Medians of the rounds.";
    let axes = (MEMORY_TIME, "requests that wait for a start, %");
    lines_over(results, "replay-pareto", "Cold starts against memory", axes, caption, &points)
}

fn figure(
    results: &Results,
    id: &str,
    title: &str,
    (x, y): (&str, &str),
    caption: &str,
    draw: impl FnOnce(&Texts) -> String,
) -> Figure {
    let title = titled(results, title);
    let texts = Texts { title: title.clone(), description: caption.to_owned(), x: x.to_owned(), y: y.to_owned() };
    Figure { id: id.to_owned(), caption: format!("{title}. {caption}"), svg: draw(&texts) }
}
