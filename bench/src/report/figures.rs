//! The plots of an experiment.

use super::QUICK;
use crate::{
    experiments::CONTROL,
    options::{Experiment, Preset},
    plot::{BoxRow, Curve, Line, LinePoint, PartsRow, Texts, boxes, ecdf, lines, parts},
    results::Results,
    summary::{Evaluation, Metric, PART_NAMES, Row, Series},
};

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
    let metric = |id: &str| {
        let at = summary.metrics.iter().position(|metric| metric.id == id)?;
        Some((&summary.metrics[at], evaluation.series[at].as_slice()))
    };
    let mut figures = Vec::new();
    match summary.experiment {
        Experiment::Cold => {
            if let Some((metric, series)) = metric("cold") {
                figures.push(box_figure(results, "cold-box", metric, series, "Cold start"));
                figures.push(ecdf_figure(results, "cold-ecdf", series));
                figures.push(timeline(results, "cold-timeline", series));
            }
            if !summary.parts.is_empty() {
                figures.push(parts_figure(results, evaluation));
            }
        }
        Experiment::Warm => {
            for (id, which, title) in [
                ("warm-daemon-box", "warm-daemon", "Warm request through the daemon, medians of rounds"),
                ("warm-direct-box", "warm-direct", "Warm request directly to the instance, medians of rounds"),
                ("warm-overhead-box", "warm-overhead", "What the daemon adds to a warm request"),
                ("warm-overhead-pauses-box", "warm-overhead-pauses", "What the daemon adds after 10 ms of rest"),
            ] {
                if let Some((metric, series)) = metric(which) {
                    figures.push(box_figure(results, id, metric, series, title));
                }
            }
        }
        Experiment::Burst => {
            for (id, which, what) in [("burst-last", "burst-last", "last"), ("burst-first", "burst-first", "first")] {
                if let Some((metric, _)) = metric(which) {
                    figures.push(burst_figure(results, id, metric, what));
                }
            }
        }
    }
    figures
}

fn titled(results: &Results, title: &str) -> String {
    if results.plan.preset == Preset::Quick { format!("{title} ({QUICK})") } else { title.to_owned() }
}

fn is_emulated(results: &Results, name: &str) -> bool {
    results
        .functions
        .iter()
        .any(|function| function.name == name.trim_end_matches(CONTROL) && function.sandbox.emulated)
}

/// Returns the name of a series in a plot. The variant is left out where it says nothing.
fn name(results: &Results, series: &Series, is_varied: bool) -> String {
    let emulated = if is_emulated(results, &series.function) { ", emulated" } else { "" };
    let function = match series.function.strip_suffix(CONTROL) {
        Some(original) => format!("{original} again"),
        None => series.function.clone(),
    };
    let variant = if is_varied && series.variant != "cold" { format!(", {}", series.variant) } else { String::new() };
    format!("{function}{variant}{emulated}")
}

fn is_varied(series: &[Series]) -> bool {
    series.iter().any(|one| series.first().is_some_and(|first| first.variant != one.variant))
}

/// Returns the series of contestants, without those that have no values.
fn with_values(series: &[Series]) -> Vec<(usize, &Series)> {
    series.iter().enumerate().filter(|(_, one)| !one.points.is_empty()).collect()
}

fn box_figure(results: &Results, id: &str, metric: &Metric, series: &[Series], title: &str) -> Figure {
    let varied = is_varied(series);
    let variants: Vec<&str> = series.iter().map(|one| one.variant.as_str()).collect();
    let row = |(place, one): (usize, &Series)| BoxRow {
        name: name(results, one, varied),
        values: one.points.iter().map(|point| point.value).collect(),
        interval: metric.rows.get(place).and_then(|row| row.interval).map(|interval| (interval.low, interval.high)),
        is_emulated: is_emulated(results, &one.function),
        group: variants.iter().position(|variant| *variant == one.variant).unwrap_or(0),
    };
    let rows: Vec<_> = with_values(series).into_iter().map(row).collect();
    let caption = "Quartiles (box), median (thick line), 95 % interval of the median (whisker inside) and every round (marks). \
                   Hatched: emulated processor.";
    figure(results, id, title, &metric.meaning, "", caption, |texts| boxes(texts, &rows))
}

fn ecdf_figure(results: &Results, id: &str, series: &[Series]) -> Figure {
    let varied = is_varied(series);
    let curve = |(_, one): (usize, &Series)| Curve { name: name(results, one, varied), values: one.values.clone() };
    let curves: Vec<_> = with_values(series).into_iter().map(curve).collect();
    let caption = "Share of cold starts that were not slower. Bands: the true distributions lie inside with 95 % (DKW), from 20 \
                   samples on. Markers: medians.";
    figure(results, id, "Distribution of cold starts", "ms", "share of starts", caption, |texts| ecdf(texts, &curves))
}

fn timeline(results: &Results, id: &str, series: &[Series]) -> Figure {
    let varied = is_varied(series);
    let line = |(_, one): (usize, &Series)| Line {
        name: name(results, one, varied),
        points: one
            .points
            .iter()
            .map(|point| LinePoint { x: f64::from(point.round), y: point.value, band: None })
            .collect(),
    };
    let all: Vec<_> = with_values(series).into_iter().map(line).collect();
    let caption = "Each round, in order: drift and disturbances show here.";
    figure(results, id, "Cold starts over the run", "round", "ms", caption, |texts| lines(texts, &all))
}

fn parts_figure(results: &Results, evaluation: &Evaluation) -> Figure {
    let row = |parts: &crate::summary::Parts| {
        let variant = if parts.variant == "cold" { String::new() } else { format!(", {}", parts.variant) };
        PartsRow { name: format!("{}{variant}", parts.function), parts: parts.medians.to_vec() }
    };
    let rows: Vec<_> = evaluation.summary.parts.iter().map(row).collect();
    let caption = "Medians of the parts of a cold start.";
    figure(results, "cold-parts", "Where the time of a cold start goes", "ms", "", caption, |texts| {
        parts(texts, &PART_NAMES, &rows)
    })
}

fn burst_figure(results: &Results, id: &str, metric: &Metric, what: &str) -> Figure {
    let mut names: Vec<&str> = Vec::new();
    for row in metric.rows.iter().filter(|row| row.location.is_some()) {
        if !names.contains(&row.function.as_str()) {
            names.push(&row.function);
        }
    }
    let point = |row: &Row| {
        let location = row.location?;
        let band = row.interval.map_or((location.min, location.max), |interval| (interval.low, interval.high));
        Some(LinePoint { x: f64::from(row.n), y: location.median, band: Some(band) })
    };
    let line = |function: &str| {
        let shown = match function.strip_suffix(CONTROL) {
            Some(original) => format!("{original} again"),
            None => function.to_owned(),
        };
        let points = metric.rows.iter().filter(|row| row.function == function).filter_map(point).collect();
        Line { name: shown, points }
    };
    let all: Vec<_> = names.into_iter().map(line).collect();
    let title = format!("Burst: time until the {what} answer");
    let caption = "Medians of the bursts. Bands: the 95 % interval, or below six bursts their range.";
    figure(results, id, &title, "simultaneous requests", "ms", caption, |texts| lines(texts, &all))
}

fn figure(
    results: &Results,
    id: &str,
    title: &str,
    x: &str,
    y: &str,
    caption: &str,
    draw: impl FnOnce(&Texts) -> String,
) -> Figure {
    let title = titled(results, title);
    let texts = Texts { title: title.clone(), description: caption.to_owned(), x: x.to_owned(), y: y.to_owned() };
    Figure { id: id.to_owned(), caption: format!("{title}. {caption}"), svg: draw(&texts) }
}
