//! The tables of an experiment.

use super::{
    format::{finding, interval, number, percent, range},
    table::{Column, Table},
};
use crate::{
    experiments::{BASELINE, CONTROL, original},
    options::{Experiment, PageCache, Preset},
    results::Results,
    summary::{Details, FailureRate, FunctionInfo, Metric, Row, Summary},
};

/// Returns the tables of an experiment.
pub fn of(results: &Results, summary: &Summary) -> Vec<Table> {
    let metrics = summary.metrics.iter().map(|metric| of_metric(results, summary.experiment, metric));
    let details = summary.details.iter().filter(|details| !details.is_drawn_only);
    metrics.chain(details.map(|details| of_details(results, details))).collect()
}

fn columns(names: &[(&str, bool)]) -> Vec<Column> {
    names.iter().map(|(name, is_number)| Column { name: (*name).to_owned(), is_number: *is_number }).collect()
}

fn of_metric(results: &Results, experiment: Experiment, metric: &Metric) -> Table {
    let first = metric.rows.first();
    let is_varied = metric.rows.iter().any(|row| first.is_some_and(|first| first.variant != row.variant));
    let mut references: Vec<_> = metric.rows.iter().filter_map(|row| row.against.as_deref()).collect();
    references.dedup();
    // If all have the same reference, the heading names it, else each cell.
    let is_one = references.iter().all(|reference| Some(reference) == references.first());
    let against = references.first().filter(|_| is_one).map(|reference| format!("against {reference}"));
    let against = against.unwrap_or_else(|| "comparison".to_owned());
    let comparison = |row: &Row| {
        let Some(found) = row.comparison else { return String::new() };
        let text = finding(&found, metric.resolution(&row.variant, row.n));
        match &row.against {
            Some(reference) if !is_one => format!("{text}, against {reference}"),
            _ => text,
        }
    };
    let columns = columns(&[
        ("function", false),
        ("sandbox", false),
        ("variant", false),
        (&metric.count, true),
        ("rounds", true),
        ("median", true),
        ("95 % interval", true),
        ("quartiles", true),
        ("range", true),
        ("mean", true),
        ("p95", true),
        ("p99", true),
        ("outliers", true),
        ("undisturbed", true),
        (&against, false),
        ("failed", true),
        ("paper, other machine", false),
    ]);
    let some = |value: Option<f64>| value.map_or_else(String::new, number);
    let cells = |row: &Row| {
        let location = row.location;
        // The spread of a single value is none.
        let several = location.filter(|it| it.count > 1);
        let of = |read: fn(&crate::stats::Location) -> f64| some(location.as_ref().map(read));
        let spread = |read: fn(&crate::stats::Location) -> (f64, f64)| {
            several.as_ref().map(read).map_or_else(String::new, |(low, high)| range(low, high))
        };
        vec![
            name(&row.function),
            sandbox(results, &row.function),
            if is_varied { row.variant.clone() } else { String::new() },
            if metric.count.is_empty() { String::new() } else { row.n.to_string() },
            row.rounds.to_string(),
            of(|it| it.median),
            row.interval.map_or_else(String::new, interval),
            spread(|it| (it.lower_quartile, it.upper_quartile)),
            spread(|it| (it.min, it.max)),
            some(several.map(|it| it.mean)),
            some(location.and_then(|it| it.p95)),
            some(location.and_then(|it| it.p99)),
            location
                .map(|it| it.outliers)
                .filter(|count| *count > 0)
                .map_or_else(String::new, |count| count.to_string()),
            undisturbed(row),
            comparison(row),
            failures(&row.failures),
            row.paper.clone().unwrap_or_default(),
        ]
    };
    let rows = metric.rows.iter().map(cells).collect();
    let caption = format!("{}: {}. {}", metric.title, metric.meaning, conditions(results, experiment, metric));
    Table { id: metric.id.clone(), caption, columns, rows }.compact()
}

/// Returns the name of a row: controls and functions of the other build say what they are.
fn name(function: &str) -> String {
    if let Some(original) = function.strip_suffix(CONTROL) {
        return format!("{original} again (A/A control)");
    }
    function.strip_suffix(BASELINE).map_or_else(|| function.to_owned(), |original| format!("{original} (baseline)"))
}

fn function<'r>(results: &'r Results, name: &str) -> Option<&'r FunctionInfo> {
    results.functions.iter().find(|function| function.name == original(name))
}

fn sandbox(results: &Results, name: &str) -> String {
    function(results, name).map_or_else(String::new, |function| {
        let emulated = if function.sandbox.emulated { ", emulated" } else { "" };
        format!("{}{emulated}", function.sandbox.name)
    })
}

fn undisturbed(row: &Row) -> String {
    match row.undisturbed_median {
        Some(median) if row.disturbed > 0 => {
            format!("{} ({} of {})", number(median), row.rounds - row.disturbed, row.rounds)
        }
        None if row.disturbed > 0 => format!("none of {}", row.rounds),
        _ => String::new(),
    }
}

fn failures(failures: &FailureRate) -> String {
    let count = failures.count();
    if count == 0 {
        return String::new();
    }
    let share =
        failures.interval.map_or_else(String::new, |(low, high)| format!(" ({} to {})", percent(low), percent(high)));
    let by_status: Vec<_> = failures
        .by_status
        .iter()
        .map(
            |(status, count)| {
                if *status == 0 { format!("{count} × no response") } else { format!("{count} × {status}") }
            },
        )
        .collect();
    format!("{count} of {}{share}: {}", failures.attempts, by_status.join(", "))
}

/// Returns what applied to all rows.
fn conditions(results: &Results, experiment: Experiment, metric: &Metric) -> String {
    let mut parts = Vec::new();
    let samples: usize = metric.rows.iter().filter_map(|row| row.location).map(|location| location.count).sum();
    parts.push(format!("{samples} samples, all of successful requests"));
    if metric.rows.iter().any(|row| row.rounds > 0 && row.interval.is_none()) {
        parts.push("no interval below six rounds".to_owned());
    }
    let resolutions: Vec<_> = metric.controls.iter().filter_map(|control| control.resolution).collect();
    if let Some(worst) = resolutions.iter().copied().reduce(f64::max) {
        let of_all = if resolutions.len() > 1 { " at worst" } else { "" };
        parts.push(format!("resolution of the A/A control {}{of_all}", percent(worst)));
    }
    parts.push(
        match results.plan.page_cache {
            PageCache::Warm => "page cache warm",
            PageCache::Cold => "page cache cold",
            PageCache::Both => "page cache as the variant says",
        }
        .to_owned(),
    );
    let (loop_seconds, load_seconds) = results.plan.windows;
    let (_, rest, windows) = results.plan.idle;
    match experiment {
        Experiment::Burst if results.plan.preset == Preset::Paper => {
            parts.push("no limit of simultaneous starts, memory budget 95 %".to_owned());
        }
        Experiment::Burst => parts.push("the daemon's limits of simultaneous starts and of memory apply".to_owned()),
        Experiment::Throughput => parts.push(format!("windows of {loop_seconds} s; more is better")),
        Experiment::Transfer => parts.push("more is better".to_owned()),
        Experiment::Load => {
            let unit = if metric.rows.iter().any(|row| row.variant == "rate") {
                "load in requests per second"
            } else {
                "load in percent of what a closed loop over 64 connections reaches, if without failures"
            };
            parts.push(format!("{load_seconds} s each; {unit}; Poisson arrivals; sending never waits for answers"));
        }
        Experiment::Memory => parts.push("memory budget 95 %".to_owned()),
        Experiment::Replay => {
            let trace = results.plan.trace.as_ref().map_or_else(
                || format!("the synthetic trace of seed {}", results.plan.seed),
                |path| format!("the trace {}", path.display()),
            );
            parts.push(format!("the first {} s of {trace}", results.plan.replay));
        }
        Experiment::Idle => parts.push(format!("after {rest} s of rest, means of {windows} windows of a second")),
        _ => {}
    }
    if metric.rows.iter().any(|row| row.disturbed > 0) {
        parts.push("undisturbed: the median without rounds in which the machine did something else".to_owned());
    }
    format!("{}.", parts.join("; "))
}

fn of_details(results: &Results, details: &Details) -> Table {
    let mut names = vec![("function", false), ("sandbox", false), ("variant", false), (details.count.as_str(), true)];
    names.extend(details.columns.iter().map(|name| (name.as_str(), true)));
    let rows = details.rows.iter().map(|row| {
        let count = if details.count.is_empty() { String::new() } else { row.n.to_string() };
        let mut cells = vec![name(&row.function), sandbox(results, &row.function), row.variant.clone(), count];
        cells.extend(row.values.iter().map(|value| value.map_or_else(String::new, number)));
        cells
    });
    let rows = rows.collect();
    Table { id: details.id.clone(), caption: details.caption.clone(), columns: columns(&names), rows }.compact()
}
