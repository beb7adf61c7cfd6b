//! Lines of the log about requests, and `server-timing`.

use futures::future::join_all;
use integration::{Daemon, Function, SOON, Setup, empty, eventually, ms, number, request};
use serde_json::Value;

/// Returns the lines about requests of a function so far.
fn lines(daemon: &Daemon, function: &str) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let is_about = |line: &Value| line["function"] == function && line["msg"].as_str().unwrap().starts_with("request");
    lines.filter(is_about).collect()
}

/// Waits until so many lines about requests of a function are written.
async fn written(daemon: &Daemon, function: &str, count: usize) -> Vec<Value> {
    let look = async || lines(daemon, function);
    eventually(SOON, format!("{count} lines"), look, |lines| lines.len() >= count).await
}

fn logging(mode: &str) -> Setup {
    Setup::default().option("--access-log", mode)
}

/// Panics if a number of the line has more than three decimals.
fn check_numbers(line: &Value) {
    for (name, value) in line.as_object().unwrap() {
        if let Some(number) = value.as_f64() {
            assert_eq!((number * 1e3).round() / 1e3, number, "{name} in {line}");
        }
    }
}

#[tokio::test]
async fn all_requests_are_logged_with_where_their_time_went() {
    let daemon = logging("all").function(Function::new("f").flag("--boot-delay").flag("100")).start().await;
    daemon.get("/invoke/f/sleep?ms=50&secret=x").await.ok();
    daemon.post("/invoke/f/echo", &"x".repeat(1234)).await.ok();
    daemon.get("/invoke/f/status/503").await;
    let [cold, warm, failed] = written(&daemon, "f", 3).await.try_into().unwrap();
    let instance = daemon.instances("f").await[0]["id"].clone();

    assert_eq!((&cold["method"], &cold["path"]), (&"GET".into(), &"/invoke/f/sleep".into()), "{cold}");
    assert_eq!((&cold["status"], &cold["function_status"], &cold["outcome"]), (&200.into(), &200.into(), &"ok".into()));
    assert_eq!((&cold["cold"], &cold["instance"]), (&true.into(), &instance), "{cold}");
    assert!(cold["boot_ms"].as_f64().unwrap() >= 100.0 && cold["upstream_ms"].as_f64().unwrap() >= 50.0, "{cold}");
    assert!(cold["ms"].as_f64().unwrap() >= 150.0 && cold["queue_ms"].as_f64().unwrap() < 100.0, "{cold}");

    assert_eq!((&warm["method"], &warm["cold"], &warm["bytes"]), (&"POST".into(), &false.into(), &1234.into()));
    assert_eq!((&warm["boot_ms"], &warm["queue_ms"]), (&0.0.into(), &0.0.into()), "{warm}");
    assert_eq!((&failed["status"], &failed["function_status"]), (&503.into(), &503.into()), "{failed}");
    [cold, warm, failed].iter().for_each(check_numbers);
}

#[tokio::test]
async fn failed_requests_are_logged_by_default() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon.get("/invoke/f/status/404").await;
    daemon.get("/invoke/f/status/500").await;
    daemon.send(request("POST", "/invoke/f/truncate?ms=10", empty())).await.unwrap_err();
    daemon.post("/invoke/f/exit?code=3", "").await.problem(502, "instance_failed");
    let [answered, broken, crashed] = written(&daemon, "f", 3).await.try_into().unwrap();
    assert_eq!((&answered["status"], &answered["function_status"]), (&500.into(), &500.into()), "{answered}");
    assert_eq!((&answered["outcome"], &answered["times"]), (&"ok".into(), &1.into()), "{answered}");
    assert_eq!((&broken["status"], &broken["outcome"]), (&200.into(), &"instance_failed".into()), "{broken}");
    assert_eq!((&broken["function_status"], &broken["bytes"]), (&200.into(), &10.into()), "{broken}");
    assert_eq!((&crashed["status"], &crashed["outcome"]), (&502.into(), &"instance_failed".into()), "{crashed}");
    assert!(crashed.get("function_status").is_none() && crashed["error"].as_str().unwrap().contains("status 3"));
    assert!(crashed["instance"].is_string() && crashed["output"].is_string(), "{crashed}");
    check_numbers(&crashed);
}

#[tokio::test]
async fn no_request_is_logged_if_switched_off() {
    let daemon = logging("off").function(Function::new("f")).start().await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon.get("/invoke/f/status/500").await;
    daemon.post("/invoke/f/exit?code=3", "").await.problem(502, "instance_failed");
    daemon.logged_line("instance ended by itself").await;
    assert_eq!(lines(&daemon, "f"), [Value::Null; 0]);
    let errors = daemon.get("/debug/errors").await.ok().json();
    assert_eq!(errors["errors"].as_array().unwrap().len(), 2, "they are remembered: {errors}");
}

#[tokio::test]
async fn equal_failures_have_one_line_with_their_number() {
    let busy = Function::new("f").set("max-instances", 1).set("queue", 1);
    let daemon = Daemon::with(busy).await;
    daemon.get("/invoke/f/pid").await.ok();
    let statuses = join_all((0..200).map(|_| async { daemon.get("/invoke/f/sleep?ms=20").await.status })).await;
    let refused = statuses.iter().filter(|status| **status == 429).count() as u64;
    assert!(refused > 50, "{statuses:?}");
    let lines = written(&daemon, "f", 2).await;
    let times: u64 = lines.iter().map(|line| number(line, "times")).sum();
    assert_eq!((lines.len(), times), (2, refused), "{lines:?}");
    assert_eq!((&lines[1]["msg"], &lines[1]["outcome"]), (&"requests failed".into(), &"function_saturated".into()));
}

/// Returns an entry of `server-timing`, and its description.
fn entry(timing: &str, name: &str) -> Option<(f64, Option<String>)> {
    let entry = timing.split(',').map(str::trim).find(|entry| entry.split(';').next() == Some(name))?;
    let of = |key: &str| entry.split(';').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    Some((of("dur")?.parse().ok()?, of("desc").map(|text| text.trim_matches('"').to_owned())))
}

async fn timing(daemon: &Daemon, path: &str) -> String {
    daemon.get(path).await.ok().header("server-timing").unwrap()
}

#[tokio::test]
async fn waits_for_slots_and_for_the_host_are_told_apart() {
    let small = Setup::default().option("--memory-budget", "200");
    let one = Function::new("one").set("max-instances", 1).process("memory", 100);
    let greedy = Function::new("greedy").process("memory", 200).ends_after(0.05);
    let daemon = small.function(one).function(greedy).start().await;
    daemon.get("/invoke/one/pid").await.ok();
    let (_, waited) = futures::join!(daemon.get("/invoke/one/sleep?ms=400"), async {
        tokio::time::sleep(ms(50)).await;
        timing(&daemon, "/invoke/one/pid").await
    });
    let (queue, reason) = entry(&waited, "queue").unwrap();
    assert!(queue > 100.0 && reason.as_deref() == Some("slot"), "{waited}");
    assert!(entry(&waited, "boot").unwrap().0 == 0.0 && entry(&waited, "boot-ready").is_none(), "{waited}");

    // The memory of `one` is released when it has served.
    let (_, waited) = futures::join!(daemon.get("/invoke/one/sleep?ms=400"), async {
        tokio::time::sleep(ms(50)).await;
        timing(&daemon, "/invoke/greedy/pid").await
    });
    let (queue, reason) = entry(&waited, "queue").unwrap();
    assert!(queue > 100.0 && reason.as_deref() == Some("host"), "{waited}");
    assert!(entry(&waited, "boot").unwrap().0 > 0.0, "{waited}");
}

#[tokio::test]
async fn cold_request_gets_the_phases_of_its_boot() {
    let daemon = Daemon::with(Function::new("f").flag("--say").flag("hello").flag("--boot-delay").flag("200")).await;
    let cold = timing(&daemon, "/invoke/f/pid").await;
    let boot = entry(&cold, "boot").unwrap().0;
    let phases = ["boot-resources", "boot-created", "boot-started", "boot-first-output", "boot-ready"];
    let durations = phases.map(|phase| entry(&cold, phase).unwrap_or_else(|| panic!("no {phase} in {cold}")).0);
    assert!((durations.iter().sum::<f64>() - boot).abs() < 0.01, "they add up to the boot: {cold}");
    assert!(durations[4] >= 190.0, "it slept between its first output and its callback: {cold}");
    let warm = timing(&daemon, "/invoke/f/pid").await;
    assert!(phases.iter().all(|phase| entry(&warm, phase).is_none()), "{warm}");
    assert_eq!(entry(&warm, "queue"), Some((0.0, None)));
}

#[tokio::test]
async fn path_in_log_is_bounded() {
    let daemon = logging("all").function(Function::new("f")).start().await;
    daemon.get(&format!("/invoke/f/{}", "x".repeat(20_000))).await.ok();
    let lines = written(&daemon, "f", 1).await;
    assert_eq!(lines[0]["path"].as_str().unwrap().len(), 1024);
}
