//! The tables of an experiment.

use super::{
    format::{finding, interval, number, percent, range},
    table::{Column, Table},
};
use crate::{
    experiments::CONTROL,
    options::{Experiment, PageCache, Preset},
    results::Results,
    summary::{Failures, FunctionInfo, Metric, PART_NAMES, Row, Summary},
};

/// Returns the tables of an experiment.
pub fn of(results: &Results, summary: &Summary) -> Vec<Table> {
    let mut tables: Vec<_> =
        summary.metrics.iter().map(|metric| of_metric(results, summary.experiment, metric)).collect();
    if !summary.parts.is_empty() {
        tables.push(of_parts(results, summary));
    }
    tables
}

fn columns(names: &[(&str, bool)]) -> Vec<Column> {
    names.iter().map(|(name, is_number)| Column { name: (*name).to_owned(), is_number: *is_number }).collect()
}

fn of_metric(results: &Results, experiment: Experiment, metric: &Metric) -> Table {
    let reference = metric.rows.iter().find(|row| !row.is_control);
    let against = reference.map_or_else(String::new, |row| format!("against {}", row.function));
    let is_varied = metric.rows.iter().any(|row| reference.is_some_and(|first| first.variant != row.variant));
    let is_burst = experiment == Experiment::Burst;
    let columns = columns(&[
        ("function", false),
        ("sandbox", false),
        ("variant", false),
        ("at once", true),
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
        let of = |read: fn(&crate::stats::Location) -> f64| some(location.as_ref().map(read));
        let spread = |read: fn(&crate::stats::Location) -> (f64, f64)| {
            location.as_ref().map(read).map_or_else(String::new, |(low, high)| range(low, high))
        };
        vec![
            name(row),
            sandbox(results, &row.function),
            if is_varied { row.variant.clone() } else { String::new() },
            if is_burst { row.n.to_string() } else { String::new() },
            row.rounds.to_string(),
            of(|it| it.median),
            if row.rounds > 0 { interval(row.interval) } else { String::new() },
            spread(|it| (it.lower_quartile, it.upper_quartile)),
            spread(|it| (it.min, it.max)),
            of(|it| it.mean),
            some(location.and_then(|it| it.p95)),
            some(location.and_then(|it| it.p99)),
            location
                .map(|it| it.outliers)
                .filter(|count| *count > 0)
                .map_or_else(String::new, |count| count.to_string()),
            undisturbed(row),
            row.comparison.map_or_else(String::new, |found| finding(&found, metric.resolutions.get(&row.n).copied())),
            failures(&row.failures),
            row.paper.clone().unwrap_or_default(),
        ]
    };
    let rows = metric.rows.iter().map(cells).collect();
    let caption = format!("{}: {}. {}", metric.title, metric.meaning, conditions(results, experiment, metric));
    Table { id: metric.id.clone(), caption, columns, rows }.compact()
}

/// Returns the name of a row: the control says what it is.
fn name(row: &Row) -> String {
    match row.function.strip_suffix(CONTROL) {
        Some(original) => format!("{original} again (A/A control)"),
        None => row.function.clone(),
    }
}

fn function<'r>(results: &'r Results, name: &str) -> Option<&'r FunctionInfo> {
    results.functions.iter().find(|function| function.name == name.trim_end_matches(CONTROL))
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

fn failures(failures: &Failures) -> String {
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
    parts.push(format!("{samples} samples; latencies are of successful requests"));
    if metric.rows.iter().any(|row| row.rounds > 0 && row.interval.is_none()) {
        parts.push("no interval below six rounds".to_owned());
    }
    let resolutions: Vec<_> = metric.resolutions.values().copied().collect();
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
    if experiment == Experiment::Burst {
        let limits = match results.plan.preset {
            Preset::Paper => "no limit of simultaneous starts, memory budget 95 %",
            Preset::Quick | Preset::Default => "the daemon's limits of simultaneous starts and of memory apply",
        };
        parts.push(limits.to_owned());
    }
    if metric.rows.iter().any(|row| row.disturbed > 0) {
        parts.push("undisturbed: the median without rounds in which the machine did something else".to_owned());
    }
    format!("{}.", parts.join("; "))
}

fn of_parts(results: &Results, summary: &Summary) -> Table {
    let phases = ["resources", "created", "started", "first output", "ready"];
    let mut names = vec![("function", false), ("sandbox", false), ("variant", false)];
    names.extend(PART_NAMES.map(|name| (name, true)));
    let boot: Vec<String> = phases.iter().map(|phase| format!("boot: {phase}")).collect();
    names.extend(boot.iter().map(|name| (name.as_str(), true)));
    let rows = summary.parts.iter().map(|parts| {
        let mut row = vec![parts.function.clone(), sandbox(results, &parts.function), parts.variant.clone()];
        row.extend(parts.medians.iter().map(|value| number(*value)));
        row.extend(
            phases.iter().map(|phase| parts.phases.get(*phase).map_or_else(String::new, |value| number(*value))),
        );
        row
    });
    let caption = "Parts of a cold start, medians in ms: connect(2); waiting without the boot; the boot by the daemon's \
                   clock, with its phases; from having an instance to the head of its response; the rest is neither the \
                   client's nor the daemon's. Medians of parts need not add up to the median of the whole.";
    let rows = rows.collect();
    Table { id: "cold-parts".to_owned(), caption: caption.to_owned(), columns: columns(&names), rows }.compact()
}
