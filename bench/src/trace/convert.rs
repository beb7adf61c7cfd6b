//! Published data sets of invocations, as their authors describe the files. The data are not shipped.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use clap::ValueEnum;
use csv::StringRecord;

use super::{
    Invocation, Trace,
    counts::{Counts, Spread, spread, stratified},
};
use crate::{error::BenchError, stats::generator};

/// A data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Azure Functions 2019: invocations per minute of a day (invocations_per_function_md.anon.dNN.csv).
    #[value(name = "azure2019")]
    Azure2019,
    /// Azure Functions 2021: a row for each invocation, with its end.
    #[value(name = "azure2021")]
    Azure2021,
    /// Huawei: requests per minute (requests_minute/day_NNN.csv).
    HuaweiMinute,
    /// Huawei: requests per second (requests_second/day_NNN.csv).
    HuaweiSecond,
}

/// What is converted, and how.
#[derive(Debug, Clone)]
pub struct Conversion<'a> {
    /// The data set.
    pub format: Format,
    /// The file with the invocations.
    pub file: &'a Path,
    /// Azure 2019: the file with durations (function_durations_percentiles.anon.dNN.csv).
    pub durations: Option<&'a Path>,
    /// Azure 2019: the file with the memory of applications (app_memory_percentiles.anon.dNN.csv).
    pub memory: Option<&'a Path>,
    /// The first minute that is taken, and how many.
    pub window: (u64, u64),
    /// How many functions are taken.
    pub functions: usize,
    /// How counts are spread over their interval.
    pub spread: Spread,
    /// How long functions work of which the data do not say it, in milliseconds.
    pub default_ms: f64,
    /// Determines what is drawn.
    pub seed: u64,
}

/// Returns the trace.
///
/// # Errors
/// When a file cannot be read, or is not in its format; the error has the line.
pub fn convert(conversion: &Conversion<'_>) -> Result<Trace, BenchError> {
    let mut random = generator(conversion.seed, "conversion of a trace");
    let (begin, end) = (conversion.window.0 * 60, (conversion.window.0 + conversion.window.1) * 60);
    let open = |path: &Path| File::open(path).map_err(|error| BenchError::Read(path.to_owned(), error));
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |why| BenchError::Format(path, why)
    };
    let file = open(conversion.file)?;
    let format = wrong(conversion.file);
    let (length, mut counts) = match conversion.format {
        Format::Azure2019 => (60, azure_counts(file, begin, end).map_err(format)?),
        Format::HuaweiMinute => (60, huawei_counts(file, begin, end).map_err(format)?),
        Format::HuaweiSecond => (1, huawei_counts(file, begin, end).map_err(format)?),
        Format::Azure2021 => {
            let all = azure_invocations(file, begin as f64, end as f64).map_err(format)?;
            let chosen =
                stratified(all.into_iter().collect(), |one| one.len() as u64, conversion.functions, &mut random);
            return Ok(Trace::of(chosen.into_iter().flat_map(|(_, invocations)| invocations).collect()));
        }
    };
    if let Some(path) = conversion.durations {
        let durations = values(open(path)?, "HashFunction", "Average").map_err(wrong(path))?;
        for (function, counts) in &mut counts {
            counts.duration_ms = durations.get(function.as_str()).copied();
        }
    }
    if let Some(path) = conversion.memory {
        let memory = values(open(path)?, "HashApp", "AverageAllocatedMb").map_err(wrong(path))?;
        for (function, counts) in &mut counts {
            counts.memory_mib = function.rsplit_once('/').and_then(|(app, _)| memory.get(app)).copied();
        }
    }
    let chosen = stratified(counts.into_iter().collect(), Counts::sum, conversion.functions, &mut random);
    Ok(spread(chosen, length, conversion.spread, conversion.default_ms, &mut random))
}

/// Calls `each` for each row, with a reader of its columns by name. Rows need not have all columns.
fn rows(
    file: impl Read,
    needed: &[&str],
    mut each: impl FnMut(&StringRecord, &StringRecord) -> Result<(), String>,
) -> Result<(), String> {
    let mut reader = csv::Reader::from_reader(file);
    let headers = reader.headers().map_err(|error| error.to_string())?.clone();
    if let Some(missing) = needed.iter().find(|name| headers.iter().all(|header| header != **name)) {
        return Err(format!("line 1: there is no column {missing}"));
    }
    for row in reader.records() {
        let row = row.map_err(|error| error.to_string())?;
        let line = row.position().map_or(0, csv::Position::line);
        each(&headers, &row).map_err(|why| format!("line {line}: {why}"))?;
    }
    Ok(())
}

/// Returns the text of a column.
fn cell<'r>(headers: &StringRecord, row: &'r StringRecord, name: &str) -> &'r str {
    let at = headers.iter().position(|header| header == name);
    at.and_then(|at| row.get(at)).unwrap_or_default().trim()
}

fn number(headers: &StringRecord, row: &StringRecord, name: &str) -> Result<f64, String> {
    let text = cell(headers, row, name);
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("expected a number as {name}, found \"{text}\""))
}

/// Returns the name of a function: those of applications and functions are unique together only.
fn name(headers: &StringRecord, row: &StringRecord, app: &str, function: &str) -> Result<String, String> {
    let (app, function) = (cell(headers, row, app), cell(headers, row, function));
    if app.is_empty() || function.is_empty() {
        return Err("expected an application and a function".to_owned());
    }
    Ok(format!("{app}/{function}"))
}

/// Reads a count, which some files have as a float. An empty cell is none.
fn count(text: &str) -> Result<u64, String> {
    let number = if text.trim().is_empty() { Some(0.0) } else { text.trim().parse::<f64>().ok() };
    let count = number.filter(|number| (0.0..1e15).contains(number) && number.fract() == 0.0);
    count.map(|number| number as u64).ok_or_else(|| format!("expected a count, found \"{text}\""))
}

/// Columns 1 to 1440 are the minutes of a day.
fn azure_counts(file: impl Read, begin: u64, end: u64) -> Result<BTreeMap<String, Counts>, String> {
    let mut all = BTreeMap::<String, Counts>::new();
    rows(file, &["HashApp", "HashFunction", "1"], |headers, row| {
        let counts = all.entry(name(headers, row, "HashApp", "HashFunction")?).or_default();
        for (header, text) in headers.iter().zip(row) {
            let Ok(minute) = header.parse::<u64>() else { continue };
            let (at, count) = (minute.saturating_sub(1) * 60, count(text)?);
            if (begin..end).contains(&at) && count > 0 {
                *counts.by_begin.entry(at - begin).or_default() += count;
            }
        }
        Ok(())
    })?;
    Ok(all)
}

/// A row has the counts of all functions, whose names are the headings from the third column on.
fn huawei_counts(file: impl Read, begin: u64, end: u64) -> Result<BTreeMap<String, Counts>, String> {
    let mut all = BTreeMap::<String, Counts>::new();
    let mut first = None;
    rows(file, &["day", "time"], |headers, row| {
        let at = count(cell(headers, row, "time"))?;
        // Files of later days go on counting.
        let at = at.saturating_sub(*first.get_or_insert(at));
        if !(begin..end).contains(&at) {
            return Ok(());
        }
        for (header, text) in headers.iter().zip(row).skip(2) {
            let count = count(text)?;
            if count > 0 {
                let counts = all.entry(format!("f{header}")).or_default();
                *counts.by_begin.entry(at - begin).or_default() += count;
            }
        }
        Ok(())
    })?;
    Ok(all)
}

/// A row has the end of an invocation and its duration, in seconds.
fn azure_invocations(file: impl Read, begin: f64, end: f64) -> Result<BTreeMap<String, Vec<Invocation>>, String> {
    let mut all = BTreeMap::<String, Vec<Invocation>>::new();
    rows(file, &["app", "func", "end_timestamp", "duration"], |headers, row| {
        let function = name(headers, row, "app", "func")?;
        let (ended, seconds) = (number(headers, row, "end_timestamp")?, number(headers, row, "duration")?);
        if seconds < 0.0 {
            return Err(format!("the duration is {seconds}"));
        }
        let at = ended - seconds - begin;
        if (0.0..end - begin).contains(&at) {
            let duration_ms = (seconds * 1000.0).min(super::MAX_DURATION_MS);
            let invocation =
                Invocation { time_s: at, function: function.as_str().into(), duration_ms, memory_mib: None };
            all.entry(function).or_default().push(invocation);
        }
        Ok(())
    })?;
    Ok(all)
}

/// Returns a column by application, or by application and function.
fn values(file: impl Read, key: &str, column: &str) -> Result<BTreeMap<String, f64>, String> {
    let mut all = BTreeMap::new();
    rows(file, &["HashApp", key, column], |headers, row| {
        let name = match key {
            "HashApp" => cell(headers, row, key).to_owned(),
            _ => name(headers, row, "HashApp", key)?,
        };
        all.insert(name, number(headers, row, column)?);
        Ok(())
    })?;
    Ok(all)
}
