//! `integration/compare`: how fast UniFaaS is, beside what else could do the same on the same machine in the same minutes.
//!
//! A file for each section: `warm.rs` with `http2.rs`, `cold/`, `burst.rs`, `scale/`, `instructions.rs`. They start what they compare side
//! by side and alternate it round by round; medians are compared, never figures of different runs. `report.rs` and
//! `figures.rs` are what comes of it, `machine.rs` says where that was; `rivals.rs`, `wrk.rs`, `h2load.rs` and `callgrind.rs` deal with
//! other people's programs, `child.rs` and `ask.rs` with sockets and processes of our own.
//!
//! The function that all of them run is `../lean.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for developers: a section fails by panicking, and results are printed"
)]

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

/// Writes both forms; where, without the ending.
fn write(report: &Report, options: &Options) -> std::io::Result<String> {
    let path = options.out.join(options.stem());
    fs::create_dir_all(&options.out)?;
    fs::write(path.with_extension("md"), report.markdown())?;
    fs::write(path.with_extension("json"), serde_json::to_string_pretty(report)?)?;
    Ok(path.display().to_string())
}

/// Does something on a thread of its own, which may enter other networks, and whose failure is not that of the rest.
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

/// For whoever waits.
fn progress(line: &str) {
    eprintln!("… {line}");
}

/// A directory that those who give up root can read.
fn public_directory() -> TempDir {
    let public = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("unifaas-compare-").permissions(public).tempdir().expect("a temporary directory")
}

/// The real Firecracker, if it is here.
fn firecracker() -> Option<PathBuf> {
    let chosen = env::var_os("FIRECRACKER_EXE").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    chosen
        .or_else(|| env::split_paths(&path).map(|directory| directory.join("firecracker")).find(|path| path.is_file()))
}
