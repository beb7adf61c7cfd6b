//! `integration/compare`: the speed of UniFaaS beside alternatives, on the same machine in the same minutes.
//!
//! One file per section: `warm.rs` with `http2.rs`, `cold/`, `burst.rs`, `scale/`, `instructions.rs`. A section starts its
//! contestants side by side and alternates them round by round. Medians are compared, never figures of different runs.
//! `report.rs` and `figures.rs` have the results, `machine.rs` the circumstances. `rivals.rs`, `wrk.rs`, `h2load.rs` and
//! `callgrind.rs` run other programs; `child.rs` and `ask.rs` have processes and sockets. The function is `../lean.rs`.

mod ask;
mod burst;
mod callgrind;
mod child;
mod cold;
mod figures;
mod h2load;
mod http2;
mod instructions;
mod machine;
mod options;
mod report;
mod rivals;
mod scale;
mod stats;
mod warm;
mod wrk;

use std::{env, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::ExitCode, thread};

use clap::Parser;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    machine::Machine,
    options::{Options, SectionName},
    report::{Report, Section},
};

fn main() -> ExitCode {
    let options = Options::parse();
    let machine = Machine::look();
    let mut sections = Vec::new();
    let mut failed = false;
    for name in options.sections() {
        let began = Instant::now();
        let outcome = match name {
            SectionName::Warm => apart(async || warm::run(&options).await),
            SectionName::Instructions => apart(async || instructions::run(&options).await),
            SectionName::Cold => apart(async || cold::run(&options).await),
            SectionName::Burst => apart(async || burst::run(&options).await),
            SectionName::Scale => apart(async || scale::run(&options).await),
        };
        let mut section = outcome.unwrap_or_else(|why| {
            failed = true;
            let mut section = Section::new(name.word());
            section.miss("everything", &format!("failed: {why}"));
            section
        });
        section.seconds = began.elapsed().as_secs_f64();
        println!("{}", section.markdown());
        sections.push(section);
    }
    let report = Report::new(machine, sections);
    println!("{}", report.figures_markdown());
    match write(&report, &options) {
        Ok(path) => eprintln!("written to {path}.{{md,json}}"),
        Err(error) => {
            eprintln!("{}: {error}", options.out.display());
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Writes both formats; returns the path without its extension.
fn write(report: &Report, options: &Options) -> std::io::Result<String> {
    let path = options.out.join(options.stem());
    fs::create_dir_all(&options.out)?;
    fs::write(path.with_extension("md"), report.markdown())?;
    fs::write(path.with_extension("json"), serde_json::to_string_pretty(report)?)?;
    Ok(path.display().to_string())
}

/// Runs work on its own thread, which may enter other network namespaces and may fail on its own.
fn apart<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> Result<T, String> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work())
    };
    thread::scope(|scope| scope.spawn(work).join()).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        words.unwrap_or("a panic without words").to_owned()
    })
}

/// Prints a line of progress.
fn progress(line: &str) {
    eprintln!("… {line}");
}

/// Creates a directory that unprivileged programs can read.
fn public_directory() -> TempDir {
    let public = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("unifaas-compare-").permissions(public).tempdir().expect("a temporary directory")
}

/// Returns the path of the real Firecracker, if installed.
fn firecracker() -> Option<PathBuf> {
    let chosen = env::var_os("FIRECRACKER_EXE").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    chosen
        .or_else(|| env::split_paths(&path).map(|directory| directory.join("firecracker")).find(|path| path.is_file()))
}
