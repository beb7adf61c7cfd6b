//! `unifaas bench` over containers: figures of both runtimes, and no container after a run, however it ended.

use std::{fs, process::Command, sync::Arc};

use integration::{
    Engine, Home,
    bench::{ended_by, sampling},
    cli, contained,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shared;

/// Returns a home with a function for each runtime.
fn home(names: &[(&str, &str)]) -> Arc<Home> {
    let home = Home::new();
    for (name, runtime) in names {
        home.put(&contained(name, &[], "", &format!("runtime = {runtime:?}")));
    }
    home
}

/// Returns the command of a run that measures with the engine.
fn command(engine: &Engine, home: &Home, words: &[&str]) -> Command {
    let mut command = cli::bare(&["bench"]);
    command.args(words).args(["--path", "/pid", "--seed", "1", "--settle", "0"]).env("DOCKER_HOST", engine.host());
    command.arg("--registry").arg(home.registry()).arg("--out").arg(home.path("results"));
    command.arg("--state-dir").arg(home.path("state"));
    command
}

#[tokio::test]
async fn containers_are_measured() {
    let Some(engine) = shared() else { return };
    let home = home(&[("benched-runc", "runc"), ("benched-runsc", "runsc")]);
    let words = ["cold", "warm", "burst", "throughput", "memory", "idle", "--rounds", "1"];
    let sizes = ["--bursts", "2", "--pairs", "5", "--connections", "2", "--instances", "0,2", "--window", "1"];
    let ran = cli::run(command(engine, &home, &[&words[..], &sizes].concat())).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let results: Value = serde_json::from_slice(&fs::read(home.path("results/results.json")).unwrap()).unwrap();
    assert_eq!(results["left_out"], serde_json::json!([]));
    let metrics: Vec<_> =
        results["summaries"].as_array().unwrap().iter().flat_map(|it| it["metrics"].as_array().unwrap()).collect();
    for id in ["cold", "warm-direct", "burst-last", "throughput", "memory-available", "idle-cpu"] {
        let metric = metrics.iter().find(|metric| metric["id"] == id).unwrap_or_else(|| panic!("no {id}: {results:#}"));
        for name in ["benched-runc", "benched-runsc"] {
            let row = metric["rows"].as_array().unwrap().iter().find(|row| row["function"] == name).unwrap();
            assert!(row["location"]["median"].is_f64(), "{id}: {row:#}");
            assert_eq!(row["failures"]["by_status"], serde_json::json!({}), "{id}: {row:#}");
        }
    }
    engine.none_left("benched-runc").await;
    engine.none_left("benched-runsc").await;
}

#[tokio::test]
async fn no_container_is_left_of_a_run_that_a_signal_ends() {
    let Some(engine) = shared() else { return };
    for (name, signal, status) in [("interrupted", Signal::SIGINT, Some(130)), ("killed-run", Signal::SIGKILL, None)] {
        let home = home(&[(name, "runc")]);
        let child = sampling(command(engine, &home, &["cold", "--rounds", "100000"]), &home).await;
        assert_eq!(ended_by(signal, child).await, status, "{name}");
        engine.none_left(name).await;
        let results = home.path("results").display().to_string();
        cli::run(cli::bare(&["bench", "report", &results])).await.ok();
        let report = fs::read_to_string(home.path("results/report.md")).unwrap();
        assert!(report.contains("The run was cut short") && report.contains(&format!("| {name} ")), "{report}");
    }
}
