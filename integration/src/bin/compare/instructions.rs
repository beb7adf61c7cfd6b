//! The user-mode instructions of a warm request, counted by valgrind's callgrind. The count depends on the compiler, not on
//! the machine's load.
//!
//! The daemon runs twice and serves more requests the second time. The difference is the cost of those requests: start, end
//! and the first requests cancel out.
//!
//! glibc clears and copies large blocks with `rep stosb` and `rep movsb`, which valgrind counts as one instruction per byte.
//! `GLIBC_TUNABLES` disables them for the daemon, so that the count is close to what a processor executes.

use std::fs;

use integration::{Function, Home, Setup};

use crate::{
    ask::send_in_sequence,
    callgrind::Profile,
    child::WITH_PARENT,
    figures::Figure,
    machine::is_installed,
    options::{Options, SectionName},
    progress,
    report::{Section, Table},
};

/// Requests of the two runs.
const FEW: u64 = 500;
const MANY: u64 = 2500;
/// Keeps glibc from `rep stosb` and `rep movsb` in any piece of memory that is shorter than this.
const WITHOUT_REP: &str = "glibc.cpu.x86_rep_stosb_threshold=100000000:glibc.cpu.x86_rep_movsb_threshold=100000000";
/// Number of listed functions, and the longest name that is not shortened.
const NAMED: usize = 30;
const LONGEST: usize = 100;
/// The profile of the longer run, for `callgrind_annotate`.
const PROFILE: &str = "callgrind.out";

/// Runs the section.
pub async fn run(options: &Options) -> Section {
    let mut section = Section::new(SectionName::Instructions.word());
    if !is_installed("valgrind") {
        section.miss("everything", "valgrind is not installed");
        return section;
    }
    let mut summary = Table::new(
        format!("User-mode instructions per warm request: {MANY} requests against {FEW}, one connection"),
        "build",
        &[("instructions", 0)],
    );
    let (total, functions, profile) = per_request(|setup| setup).await;
    fs::create_dir_all(&options.out).expect("a directory for the results");
    fs::write(options.out.join(PROFILE), profile).expect("the profile can be written");
    section.figure(Figure::Instructions, Some(total));
    summary.row("UniFaaS", &[Some(total)]);
    if let Some(binary) = &options.baseline {
        let (total, ..) = per_request(|setup| setup.binary(binary)).await;
        summary.row("UniFaaS, baseline", &[Some(total)]);
    }
    section.tables.push(summary);
    let columns = [("instructions per request", 0), ("%", 1)];
    let mut table = Table::new("Where they go: each function without its callees", "function", &columns);
    for (function, count) in functions.into_iter().take(NAMED) {
        table.row(shortened(&function), &[Some(count), Some(count / total * 100.0)]);
    }
    section.tables.push(table);
    section
}

/// Returns the instructions per request, those of each function, and the profile.
async fn per_request(how: impl Fn(Setup) -> Setup) -> (f64, Vec<(String, f64)>, String) {
    let few = profile(how(setup()), FEW).await;
    let many = profile(how(setup()), MANY).await;
    let [of_few, of_many] =
        [&few, &many].map(|text| Profile::parse(text).unwrap_or_else(|why| panic!("callgrind's profile: {why}")));
    let (total, functions) = of_few.growth(&of_many, MANY - FEW);
    (total, functions, many)
}

/// Shortens a name: generic functions have names longer than a page is wide.
fn shortened(name: &str) -> String {
    let characters = name.chars().count();
    if characters <= LONGEST {
        return name.to_owned();
    }
    let (start, end) = (LONGEST / 2, characters - LONGEST / 2);
    name.chars().take(start).chain("…".chars()).chain(name.chars().skip(end)).collect()
}

/// Returns settings of a daemon with one function and without other work.
fn setup() -> Setup {
    let function = Function::new("lean").program("lean").set("concurrent-requests", 1000).set("keepalive", 3600);
    Setup::at(&Home::new()).function(function)
}

/// Returns the profile of a daemon that serves a number of requests.
async fn profile(setup: Setup, requests: u64) -> String {
    progress(&format!("instructions: {requests} requests under callgrind"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("profile");
    let out = format!("--callgrind-out-file={}.%p", file.display());
    let log = format!("--log-file={}.log", file.display());
    let line = WITH_PARENT.into_iter().chain(["valgrind", "--tool=callgrind", &out, &log]);
    let mut daemon = setup.run_by(line).variable("GLIBC_TUNABLES", WITHOUT_REP).start().await;
    send_in_sequence(daemon.listen, "/invoke/lean/", requests, b"Hello world\n");
    let ending = daemon.end().await;
    assert!(ending.status.success(), "{}", ending.status);
    fs::read_to_string(format!("{}.{}", file.display(), daemon.pid)).expect("callgrind wrote a profile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortens_only_long_names() {
        let name = format!("<start{}end>", "ä".repeat(LONGEST));
        let short = shortened(&name);
        assert_eq!(short.chars().count(), LONGEST + 1);
        assert!(short.starts_with("<start") && short.contains('…') && short.ends_with("end>"));
        assert_eq!(shortened("short"), "short");
    }
}
