//! From results and samples to files: tables (`table.rs`, `tables.rs`), plots (`figures.rs`), and the report (`document.rs`,
//! `content.rs`, `reduced.rs`, `method.rs`).

mod content;
mod document;
mod figures;
pub mod format;
mod method;
mod reduced;
mod table;
mod tables;

#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::BenchError,
    options::{Experiment, Preset},
    reference::Reference,
    results::Results,
    sample,
    summary::{Context, Evaluation, evaluate},
};
pub use figures::Figure;
pub use table::Table;

/// Stands in each table, plot and file of a quick run.
pub const QUICK: &str = "QUICK RUN";

/// What the report shows of an experiment.
#[derive(Debug)]
pub struct Section {
    /// The experiment.
    pub experiment: Experiment,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its plots.
    pub figures: Vec<Figure>,
}

/// Reads the samples of a folder, and writes results, tables, plots and the report.
///
/// # Errors
/// When samples cannot be read, or the disk is full.
pub fn write(out: &Path, results: &mut Results) -> Result<(), BenchError> {
    let reference = Reference::shipped()?;
    let mut evaluations = Vec::new();
    let mut damaged = Vec::new();
    for experiment in &results.plan.experiments {
        let (samples, torn) = sample::read(out, experiment.name())?;
        if torn > 0 {
            damaged.push(format!("{}: {torn} rows of its samples are damaged and were left out.", experiment.name()));
        }
        let context = Context {
            seed: results.plan.seed,
            processors: results.machine.processors,
            functions: &results.functions,
            reference: &reference,
        };
        evaluations.extend(evaluate(*experiment, &samples, &context));
    }
    results.summaries = evaluations.iter().map(|evaluation| evaluation.summary.clone()).collect();
    let sections = sections(results, &evaluations);
    results.write(out)?;
    write_parts(out, &sections)?;
    let document = content::document(results, &sections, damaged);
    put(&out.join("report.md"), &document.markdown())?;
    put(&out.join("report.html"), &document.html())
}

/// Returns tables and plots of each experiment.
fn sections(results: &Results, evaluations: &[Evaluation]) -> Vec<Section> {
    let section = |evaluation: &Evaluation| {
        let experiment = evaluation.summary.experiment;
        let mut tables = tables::of(results, &evaluation.summary);
        let mut figures = figures::of(results, evaluation);
        if results.plan.preset == Preset::Quick {
            tables.iter_mut().for_each(|table| table.caption.insert_str(0, &format!("{QUICK}. ")));
        }
        figures.retain(|figure| !figure.svg.is_empty());
        Section { experiment, tables, figures }
    };
    evaluations.iter().map(section).collect()
}

/// Writes tables and plots. Those of an earlier report are removed.
fn write_parts(out: &Path, sections: &[Section]) -> Result<(), BenchError> {
    let directory = |name: &str| -> Result<PathBuf, BenchError> {
        let path = out.join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(|error| BenchError::Write(path.clone(), error))?;
        Ok(path)
    };
    let (tables, plots) = (directory("tables")?, directory("plots")?);
    for table in sections.iter().flat_map(|section| &section.tables) {
        put(&tables.join(format!("{}.md", table.id)), &table.markdown())?;
        put(&tables.join(format!("{}.tex", table.id)), &table.latex())?;
        put(&tables.join(format!("{}.csv", table.id)), &table.csv())?;
    }
    for figure in sections.iter().flat_map(|section| &section.figures) {
        let path = plots.join(format!("{}.svg", figure.id));
        put(&path, &figure.svg)?;
        convert(&path);
    }
    Ok(())
}

/// Writes the plot as PDF and PNG too, if the program for that is installed.
fn convert(svg: &Path) {
    for kind in ["pdf", "png"] {
        let target = svg.with_extension(kind);
        // Optional, and the report says how to do it by hand.
        let _ = Command::new("rsvg-convert")
            .args(["--format", kind, "--zoom", "2", "--output"])
            .arg(target)
            .arg(svg)
            .output();
    }
}

fn put(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(|error| BenchError::Write(path.to_owned(), error))
}
