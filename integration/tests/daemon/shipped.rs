//! Tests that the shipped registry and examples work as documented.

use std::{env, fs, path::Path};

use integration::{Function, Home, SOON, Setup, eventually, number, processes, shipped, unifaas};
use tokio::process::Command;

/// Where programs are that every user may execute.
const PUBLIC_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Returns whether every user can run Python; prints a message if not, which under CI is a failure.
fn has_public_python() -> bool {
    let found = PUBLIC_PATH.split(':').any(|directory| Path::new(directory).join("python3").is_file());
    if !found {
        assert!(!matches!(env::var("CI").as_deref(), Ok("true" | "1")), "python3 is not installed, and this is CI");
        eprintln!("skipped: no python3 in {PUBLIC_PATH}");
    }
    found
}

#[tokio::test]
async fn shipped_registry_serves_hello() {
    let mut daemon = Setup::default().option("--registry", shipped("registry")).start().await;
    let reply = daemon.get("/invoke/hello/").await.ok();
    assert!(reply.text().to_lowercase().contains("hello"), "{}", reply.text());
    assert_eq!(daemon.post("/invoke/hello/some/path?q", "a body").await.status, 200);
    let pid = u32::try_from(number(&daemon.instances("hello").await[0], "pid")).unwrap();
    assert!(processes::exists(pid));
    assert_eq!(daemon.function("hello").await["instances_started"], 1);
    assert_eq!(daemon.end().await.status.code(), Some(0));
    assert!(!processes::exists(pid));
}

#[tokio::test]
async fn shipped_registry_passes_check_except_unbuilt_guests() {
    let output = Command::new(unifaas()).arg("check").arg("-r").arg(shipped("registry")).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("hello: ok"), "{output:?}");
    let problems = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_unbuilt = |line: &str| line.contains("examples/") && line.ends_with("does not exist");
    let others = problems.lines().filter(|line| !is_unbuilt(line) && !line.starts_with("unifaas: "));
    assert_eq!(others.count(), 0, "{problems}");
    assert_eq!(output.status.success(), problems.is_empty());
}

#[tokio::test]
async fn scheduled_example_runs_at_its_time() {
    let home = Home::new();
    let (directory, source) = (home.registry().join("scheduled-shell"), shipped("examples/scheduled-shell"));
    fs::create_dir(&directory).unwrap();
    fs::copy(source.join("report.sh"), directory.join("report.sh")).unwrap();
    let file = fs::read_to_string(source.join("function.toml")).unwrap();
    let each_second = file.replace("at = \"30 2 * * *\"", "at = \"* * * * * *\"");
    assert_ne!(file, each_second);
    fs::write(directory.join("function.toml"), each_second).unwrap();
    let daemon = Setup::at(&home).start().await;
    let log = async || daemon.get("/debug/logs?function=scheduled-shell").await.ok().text();
    let has_run = |log: &String| log.contains("/nightly with {\"keep\": 7}");
    eventually(SOON, "it has run", log, has_run).await;
}

#[tokio::test]
async fn python_example_works() {
    if !has_public_python() {
        return;
    }
    let home = Home::new();
    let directory = home.registry().join("hello-python");
    fs::create_dir(&directory).unwrap();
    for file in ["function.toml", "hello.py"] {
        fs::copy(shipped("examples/hello-python").join(file), directory.join(file)).unwrap();
    }
    let daemon = Setup::at(&home).variable("PATH", PUBLIC_PATH).start().await;
    let text = daemon.post("/invoke/hello-python/some/path?q", "a body").await.ok().text();
    assert!(text.starts_with("Hello from ") && text.contains("POST /some/path?q"), "{text}");
    daemon.get("/invoke/hello-python/").await.ok();
    assert_eq!(daemon.function("hello-python").await["instances_started"], 1);
}

#[tokio::test]
async fn program_without_callback_is_a_function() {
    if !has_public_python() {
        return;
    }
    let toml = "readiness = \"tcp\"\n[process]\n\
                command = [\"python3\", \"-m\", \"http.server\", \"--bind\", \"%ip\", \"%port\"]\n";
    let setup = Setup::default().function(Function::verbatim("files", toml));
    let daemon = setup.variable("PATH", PUBLIC_PATH).start().await;
    assert_eq!(daemon.get("/invoke/files/function.toml").await.ok().text(), toml);
}
