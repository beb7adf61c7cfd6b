//! What a run writes, and what it leaves out.

use std::fs;

use integration::{Function, Setup, cli, unifaas};
use serde_json::Value;

use super::{Bench, bench_function, location, row};

#[tokio::test]
async fn a_run_writes_samples_figures_and_a_report() {
    let bench = Bench::of([Function::new("f").set("min-instances", 2).set("single-use", false)]);
    fs::write(bench.home.registry().join("f/file.txt"), "kept").unwrap();
    let results = bench
        .run(&["cold", "warm", "burst", "--rounds", "2", "--bursts", "1,4", "--pairs", "30", "--path", "/pid"])
        .await;
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

/// Every experiment, at its smallest.
#[tokio::test]
async fn every_experiment_has_figures_and_plots() {
    let bench = Bench::of([bench_function("f")]);
    let mut run = vec!["cpu", "alloc", "read", "unzip", "throughput", "load", "transfer", "memory", "idle"];
    run.extend(["--rounds", "1", "--connections", "1,8", "--rates", "50", "--instances", "0,2", "--window", "1"]);
    let results = bench.run(&run).await;
    assert_eq!((&results["complete"], &results["unsupported"]), (&Value::Bool(true), &serde_json::json!([])));
    for (id, variant) in [
        ("cpu-fib", "fib, first"),
        ("cpu-fft", "fft, second"),
        ("cpu-matrix", "matrix, first"),
        ("alloc", "alloc, second"),
        ("read", "read, first"),
        ("unzip", "unzip, second"),
        ("throughput", "daemon"),
        ("throughput", "direct"),
        ("load-p50", "rate"),
        ("transfer", "daemon"),
        ("transfer", "direct"),
        ("memory-pss", ""),
        ("idle-switches", ""),
    ] {
        let row = row(&results, id, "f", variant);
        assert!(
            location(row, "median") >= 0.0 && row["failures"]["by_status"] == serde_json::json!({}),
            "{id}: {row:#}"
        );
    }
    for plot in ["cpu-fib-box", "throughput", "load-p99", "transfer-box", "memory-steps", "idle-cpu-box"] {
        let svg = fs::read_to_string(bench.out.join(format!("plots/{plot}.svg"))).unwrap();
        assert!(svg.contains("</svg>") && !svg.contains("could not be drawn"), "{plot}: {svg}");
    }
}

#[tokio::test]
async fn functions_without_the_benchmark_function_are_measured_without_its_work() {
    let bench = Bench::of([Function::new("f")]);
    let results = bench.run(&["cold", "cpu", "--rounds", "1", "--path", "/pid"]).await;
    let unsupported = &results["unsupported"][0];
    assert_eq!((&unsupported["experiment"], &unsupported["function"]), (&"cpu".into(), &"f".into()), "{unsupported}");
    assert!(unsupported["reason"].as_str().unwrap().contains("is not that of the benchmark function"));
    assert_eq!(results["summaries"].as_array().unwrap().len(), 1);
    assert!(fs::read_to_string(bench.out.join("report.md")).unwrap().contains("cpu without f: "));
}

#[tokio::test]
async fn another_build_takes_part_in_the_same_rounds() {
    let bench = Bench::of([Function::new("f")]);
    let baseline = unifaas().display().to_string();
    let run = ["cold", "warm", "--rounds", "6", "--pairs", "5", "--baseline", &baseline, "--path", "/pid"];
    let results = bench.run(&run).await;
    for id in ["cold", "warm-daemon"] {
        let (own, other) = (row(&results, id, "f", ""), row(&results, id, "f.baseline", ""));
        assert_eq!((&own["against"], &own["rounds"]), (&"the baseline".into(), &6.into()), "{own:#}");
        assert!(own["comparison"]["ratio"].as_f64().is_some(), "{own:#}");
        assert!(other["comparison"].is_null() && other["rounds"] == 6, "{other:#}");
    }
    let table = fs::read_to_string(bench.out.join("tables/cold.md")).unwrap();
    assert!(table.contains("against the baseline") && table.contains("| f (baseline) |"), "{table}");
}

#[tokio::test]
async fn a_daemon_that_runs_already_is_measured() {
    let daemon = Setup::default().function(Function::new("f").set("single-use", true)).start().await;
    let (bench, url) = (Bench::of([]), format!("http://{}", daemon.listen));
    let run = ["cold", "warm", "memory", "--daemon", &url, "--rounds", "2", "--pairs", "5", "--path", "/pid"];
    let results = bench.run_remote(&run).await;
    assert_eq!(row(&results, "cold", "f", "cold")["rounds"], 2);
    // Without instances that stay there are no warm requests, and a table says so.
    let warm = row(&results, "warm-daemon", "f", "");
    assert_eq!((&warm["rounds"], warm["excluded"].as_u64().unwrap() > 0), (&0.into(), true), "{warm:#}");
    assert_eq!(results["unsupported"][0]["experiment"], "memory");
    assert!(daemon.log().contains("single") || daemon.get("/invoke/f/pid").await.status == 200, "it still serves");
}
