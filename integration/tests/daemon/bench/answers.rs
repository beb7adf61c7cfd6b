//! Known answers: what functions are made to do is what is measured. Differences between functions, so that slow machines pass.

use integration::Function;

use super::{Bench, bench_function, location, metric, row};

/// Runs at most. Other work only adds to a time, so the fastest of all requests so far is as near to the answer as a quiet
/// moment was, and each run adds some.
const RUNS: u32 = 8;

/// Keeps the fastest of some contestants.
fn keep_fastest<const N: usize>(fastest: &mut [f64; N], found: [f64; N]) {
    fastest.iter_mut().zip(found).for_each(|(kept, found)| *kept = kept.min(found));
}

#[tokio::test]
async fn a_later_callback_is_a_slower_cold_start() {
    let delayed = |name: &str, ms: &str| Function::new(name).flag("--boot-delay").flag(ms);
    let (mut fastest, mut seen) = ([f64::INFINITY; 2], Vec::new());
    for _ in 0..RUNS {
        let bench = Bench::of([delayed("early", "50"), delayed("late", "150")]);
        let results = bench.run(&["cold", "--rounds", "15", "--path", "/pid"]).await;
        let details = &results["summaries"][0]["details"][0];
        let boot = |name: &str| {
            let rows = details["rows"].as_array().unwrap();
            let row = rows.iter().find(|row| row["function"] == name && row["variant"] == "cold").unwrap();
            row["values"][2].as_f64().unwrap()
        };
        assert!(boot("early") > 50.0 && boot("late") > 150.0, "the delay is a part of the boot: {details:#}");
        keep_fastest(&mut fastest, ["early", "late"].map(|name| location(row(&results, "cold", name, "cold"), "min")));
        if (97.0..=103.0).contains(&(fastest[1] - fastest[0])) {
            return;
        }
        seen.push(fastest);
    }
    panic!("not 100 ms: {seen:?}");
}

/// Returns the fastest requests for a delay, directly and through the daemon.
async fn fastest_of(delay: &str) -> [f64; 2] {
    let bench = Bench::of([bench_function("f")]);
    let results = bench.run(&["warm", "--rounds", "1", "--pairs", "100", "--path", delay]).await;
    ["warm-direct", "warm-daemon"].map(|id| location(row(&results, id, "f", ""), "min"))
}

#[tokio::test]
async fn known_delays_are_measured() {
    let (mut short, mut long, mut seen) = ([f64::INFINITY; 2], [f64::INFINITY; 2], Vec::new());
    for _ in 0..RUNS {
        keep_fastest(&mut short, fastest_of("/delay?us=5000").await);
        keep_fastest(&mut long, fastest_of("/delay?us=20000").await);
        // Directly and through the daemon.
        if (0..2).all(|way| (14.7..=15.3).contains(&(long[way] - short[way]))) {
            return;
        }
        seen.push((short, long));
    }
    panic!("not 15 ms: {seen:?}");
}

#[tokio::test]
async fn memory_that_functions_hold_is_the_slope() {
    let holding = |name: &str, mib: &str| Function::new(name).flag("--allocate").flag(mib);
    let bench = Bench::of([holding("little", "8"), holding("much", "40")]);
    let results = bench.run(&["memory", "--rounds", "1", "--instances", "0,3,6", "--path", "/pid"]).await;
    let slope = |name| location(row(&results, "memory-pss", name, ""), "median");
    let difference = slope("much") - slope("little");
    assert!((difference / 32.0 - 1.0).abs() <= 0.03, "{difference} MiB of 32");
}

#[tokio::test]
async fn work_of_idle_instances_is_measured() {
    let bench = Bench::of([Function::new("idle"), Function::new("works").flag("--work").flag("10")]);
    let run = ["idle", "--rounds", "1", "--instances", "2", "--window", "5", "--path", "/pid"];
    let results = bench.run(&run).await;
    let used = |name| location(row(&results, "idle-cpu", name, ""), "median");
    // In percent of a processor: 10 ms in each 100, which are 100,000 us in each second.
    let difference = (used("works") - used("idle")) / 10_000.0;
    assert!((9.0..=11.0).contains(&difference), "{difference} % of 10 %");
    assert!(used("idle") < 10_000.0, "{}", used("idle"));
}

/// Returns a quantile of the open load in milliseconds.
fn of_load(results: &serde_json::Value, column: &str) -> f64 {
    detail(results, "load", "load-quantiles", column)
}

/// Returns the first value of a column of details.
fn detail(results: &serde_json::Value, experiment: &str, id: &str, column: &str) -> f64 {
    let summaries = results["summaries"].as_array().unwrap();
    let summary = summaries.iter().find(|summary| summary["experiment"] == experiment).unwrap();
    let details = summary["details"].as_array().unwrap().iter().find(|details| details["id"] == id).unwrap();
    let place = details["columns"].as_array().unwrap().iter().position(|name| name == column).unwrap();
    let row = details["rows"].as_array().unwrap().iter().find(|row| row["variant"] != "direct").unwrap();
    row["values"][place].as_f64().unwrap_or_else(|| panic!("no {column}: {details:#}"))
}

#[tokio::test]
async fn one_slow_answer_in_a_hundred_is_found() {
    let bench = Bench::of([Function::new("f").flag("--slow-every").flag("100")]);
    let run = ["load", "--rounds", "1", "--rates", "200", "--window", "10", "--path", "/pid"];
    let results = bench.run(&run).await;
    let (middle, slow) = (of_load(&results, "p50"), of_load(&results, "p99.5"));
    assert!(slow >= 200.0 && middle < 150.0, "{middle} and {slow} ms");
    let sent = of_load(&results, "sent/s");
    assert!((150.0..250.0).contains(&sent), "{sent} of 200 per second");
}

/// A closed loop over one connection sends nothing while the server stops, so one request of many is slow. An open loop sees
/// all that should have been sent meanwhile.
#[tokio::test]
async fn coordinated_omission_is_caught() {
    let stalls = ["--stall-every", "600", "--slow-ms", "1000"];
    let function = stalls.into_iter().fold(Function::new("f"), |function, flag| function.flag(flag));
    let bench = Bench::of([function]);
    let mut run = vec!["throughput", "load", "--rounds", "1", "--rates", "100", "--connections", "1", "--window", "10"];
    run.extend(["--path", "/pid"]);
    let results = bench.run(&run).await;
    let (closed, open) = (detail(&results, "throughput", "throughput-loop", "p99, ms"), of_load(&results, "p99"));
    assert!(open > 800.0 && closed < 400.0, "{open} ms open, {closed} ms closed");
    let row = row(&results, "load-p99", "f", "");
    assert_eq!(row["failures"]["by_status"], serde_json::json!({}), "{row:#}");
    assert_eq!(metric(&results, "load-p99")["count"], "load");
}
