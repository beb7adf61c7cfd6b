//! `unifaas bench`: what a run writes (`runs.rs`), known answers (`answers.rs`), traces and the comparison of two folders
//! (`traces.rs`), time limits (`budget.rs`), and what is left of a run that was cut short (`ended.rs`). Its statistics, tables and plots are tested in its
//! crate.

mod answers;
mod budget;
mod ended;
mod runs;
mod traces;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use integration::{Function, Home, cli, eventually};
use serde_json::Value;

/// A run of a debug build on a busy machine takes minutes.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A benchmark of the functions of a home.
struct Bench {
    home: Arc<Home>,
    out: PathBuf,
}

impl Bench {
    fn of(functions: impl IntoIterator<Item = Function>) -> Self {
        let home = Home::new();
        functions.into_iter().for_each(|function| home.put(&function));
        let out = home.path("results");
        Self { home, out }
    }

    /// Returns the arguments of a run.
    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let own = [
            ("--registry", self.home.registry()),
            ("--out", self.out.clone()),
            ("--state-dir", self.home.path("state")),
        ];
        let own = own.into_iter().flat_map(|(name, value)| [name.to_owned(), value.display().to_string()]);
        let fixed = ["--seed", "1", "--settle", "0"].map(str::to_owned);
        let given = arguments.iter().map(|word| (*word).to_owned());
        ["bench".to_owned()].into_iter().chain(given).chain(fixed).chain(own).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let arguments = self.arguments(arguments);
        cli::bare(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs to the end, and returns the results.
    async fn run(&self, arguments: &[&str]) -> Value {
        let ran = cli::run(self.command(arguments)).await;
        assert_eq!(ran.status, Some(0), "{ran:?}\n{}", self.log());
        assert!(self.home.processes().is_empty(), "{:?}", self.home.described());
        self.results()
    }

    /// Measures a daemon that runs already, and returns the results.
    async fn run_remote(&self, arguments: &[&str]) -> Value {
        let mut command = cli::bare(&["bench"]);
        command.args(arguments).args(["--seed", "1", "--settle", "0", "--out"]).arg(&self.out);
        let ran = cli::run(command).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        self.results()
    }

    /// Starts a run that a test ends.
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(fs::File::create(self.home.path("said")).unwrap()).spawn().unwrap()
    }

    fn results(&self) -> Value {
        serde_json::from_slice(&fs::read(self.out.join("results.json")).unwrap()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.out.join("daemon.jsonl")).unwrap_or_default()
    }

    fn samples(&self, experiment: &str) -> Vec<String> {
        let text = fs::read_to_string(self.out.join("samples").join(format!("{experiment}.csv"))).unwrap_or_default();
        text.lines().skip(1).map(str::to_owned).collect()
    }

    /// Waits until a run has taken so many samples.
    async fn has_samples(&self, count: usize) {
        let look =
            async || (self.samples("cold").len(), fs::read_to_string(self.home.path("said")).unwrap_or_default());
        eventually(TIMEOUT, format!("{count} samples"), look, |(found, _)| *found >= count).await;
    }

    /// Writes the report again.
    async fn report(&self) -> String {
        cli::run(cli::bare(&["bench", "report", self.out.to_str().unwrap()])).await.ok();
        fs::read_to_string(self.out.join("report.md")).unwrap()
    }
}

fn metric<'r>(results: &'r Value, id: &str) -> &'r Value {
    let summaries = results["summaries"].as_array().unwrap().iter();
    let mut metrics = summaries.flat_map(|summary| summary["metrics"].as_array().unwrap());
    metrics.find(|metric| metric["id"] == id).unwrap_or_else(|| panic!("no metric {id}: {results:#}"))
}

fn row<'r>(results: &'r Value, id: &str, function: &str, variant: &str) -> &'r Value {
    let mut rows = metric(results, id)["rows"].as_array().unwrap().iter();
    let is_it = |row: &&Value| row["function"] == function && (variant.is_empty() || row["variant"] == variant);
    rows.find(is_it).unwrap_or_else(|| panic!("no row {function} {variant} of {id}: {results:#}"))
}

fn location(row: &Value, key: &str) -> f64 {
    row["location"][key].as_f64().unwrap_or_else(|| panic!("no {key}: {row:#}"))
}

/// Returns the benchmark function, which the daemon has built in.
fn bench_function(name: &str) -> Function {
    Function::verbatim(name, "process.command = [\"%unifaas\", \"bench-function\", \"%callback\"]\n")
}
