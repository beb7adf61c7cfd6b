//! `unifaas bench` over virtual machines on taps: the unikernel's work is measured, and nothing of a run is left in the network,
//! however it ended.

use std::{fs, process::Command};

use integration::{
    Home,
    bench::{TIMEOUT, ended_by, sampling},
    cli, eventually,
    vm::{Kind, Vm, daemon, isolated, taps, traces},
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Returns the command of a run over the functions of a home.
fn command(home: &Home, words: &[&str]) -> Command {
    let mut command = cli::bare(&["bench"]);
    command.args(words).args(["--settle", "0", "--seed", "1", "--registry"]).arg(home.registry());
    command.arg("--out").arg(home.path("results")).arg("--state-dir").arg(home.path("state"));
    command
}

/// Returns the unikernel with memory for its work.
fn working() -> Vm {
    let words = "memory=128 ip=%ip gw=%gateway mask=%netmask callback=%callback";
    Vm::new("f", Kind::Microvm).memory(128).cmdline(words)
}

#[test]
fn the_unikernel_does_the_work_of_the_benchmark_function() {
    isolated(async || {
        let mut daemon = daemon(working()).await;
        let fib = daemon.get("/invoke/f/fib?n=2500000").await.ok();
        assert_eq!(fib.text(), "3314201736242647163\n");
        assert!(fib.header("x-bench-us").unwrap().parse::<u64>().unwrap() > 100, "{fib:?}");
        let burnt = daemon.get("/invoke/f/burn?us=50000").await.ok();
        assert!(
            (50_000..1_000_000).contains(&burnt.header("x-bench-us").unwrap().parse::<u64>().unwrap()),
            "{burnt:?}"
        );
        assert_eq!(daemon.get("/invoke/f/read").await.text(), "this guest has no disk\n");
        daemon.end().await;
    });
}

#[test]
fn the_work_of_the_unikernel_is_measured() {
    isolated(async || {
        let home = Home::new();
        home.put(&working().into());
        let ran =
            cli::run(command(&home, &["alloc", "read", "transfer", "replay", "--rounds", "1", "--window", "2"])).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        let results: Value = serde_json::from_slice(&fs::read(home.path("results/results.json")).unwrap()).unwrap();
        let metrics = results["summaries"].as_array().unwrap().iter().flat_map(|it| it["metrics"].as_array().unwrap());
        let ids: Vec<_> = metrics.map(|metric| metric["id"].as_str().unwrap()).collect();
        assert!(["alloc", "transfer"].iter().all(|id| ids.contains(id)), "{ids:?}");
        assert_eq!(results["unsupported"][0]["reason"], "/read is answered with 404: this guest has no disk");
        assert_eq!(results["unsupported"].as_array().unwrap().len(), 1, "{results:#}");
        assert_eq!(traces(), Vec::<String>::new());
    });
}

/// A unikernel has a few dozen connections, and refuses more. A backlog waits in the daemon instead.
#[test]
fn a_backlog_of_the_unikernel_is_latency_and_no_failure() {
    isolated(async || {
        let home = Home::new();
        home.put(&working().into());
        let ran = cli::run(command(&home, &["load", "--rounds", "1", "--window", "1", "--rates", "4000"])).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        let results: Value = serde_json::from_slice(&fs::read(home.path("results/results.json")).unwrap()).unwrap();
        let metrics = results["summaries"][0]["metrics"].as_array().unwrap();
        let rows = metrics.iter().flat_map(|metric| metric["rows"].as_array().unwrap());
        let failures: Vec<_> = rows.map(|row| &row["failures"]).collect();
        let is_clean = |failures: &&Value| failures["by_status"] == serde_json::json!({}) && failures["attempts"] != 0;
        assert!(!failures.is_empty() && failures.iter().all(is_clean), "{results:#}");
    });
}

#[test]
fn nothing_is_left_of_a_run_that_a_signal_ends() {
    isolated(async || {
        for (signal, status) in [(Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
            let home = Home::new();
            home.put(&Vm::new("f", Kind::Microvm).into());
            let child = sampling(command(&home, &["cold", "--rounds", "100000"]), &home).await;
            assert!(!taps().is_empty(), "the machines are on taps");
            assert_eq!(ended_by(signal, child).await, status, "{signal}");
            eventually(TIMEOUT, "nothing is left", async || traces(), Vec::is_empty).await;
        }
    });
}
