//! Time limits: functions that do not fit have fewer rounds, and what is late is not run.

use std::time::Duration;

use integration::Function;
use serde_json::Value;
use tokio::time::Instant;

use super::Bench;

/// Returns what an experiment has of a function, of so many wanted rounds.
fn rounds(results: &Value, experiment: &str, function: &str, wanted: u64) -> u64 {
    let mut reductions = results["reductions"].as_array().unwrap().iter();
    let reduction = reductions.find(|it| it["experiment"] == experiment && it["function"] == function);
    reduction.map_or(wanted, |it| it["rounds"].as_u64().unwrap())
}

#[tokio::test]
async fn a_slow_function_has_fewer_rounds_and_the_time_limit_is_kept() {
    let bench = Bench::of([Function::new("fast"), Function::new("slow").flag("--boot-delay").flag("3000")]);
    let results = bench.run(&["cold", "--rounds", "20", "--budget", "0.8", "--path", "/pid"]).await;
    assert_eq!((&results["complete"], &results["plan"]["budget"]), (&Value::from(true), &Value::from(48.0)));
    let (fast, slow) = (rounds(&results, "cold", "fast", 20), rounds(&results, "cold", "slow", 20));
    // 21 rounds of it would take a minute and more. A slow machine has no time for any.
    assert!(slow < 20 && slow <= fast, "{slow} and {fast} rounds: {results:#}");
    let report = bench.report().await;
    let said = ["fewer rounds to end within 48 s: ", "as it does not fit into 48 s."];
    assert!(said.iter().any(|text| report.contains(text)) && report.contains("slow"), "{report}");
    let took = |row: &String| row.split(',').filter_map(|field| field.parse::<f64>().ok()).fold(0.0, f64::max);
    let samples = bench.samples("cold");
    assert!(samples.iter().all(|row| took(row) < 48e6), "times are microseconds since the begin: {samples:#?}");
}

#[tokio::test]
async fn a_function_that_stalls_does_not_delay_the_end() {
    let stalls = ["--stall-every", "100", "--slow-ms", "90000"];
    let function = stalls.into_iter().fold(Function::new("f"), |function, flag| function.flag(flag));
    let bench = Bench::of([function]);
    let began = Instant::now();
    let run =
        ["warm", "burst", "--rounds", "2", "--pairs", "150", "--bursts", "1", "--budget", "0.5", "--path", "/pid"];
    let results = bench.run(&run).await;
    assert!(began.elapsed() < Duration::from_secs(80), "{:?} of 30 s", began.elapsed());
    assert_eq!(results["complete"], true);
    let warnings = results["warnings"].as_array().unwrap();
    let is_late = |warning: &Value| warning == "warm: the time limit ended its last measurement, which is left out";
    assert!(warnings.iter().any(is_late), "{warnings:#?}");
    assert_eq!(rounds(&results, "burst", "f", 2), 0, "{results:#}");
    assert!(bench.report().await.contains("- burst was not run with f ("), "what is missing is a warning");
}
