//! `unifaas bench`: known answers, coldness and failures, and what an interrupted run leaves. Its statistics, tables and plots
//! are tested in its crate.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use integration::{Function, Home, cli, eventually, eventually_blocking, processes, unifaas};
use nix::sys::signal::Signal;
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

/// Waits for the exit of a child, and returns its status.
async fn ended(mut child: Child) -> Option<i32> {
    let wait = move || {
        eventually_blocking(TIMEOUT, "the exit", || child.try_wait().unwrap(), Option::is_some)
            .and_then(|status| status.code())
    };
    tokio::task::spawn_blocking(wait).await.unwrap()
}

fn bench_function(name: &str) -> Function {
    Function::verbatim(name, "process.command = [\"%unifaas\", \"bench-function\", \"%callback\"]\n")
}

#[tokio::test]
async fn a_run_writes_samples_figures_and_a_report() {
    let bench = Bench::of([Function::new("f").set("min-instances", 2).set("single-use", false)]);
    fs::write(bench.home.registry().join("f/file.txt"), "kept").unwrap();
    let results = bench.run(&["--rounds", "2", "--bursts", "1,4", "--pairs", "30", "--path", "/pid"]).await;
    assert_eq!((&results["complete"], &results["plan"]["seed"]), (&Value::Bool(true), &Value::from(1)));
    // Three rounds of f, its control, and f paused.
    assert_eq!(bench.samples("cold").len(), 9);
    assert_eq!(bench.samples("burst").len(), 3 * 2 * 5);
    assert_eq!(bench.samples("warm").len(), 3 * 2 * 2 * (30 + 3));
    assert!(location(row(&results, "cold", "f", "cold"), "median") > 0.0);
    assert!(location(row(&results, "cold", "f", "pause"), "median") > 0.0, "processes can be paused");
    assert!(location(row(&results, "warm-direct", "f", ""), "median") > 0.0);
    assert!(location(row(&results, "burst-last", "f", ""), "median") > 0.0);
    for id in ["cold", "warm-daemon", "burst-last"] {
        let row = row(&results, id, "f", "");
        assert_eq!((row["rounds"].as_u64(), row["excluded"].as_u64()), (Some(2), Some(0)), "{row:#}");
    }
    let files =
        ["report.md", "report.html", "daemon.jsonl", "tables/cold.tex", "tables/cold-parts.csv", "plots/cold-box.svg"];
    for file in files.iter().chain(&["registry/cold/f/function.toml"]) {
        assert!(bench.out.join(file).metadata().is_ok_and(|file| file.len() > 0), "{file}");
    }
    // The user's function is as before.
    assert!(fs::read_to_string(bench.home.registry().join("f/function.toml")).unwrap().contains("min-instances = 2"));
    let (before, samples) = (fs::read(bench.out.join("report.html")).unwrap(), bench.samples("cold"));
    bench.report().await;
    assert!(before == fs::read(bench.out.join("report.html")).unwrap(), "the report is the same again");
    assert_eq!(samples, bench.samples("cold"));
}

#[tokio::test]
async fn a_later_callback_is_a_slower_cold_start() {
    let delayed = |name: &str, ms: &str| Function::new(name).flag("--boot-delay").flag(ms);
    let bench = Bench::of([delayed("early", "50"), delayed("late", "150")]);
    let results = bench.run(&["cold", "--rounds", "15", "--path", "/pid"]).await;
    // The fastest start of each: others wait for the processor.
    let fastest = |name| location(row(&results, "cold", name, "cold"), "min");
    let difference = fastest("late") - fastest("early");
    assert!((90.0..120.0).contains(&difference), "{difference} ms");
    let parts = results["summaries"][0]["parts"].as_array().unwrap();
    let boot = |name: &str| {
        let part = parts.iter().find(|part| part["function"] == name && part["variant"] == "cold").unwrap();
        part["medians"][2].as_f64().unwrap()
    };
    assert!(boot("early") > 50.0 && boot("late") > 150.0, "the delay is a part of the boot: {parts:?}");
}

/// Returns the fastest requests for a delay, directly and through the daemon.
async fn fastest(delay: &str) -> [f64; 2] {
    let bench = Bench::of([bench_function("f")]);
    let results = bench.run(&["warm", "--rounds", "1", "--pairs", "60", "--path", delay]).await;
    ["warm-direct", "warm-daemon"].map(|id| location(row(&results, id, "f", ""), "min"))
}

#[tokio::test]
async fn known_delays_are_measured() {
    const ATTEMPTS: u32 = 4;
    let mut seen = Vec::new();
    // Other work only adds to a time, so a quiet moment is enough.
    for _ in 0..ATTEMPTS {
        let (short, long) = (fastest("/delay?us=5000").await, fastest("/delay?us=20000").await);
        let differences = [long[0] - short[0], long[1] - short[1]];
        // The daemon of a debug build takes milliseconds beside other work.
        if (14.7..15.3).contains(&differences[0]) && (14.7..17.0).contains(&differences[1]) {
            return;
        }
        seen.push((short, long));
    }
    panic!("not 15 ms: {seen:?}");
}

#[tokio::test]
async fn failures_appear_in_the_table() {
    let bench = Bench::of([Function::new("f").flag("--fail-every").flag("10")]);
    let results = bench.run(&["warm", "--rounds", "4", "--pairs", "100", "--path", "/pid"]).await;
    let ids = ["warm-direct", "warm-daemon", "warm-direct-pauses", "warm-daemon-pauses"];
    let failures = ids.map(|id| &row(&results, id, "f", "")["failures"]);
    let failed: u64 = failures.iter().map(|failures| failures["by_status"]["500"].as_u64().unwrap_or(0)).sum();
    let attempts: u64 = failures.iter().map(|failures| failures["attempts"].as_u64().unwrap()).sum();
    // 100 pairs and 10 with pauses. Each tenth request of an instance fails.
    assert_eq!((attempts, failed), (4 * 220, 4 * 22), "{results:#}");
    let table = fs::read_to_string(bench.out.join("tables/warm-daemon.csv")).unwrap();
    assert!(table.contains("× 500"), "{table}");
}

#[tokio::test]
async fn functions_that_do_not_answer_are_left_out_with_the_reason() {
    let bench = Bench::of([
        Function::new("good"),
        Function::new("crash").flag("--exit-at-boot").flag("3"),
        Function::verbatim("broken", "nonsense = 1\nprocess.command = [\"true\"]\n"),
    ]);
    let results = bench.run(&["cold", "--rounds", "1", "--path", "/pid"]).await;
    let reason = |name: &str| {
        let left_out = results["left_out"].as_array().unwrap().iter().find(|entry| entry[0] == name);
        left_out.unwrap_or_else(|| panic!("{name} takes part"))[1].as_str().unwrap().to_owned()
    };
    assert!(reason("crash").contains("status 3"), "{}", reason("crash"));
    assert!(reason("broken").contains("nonsense"), "{}", reason("broken"));
    let listed = cli::run(bench.command(&["list", "--path", "/pid"])).await;
    // A list has no folder of results, and measures nothing.
    assert_eq!(listed.status, Some(0), "{listed:?}");
    let line = |name: &str| {
        listed.out.lines().find(|line| line.starts_with("cold") && line.contains(name)).unwrap().to_owned()
    };
    assert!(line("good").contains("yes, about") && line("broken").contains("no: "), "{}", listed.out);
}

#[tokio::test]
async fn nothing_to_measure_is_wrong_usage() {
    let bench = Bench::of([Function::new("f").flag("--exit-at-boot").flag("3")]);
    let ran = cli::run(bench.command(&["cold", "--path", "/pid"])).await;
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.err.contains("left out: f: ") && ran.err.contains("no function can be measured"), "{ran:?}");
    let again = cli::run(bench.command(&["cold"])).await;
    assert!(again.status == Some(2) && again.err.contains("is not empty"), "{again:?}");
}

#[tokio::test]
async fn an_interrupted_run_leaves_its_samples_and_nothing_else() {
    let bench = Bench::of([Function::new("f")]);
    let child = bench.start(&["cold", "--rounds", "100000", "--path", "/pid"]);
    bench.has_samples(6).await;
    processes::signal(child.id(), Signal::SIGINT);
    assert_eq!(ended(child).await, Some(130));
    assert!(bench.home.processes().is_empty(), "{:?}", bench.home.described());
    assert_eq!(bench.results()["complete"], false);
    assert!(fs::read_to_string(bench.out.join("report.md")).unwrap().contains("The run was cut short"));
}

#[tokio::test]
async fn a_killed_run_leaves_its_samples_and_nothing_else() {
    let bench = Bench::of([Function::new("f")]);
    let mut child = bench.start(&["cold", "--rounds", "100000", "--path", "/pid"]);
    bench.has_samples(6).await;
    child.kill().unwrap();
    assert_eq!(ended(child).await, None);
    bench.home.left(0).await;
    let daemons = || {
        let state = bench.home.path("state").display().to_string();
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(|pid| processes::arguments(*pid).contains(&state)).collect::<Vec<u32>>()
    };
    eventually(TIMEOUT, "the daemon ends with its parent", async || daemons(), Vec::is_empty).await;
    let report = bench.report().await;
    assert!(report.contains("The run was cut short") && report.contains("| f "), "{report}");
}

#[tokio::test]
async fn a_full_disk_ends_a_run_with_what_there_is() {
    let bench = Bench::of([Function::new("f")]);
    fs::create_dir(&bench.out).unwrap();
    let (disk, arguments) = (&bench.out, bench.arguments(&["cold", "--rounds", "100000", "--path", "/pid"]));
    let words: Vec<_> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let words = words.join(" ").replace(&format!("'{}'", disk.display()), &format!("'{}/run'", disk.display()));
    // The last words see the file system that only this shell has.
    let script = format!(
        "mount -t tmpfs -o size=900k none {disk} && head -c 780k /dev/zero >{disk}/filler && \
         {{ \"$0\" {words} >&2; echo status $?; rm {disk}/filler; \"$0\" bench report {disk}/run && cat {disk}/run/report.md; }}",
        disk = disk.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "--", "sh", "-c", &script]).arg(unifaas());
    command.env("UNIFAAS_CONFIG", "/dev/null").stdin(Stdio::null());
    let ran = cli::run(command).await;
    assert!(ran.out.contains("status 1\n") && ran.err.contains("cannot write"), "{ran:?}");
    assert!(ran.out.contains("The run was cut short") && ran.out.contains("| f "), "{ran:?}");
    assert!(bench.home.processes().is_empty(), "{:?}", bench.home.described());
}
