//! `/debug/boots` and `/debug/errors`: where starts spend their time, and what has failed.

use futures::future::join_all;
use integration::{Daemon, EventSource, Function, SOON, Setup, eventually, number};
use serde_json::Value;

const PHASES: [&str; 6] = ["admitted", "resources", "created", "started", "ready", "first_byte"];

/// Returns the end of a phase, in milliseconds.
fn end(boot: &Value, phase: &str) -> f64 {
    boot["phases"][phase].as_f64().unwrap_or_else(|| panic!("no {phase} in {boot}")) / 1e3
}

#[tokio::test]
async fn start_of_a_process_has_all_phases_in_order() {
    let function = Function::new("f").flag("--say").flag("hello").flag("--boot-delay").flag("1000");
    let daemon = Daemon::with(function).await;
    daemon.get("/invoke/f/pid").await.ok();
    let [boot] = daemon.boots("f").await.try_into().unwrap();
    assert_eq!(
        (&boot["kind"], &boot["cause"], &boot["result"]),
        (&"process".into(), &"caller".into(), &"ready".into())
    );
    let ends = PHASES.map(|phase| end(&boot, phase));
    assert!(ends.windows(2).all(|pair| pair[0] <= pair[1]), "{boot}");
    let (first_output, ready) = (end(&boot, "first_output"), end(&boot, "ready"));
    // A busy daemon reads the output late.
    assert!(ready - first_output >= 500.0, "it slept before its callback: {boot}");
    assert!(first_output >= end(&boot, "created"), "{boot}");
    let function = daemon.function("f").await;
    let boot_ms = function["boot_seconds"]["sum"].as_f64().unwrap() * 1e3;
    assert!((ready - end(&boot, "admitted") - boot_ms).abs() < 1.0, "{boot_ms} ms: {boot}");

    let id = boot["instance"].as_str().unwrap();
    let instance = daemon.get(&format!("/debug/instances/{id}")).await.ok().json();
    assert_eq!(instance["boot"], boot);
    let slowest = daemon.get("/debug/boots?function=f&limit=1").await.ok().json()["slowest"].clone();
    assert_eq!(slowest, serde_json::json!([boot]));
}

#[tokio::test]
async fn wait_for_memory_is_in_admitted() {
    let functions = ["a", "b"].map(|name| Function::new(name).process("memory", 64));
    let setup = functions.into_iter().fold(Setup::default().option("--memory-budget", "64"), Setup::function);
    let daemon = setup.start().await;
    daemon.get("/invoke/a/pid").await.ok();
    let (busy, waited) = futures::join!(daemon.get("/invoke/a/sleep?ms=500"), async {
        daemon.until("a", "busy", 1).await;
        daemon.get("/invoke/b/pid").await
    });
    busy.ok();
    waited.ok();
    let (a, b) = (daemon.boots("a").await.remove(0), daemon.boots("b").await.remove(0));
    assert!(end(&a, "admitted") < 100.0, "{a}");
    assert!(end(&b, "admitted") > 300.0 && end(&b, "ready") - end(&b, "admitted") < end(&b, "admitted"), "{b}");
}

#[tokio::test]
async fn failed_start_ends_at_its_last_phase() {
    let crash = Function::new("crash").flag("--say").flag("no-config").flag("--exit-at-boot").flag("3");
    let missing = Function::verbatim("missing", "[process]\ncommand = [\"no-such-program\"]\n");
    let daemon = Setup::default().function(crash).function(missing).start().await;
    daemon.get("/invoke/crash/").await.problem(502, "boot_failed");
    daemon.get("/invoke/missing/").await.problem(502, "start_failed");
    let crash = daemon.boots("crash").await.remove(0);
    assert_eq!((&crash["result"], &crash["exit"]), (&"boot_failed".into(), &"exited with status 3".into()));
    assert!(crash["phases"].get("ready").is_none() && end(&crash, "started") > 0.0, "{crash}");
    assert!(number(&crash, "took_us") >= number(&crash["phases"], "first_output"), "{crash}");
    let missing = daemon.boots("missing").await.remove(0);
    assert_eq!(missing["result"], "launch_failed");
    assert!(missing["exit"].as_str().unwrap().contains("no-such-program"), "{missing}");
    assert!(missing["phases"].get("started").is_none() && end(&missing, "resources") > 0.0, "{missing}");
}

#[tokio::test]
async fn instances_mark_times_of_their_own() {
    let mut function = Function::new("f").set("min-instances", 1).flag("--boot-delay").flag("100");
    for line in ["unifaas-mark: imports done", "unifaas-mark: model loaded", "unifaas-marked: no"] {
        function = function.flag("--say").flag(line);
    }
    let daemon = Daemon::with(function).await;
    daemon.until("f", "idle", 1).await;
    let boot = daemon.boots("f").await.remove(0);
    assert_eq!(boot["cause"], "minimum");
    let marks = boot["marks"].as_array().unwrap();
    let names: Vec<_> = marks.iter().map(|mark| mark["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["imports done", "model loaded"]);
    assert!(marks.iter().all(|mark| number(mark, "at_us") < number(&boot["phases"], "ready")), "{boot}");
}

#[tokio::test]
async fn records_of_many_starts_are_bounded() {
    let daemon = Daemon::with(Function::new("f").set("single-use", true).set("stop-grace", 0)).await;
    for _ in 0..12 {
        // Another test may take the port of an instance, whose start is remembered as well then.
        join_all((0..50).map(|_| daemon.get("/invoke/f/pid"))).await;
    }
    let page = daemon.get("/debug/boots?limit=1000").await.ok().json();
    assert_eq!(page["boots"].as_array().unwrap().len(), 512);
    let slowest: Vec<_> = page["slowest"].as_array().unwrap().iter().map(|boot| number(boot, "took_us")).collect();
    assert!(slowest.len() == 4 && slowest.is_sorted_by(|a, b| a >= b), "{slowest:?}");
    assert_eq!(daemon.get("/debug/boots").await.ok().json()["boots"].as_array().unwrap().len(), 100);
}

/// Returns the groups of failures.
async fn errors(daemon: &Daemon, query: &str) -> Vec<Value> {
    let page = daemon.get(&format!("/debug/errors{query}")).await.ok().json();
    page["errors"].as_array().unwrap().clone()
}

#[tokio::test]
async fn failures_are_grouped() {
    let crash = Function::new("crash").flag("--exit-at-boot").flag("3");
    let daemon = Setup::default().function(crash).function(Function::new("f")).start().await;
    assert_eq!(errors(&daemon, "").await, [Value::Null; 0]);
    let mut last = Value::Null;
    // The last ones find the function failing, with the same reason.
    for _ in 0..5 {
        last = daemon.get("/invoke/crash/").await.problem(502, "boot_failed");
    }
    daemon.get("/invoke/f/status/500").await;
    daemon.post("/invoke/f/exit?code=9", "").await.problem(502, "instance_failed");
    daemon.get("/invoke/f/pid").await.ok();
    let all = errors(&daemon, "").await;
    let shown: Vec<_> = all
        .iter()
        .map(|group| (group["function"].as_str().unwrap(), group["code"].as_str().unwrap(), number(group, "count")))
        .collect();
    assert_eq!(shown, [("f", "instance_failed", 1), ("f", "function_error", 1), ("crash", "boot_failed", 5)]);
    let crash = &errors(&daemon, "?function=crash").await[0];
    assert!(crash["message"].as_str().unwrap().ends_with("exited with status 3"), "{crash}");
    assert_eq!((&crash["request_id"], &crash["instance"]), (&last["request_id"], &last["instance"]));
    let time = |name: &str| humantime::parse_rfc3339(crash[name].as_str().unwrap()).unwrap();
    assert!(time("first") < time("last"), "{crash}");
    assert!(all[0]["message"].as_str().unwrap().contains("exited with status 9"), "{all:?}");
}

#[tokio::test]
async fn failed_start_of_the_minimum_is_remembered_without_a_request() {
    let function = Function::new("f").set("min-instances", 1).flag("--exit-at-boot").flag("3");
    let daemon = Daemon::with(function).await;
    let look = async || errors(&daemon, "").await;
    let found = eventually(SOON, "the failure is remembered", look, |errors| !errors.is_empty()).await;
    assert_eq!((&found[0]["code"], &found[0]["request_id"]), (&"boot_failed".into(), &Value::Null), "{found:?}");
    assert!(found[0]["instance"].is_string());
}

#[tokio::test]
async fn starts_and_failures_are_events() {
    let daemon = Setup::default().function(Function::new("f")).function(Function::new("g")).start().await;
    let mut stream = EventSource::open(&daemon, "/debug/events?topics=boot,error,log&function=f").await;
    daemon.get("/invoke/g/pid").await.ok();
    daemon.get("/invoke/f/pid").await.ok();
    let boot = stream.until("boot", |_| true).await;
    assert_eq!((&boot.data["function"], &boot.data["result"]), (&"f".into(), &"ready".into()));
    daemon.post("/invoke/f/exit?code=3", "").await.problem(502, "instance_failed");
    let error = stream.until("error", |_| true).await;
    assert_eq!((&error.data["code"], number(&error.data, "count")), (&"instance_failed".into(), 1));

    // A reader that goes on behind the start gets all that followed, in order.
    let path = "/debug/events?topics=boot,error,log&function=f";
    let mut resumed = EventSource::resume(&daemon, path, boot.id).await;
    let mut ids = vec![boot.id];
    loop {
        let event = resumed.next().await.unwrap();
        assert!(event.id > *ids.last().unwrap(), "{event:?}");
        ids.push(event.id);
        if event == error {
            break;
        }
    }
}
