//! Traces, keep-alive policies in real and in virtual time, and the comparison of two folders.

use std::{fs, path::Path};

use integration::{Function, cli};
use serde_json::Value;

use super::{Bench, bench_function, location, row};

/// Runs `unifaas bench` with these words.
async fn bench(words: &[&str]) -> cli::Ran {
    cli::run(cli::bare(&[&["bench"], words].concat())).await
}

#[tokio::test]
async fn policies_have_the_cold_starts_and_the_memory_of_their_trace() {
    let run = Bench::of([bench_function("f")]);
    let trace = run.home.path("trace.csv");
    fs::write(&trace, "time_s,function,duration_ms\n0,a,20\n4,a,20\n14,a,20\n").unwrap();
    let trace = trace.display().to_string();
    let words = ["replay", "--rounds", "1", "--window", "17", "--simulate", "--trace", &trace];
    let policies = ["--policy", "keepalive=6,keepalive=600", "--policy", "keepalive=600+min-instances=1"];
    let results = run.run(&[&words[..], &policies].concat()).await;
    let cold = |policy: &str| location(row(&results, "replay-cold", "f", policy), "median").round();
    // The gaps are 4 s and 10 s.
    assert_eq!(["keepalive=6", "keepalive=600", "keepalive=600+min-instances=1"].map(cold), [67.0, 33.0, 0.0]);
    let memory = |policy: &str| location(row(&results, "replay-memory", "f", policy), "median");
    // 128 MiB over 17 s, or from 0 to 10 and from 14 to 17.
    let (long, short) = (memory("keepalive=600"), memory("keepalive=6"));
    assert!((1900.0..2200.0).contains(&long), "{long} MiB s");
    assert!((0.65..0.9).contains(&(short / long)), "{short} and {long} MiB s");
    let summary = &results["summaries"][0];
    let simulation = summary["details"].as_array().unwrap().iter().find(|it| it["id"] == "replay-simulation").unwrap();
    let rows = simulation["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{simulation:#}");
    for row in rows {
        let (points, percent) = (row["values"][2].as_f64().unwrap(), row["values"][5].as_f64().unwrap());
        assert!(points.abs() < 0.01 && percent.abs() < 15.0, "virtual time differs: {row:#}");
    }
    let plot = fs::read_to_string(run.out.join("plots/replay-pareto.svg")).unwrap();
    assert!(plot.contains("</svg>") && !plot.contains("could not be drawn"), "{plot}");
}

#[tokio::test]
async fn traces_are_made_and_converted() {
    let home = integration::Home::new();
    let path = |name: &str| home.path(name).display().to_string();
    let (one, other, broken) = (path("one.csv"), path("other.csv"), path("broken.csv"));
    for out in [&one, &other] {
        bench(&["trace", "generate", "--minutes", "5", "--seed", "3", "--out", out]).await.ok();
    }
    let text = fs::read_to_string(&one).unwrap();
    assert!(text.lines().count() > 100 && text == fs::read_to_string(&other).unwrap());
    fs::write(&broken, "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,2,3\no,a,g,http,1,x\n").unwrap();
    let failed = bench(&["trace", "convert", &broken, "--from", "azure2019"]).await;
    assert!(failed.status == Some(1) && failed.err.contains("line 3: expected a count"), "{failed:?}");
    let run = Bench::of([bench_function("f")]);
    let refused = cli::run(run.command(&["replay", "--trace", &broken])).await;
    assert!(refused.status == Some(1) && refused.err.contains("line 1: expected time_s"), "{refused:?}");
    assert!(!run.out.exists(), "no folder is left of a run that cannot begin");
}

/// Copies a folder of results, with cold starts of about so many seconds: what was measured depends on what else the machine
/// does.
fn with_starts_of(seconds: f64, from: &Path, to: &Path) {
    fs::create_dir_all(to.join("samples")).unwrap();
    fs::copy(from.join("results.json"), to.join("results.json")).unwrap();
    let text = fs::read_to_string(from.join("samples/cold.csv")).unwrap();
    let header: Vec<_> = text.lines().next().unwrap().split(',').collect();
    let place = |name| header.iter().position(|column| *column == name).unwrap();
    let (c0, t1) = (place("c0"), place("t1"));
    let changed = text.lines().enumerate().map(|(number, line)| {
        let mut cells: Vec<_> = line.split(',').map(str::to_owned).collect();
        if let (Ok(began), Ok(_)) = (cells[c0].parse::<f64>(), cells[t1].parse::<f64>()) {
            // They differ by up to 0.6 %.
            let microseconds = seconds * (1e6 + 1e3 * (number % 7) as f64);
            cells[t1] = (began + microseconds).to_string();
        }
        cells.join(",") + "\n"
    });
    fs::write(to.join("samples/cold.csv"), changed.collect::<String>()).unwrap();
}

#[tokio::test]
async fn a_slower_folder_is_a_regression_and_another_machine_is_refused() {
    let run = Bench::of([Function::new("f")]);
    run.run(&["cold", "--rounds", "12", "--path", "/pid"]).await;
    let [before, after] = ["before", "after"].map(|name| run.home.path(name));
    with_starts_of(1.0, &run.out, &before);
    let [before_text, after_text] = [&before, &after].map(|path| path.display().to_string());
    let same = bench(&["compare", &before_text, &before_text]).await;
    assert!(same.status == Some(0) && same.out.contains(" 0 worse, 0 better"), "{same:?}");
    with_starts_of(1.02, &run.out, &after);
    let little = bench(&["compare", &before_text, &after_text]).await;
    assert!(little.status == Some(0) && little.out.contains(" 0 worse, 0 better"), "{little:?}");
    with_starts_of(1.2, &run.out, &after);
    let worse = bench(&["compare", &before_text, &after_text]).await;
    assert!(worse.status == Some(3) && worse.out.contains("| **worse** |"), "{worse:?}");
    let path = after.join("results.json");
    let mut results: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    results["machine"]["processors"] = 64.into();
    fs::write(&path, results.to_string()).unwrap();
    let refused = bench(&["compare", &before_text, &after_text]).await;
    assert!(refused.status == Some(2) && refused.err.contains("the machines differ"), "{refused:?}");
    let forced = bench(&["compare", &before_text, &after_text, "--force"]).await;
    assert!(forced.status == Some(0) && forced.out.contains("No judgements"), "{forced:?}");
}
