//! `new`: every template that needs no engine and no virtual machine runs.

use std::{env, fs, path::Path, process::Command};

use integration::{
    Daemon, Home, SOON, Setup,
    cli::{Ran, bare, run, run_in},
    eventually,
};

/// Where programs are that every user may execute.
const PUBLIC_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

async fn new(home: &Home, arguments: &[&str]) -> Ran {
    run_in(&home.path(""), bare(&[&["new"], arguments, &["-r", "registry"]].concat())).await
}

/// Checks a new function, and the commands that `new` has printed.
async fn answers(daemon: &Daemon, name: &str, text: &str) {
    let next: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(next.len(), 3, "{text}");
    assert!(next.contains(&format!("unifaas invoke {name}").as_str()), "{text}");
    let answer = daemon.cli(&["invoke", name, "a?b=c", "-d", "12345"]).await.ok();
    assert!(answer.starts_with(&format!("Hello from {name}: POST /a?b=c, ")), "{answer}");
    assert!(answer.trim_end().ends_with(" 5 bytes"), "{answer}");
    // The daemon may read the output later than the answer.
    let logs = async || daemon.cli(&["logs", name]).await.ok();
    eventually(SOON, "the request is in the output", logs, |logs| logs.contains(" POST /a")).await;
}

#[tokio::test]
async fn templates_of_interpreters_run_at_once() {
    let home = Home::new();
    let daemon = Setup::at(&home).variable("PATH", PUBLIC_PATH).start().await;
    for (template, interpreter) in [("python", "python3"), ("node", "node"), ("shell", "sh")] {
        if !PUBLIC_PATH.split(':').any(|directory| Path::new(directory).join(interpreter).is_file()) {
            eprintln!("skipped: no {interpreter} in {PUBLIC_PATH}");
            continue;
        }
        let name = format!("a-{template}.1");
        let mut command = daemon.command(&["new", &name, "--template", template, "-r", "."]);
        command.current_dir(home.registry());
        // It returns when the daemon knows the function.
        let text = run(command).await.ok();
        assert!(!text.contains("--registry"), "{text}");
        answers(&daemon, &name, &text).await;
    }
}

#[tokio::test]
async fn template_of_rust_builds_and_runs() {
    let home = Home::new();
    let text = new(&home, &["mine", "-t", "rust"]).await.ok();
    let daemon = Setup::at(&home).start().await;
    let text_of_problem = daemon.cli(&["invoke", "mine"]).await.failed(1);
    assert!(text_of_problem.contains("target/release/function\" does not exist"), "{text_of_problem}");
    let build = text.lines().find_map(|line| line.strip_prefix("    (")).unwrap().trim_end_matches(')').to_owned();
    let mut command = Command::new("sh");
    command.args(["-ec", &build]).env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true");
    run_in(&home.path(""), command).await.ok();
    daemon.answers("/invoke/mine/", 200).await;
    answers(&daemon, "mine", &text).await;
}

#[tokio::test]
async fn every_template_passes_check_but_for_what_must_be_built() {
    let home = Home::new();
    for template in ["python", "node", "shell", "rust", "container", "unikernel"] {
        let json = new(&home, &[template, "-t", template, "--json"]).await.json();
        let files = json["files"].as_array().unwrap();
        assert!(
            files.iter().all(|file| home.registry().join(template).join(file.as_str().unwrap()).is_file()),
            "{json}"
        );
        assert!(!home.registry().join(template).join(".new").exists(), "each has its name");
        assert_eq!(json["next"].as_array().unwrap().len(), 3, "{json}");
    }
    let check = run(bare(&["check", "-r", home.registry().to_str().unwrap()])).await;
    let others = check.err.lines().filter(|line| !line.ends_with("does not exist") && !line.starts_with("unifaas: "));
    // Where node is not installed, only that is missing.
    assert_eq!(others.filter(|line| !line.contains("\"node\"")).count(), 0, "{check:?}");
}

#[tokio::test]
async fn nothing_is_overwritten_and_names_are_checked() {
    let home = Home::new();
    new(&home, &["mine"]).await.ok();
    let text = new(&home, &["mine", "-t", "shell"]).await.failed(1);
    assert!(text.contains("registry/mine exists already"), "{text}");
    assert!(home.registry().join("mine/main.py").is_file() && !home.registry().join("mine/handler.sh").exists());
    for name in ["../mine", "-x", "a b", ""] {
        let ran = new(&home, &[name]).await;
        assert_eq!(ran.status, Some(2), "{name}: {ran:?}");
    }
    assert_eq!(fs::read_dir(home.registry()).unwrap().count(), 1);
}

#[tokio::test]
async fn functions_are_put_into_the_registry_of_the_settings() {
    let home = Home::new();
    let mut command = bare(&["new", "mine"]);
    command.env("UNIFAAS_REGISTRY", home.registry()).current_dir(env::temp_dir());
    let text = run(command).await.ok();
    assert!(home.registry().join("mine/function.toml").is_file(), "{text}");
    assert!(text.contains("unifaas --registry"), "{text}");
    let file = home.path("file");
    fs::write(&file, "").unwrap();
    let text = run(bare(&["new", "mine", "-r", file.to_str().unwrap()])).await.failed(1);
    assert!(text.contains(&format!("the registry {} is not a directory", file.display())), "{text}");
    let empty = home.path("empty");
    fs::create_dir(&empty).unwrap();
    run_in(&empty, bare(&["new", "mine"])).await.ok();
    assert!(empty.join("functions/mine/function.toml").is_file());
}
