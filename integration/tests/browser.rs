//! The dashboard in Chromium: `browser/check.mjs` looks at what these daemons show. Needs npm, for two packages of
//! fixed content.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use integration::{Daemon, Function, Home, Setup, brokers, cli, tools, within};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::OnceCell,
};

const FUNCTIONS: usize = 10_000;
/// A browser takes seconds for a page on a busy machine, and one check has dozens.
const TIMEOUT: Duration = Duration::from_secs(600);
const FILES: [&str; 4] = ["package.json", "package-lock.json", ".npmrc", "check.mjs"];

/// Returns Chromium and a directory with the script and its packages. `None`: a program is not installed.
async fn prepared() -> Option<(PathBuf, PathBuf)> {
    static PREPARED: OnceCell<Option<(PathBuf, PathBuf)>> = OnceCell::const_new();
    PREPARED.get_or_init(prepare).await.clone()
}

async fn prepare() -> Option<(PathBuf, PathBuf)> {
    let (chromium, npm) = (tools::program("chromium")?, tools::program("npm")?);
    tools::program("node")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    fs::create_dir_all(&directory).unwrap();
    for file in FILES {
        fs::copy(source.join(file), directory.join(file)).unwrap();
    }
    let mut install = Command::new(npm);
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory).kill_on_drop(true);
    let installed = within(TIMEOUT, "npm", install.output()).await.unwrap();
    assert!(installed.status.success(), "{installed:?}");
    Some((chromium, directory))
}

fn start(check: &str, daemon: &Daemon, prepared: &(PathBuf, PathBuf)) -> Child {
    start_at(check, &format!("http://{}", daemon.listen), prepared)
}

fn start_at(check: &str, url: &str, (chromium, directory): &(PathBuf, PathBuf)) -> Child {
    let mut node = Command::new("node");
    node.arg(directory.join("check.mjs")).args([check, url]).arg(chromium);
    node.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

async fn passes(check: &str, daemon: &Daemon) {
    shows(check, &format!("http://{}", daemon.listen)).await;
}

async fn shows(check: &str, url: &str) {
    let Some(prepared) = prepared().await else { return };
    let node = start_at(check, url, &prepared);
    let output = within(TIMEOUT, check, node.wait_with_output()).await.unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{check}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a daemon with functions of each kind of state.
async fn daemon() -> Daemon {
    let home = Home::new();
    let (program, print) = (home.testfn(), "echo '<img src=x onerror=owned=1>'; exec \"$0\" \"$@\"");
    let words = ["/bin/sh", "-c", print, program.to_str().unwrap(), "%callback", "--token", home.token()];
    Setup::at(&home)
        .function(Function::new("f"))
        .function(Function::verbatim("html", &format!("process.command = {words:?}\n")))
        .function(Function::verbatim("crash", "process.command = [\"/bin/sh\", \"-c\", \"echo words >&2; exit 1\"]\n"))
        .function(Function::verbatim("broken", "nonsense = 1\n"))
        .start()
        .await
}

#[tokio::test]
async fn pages_are_accessible_in_light_and_dark_and_narrow_windows() {
    passes("pages", &daemon().await).await;
}

#[tokio::test]
async fn pages_follow_what_happens() {
    passes("live", &daemon().await).await;
}

#[tokio::test]
async fn output_is_followed_searched_and_stays_text() {
    passes("output", &daemon().await).await;
}

#[tokio::test]
async fn controls_work_by_keyboard_and_choices_are_kept() {
    passes("controls", &daemon().await).await;
}

#[tokio::test]
async fn buttons_restart_and_stop() {
    passes("actions", &daemon().await).await;
}

#[tokio::test]
async fn without_scripts_pages_show_the_present_state() {
    let daemon = daemon().await;
    daemon.get("/invoke/broken/").await.problem(500, "function_misconfigured");
    passes("scriptless", &daemon).await;
}

#[tokio::test]
async fn schedules_and_connections_are_followed() {
    let home = Home::new();
    let triggers = "[[cron]]\nat = \"* * * * * *\"\npath = \"/pid\"\n\n[[mqtt]]\ntopic = \"home/door\"\n";
    home.put(&Function::new("timer").table(triggers));
    let away = format!("mqtt://{}", brokers::own_address(1883));
    passes("triggers", &Setup::at(&home).option("--mqtt", away).start().await).await;
}

#[tokio::test]
async fn ten_thousand_functions_are_shown_within_a_second() {
    let home = Home::new();
    for number in 0..FUNCTIONS {
        home.put(&Function::new(&format!("f{number}")));
    }
    passes("large", &Setup::at(&home).start().await).await;
}

#[tokio::test]
async fn report_of_a_benchmark_is_readable_and_loads_nothing() {
    let home = Home::new();
    for name in ["f", "slow"] {
        let function = Function::new(name);
        home.put(&if name == "f" { function } else { function.flag("--boot-delay").flag("200") });
    }
    let paths = [home.registry(), home.path("results"), home.path("state")].map(|path| path.display().to_string());
    let [registry, out, state] = paths.each_ref().map(String::as_str);
    let words =
        ["bench", "cold", "burst", "--rounds", "6", "--bursts", "1,2,4", "--settle", "0", "--registry", registry];
    let words = [&words[..], &["--out", out, "--state-dir", state]].concat();
    cli::run(cli::bare(&words)).await.ok();
    shows("report", &format!("file://{out}/report.html")).await;
}

#[tokio::test]
async fn a_lost_connection_is_shown() {
    let daemon = daemon().await;
    let Some(prepared) = prepared().await else { return };
    let mut node = start("lost", &daemon, &prepared);
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let line = within(TIMEOUT, "the page is open", lines.next_line()).await.unwrap();
    if line.is_some() {
        drop(daemon);
    }
    let output = within(TIMEOUT, "the banner", node.wait_with_output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
