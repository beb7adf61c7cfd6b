//! `/debug`: documented names, and their values.

use futures::future::join_all;
use integration::{Daemon, Function, Setup, empty, number, request};
use serde_json::Value;
use tokio::time::Instant;

const CODES: [&str; 18] = [
    "ok",
    "client_gone",
    "function_misconfigured",
    "function_saturated",
    "host_saturated",
    "draining",
    "start_failed",
    "boot_failed",
    "boot_timed_out",
    "queue_timed_out",
    "instance_failed",
    "function_timed_out",
    "bad_request",
    "body_too_large",
    "request_timed_out",
    "internal",
    "peer_failed",
    "peer_timed_out",
];

#[track_caller]
fn has(value: &Value, members: &[&str]) {
    for member in members {
        assert!(value.get(member).is_some(), "no {member} in {value}");
    }
}

/// Returns the keys of the table with this head in docs/observability.md, in alphabetical order. Left out are those that only
/// functions with a certain key have: their text begins "with".
fn documented(head: &str) -> Vec<&'static str> {
    let pages = include_str!("../../../docs/observability.md");
    let (_, table) = pages.split_once(&format!("\n| {head} | |\n| --- | --- |\n")).expect("the table exists");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let always = rows.filter(|row| row.split('|').nth(2).is_some_and(|text| !text.starts_with(" with `")));
    let first = always.filter_map(|row| row.split('|').nth(1));
    let mut keys: Vec<_> = first.flat_map(|column| column.split('`').skip(1).step_by(2)).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn is_as_documented(value: &Value, head: &str) {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, documented(head), "keys of {head} in /debug and in docs/observability.md");
}

#[tokio::test]
async fn shows_exactly_the_documented_keys() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let debug = daemon.debug().await;
    is_as_documented(&debug["daemon"], "`daemon`");
    is_as_documented(&debug["functions"]["f"], "function");
    is_as_documented(&debug["functions"]["f"]["instances"][0], "instance");
    let errors = include_str!("../../../docs/http.md");
    for code in CODES.iter().filter(|code| !["ok", "client_gone"].contains(code)) {
        assert!(errors.contains(&format!(" | `{code}` | ")), "docs/http.md lacks {code}");
    }
}

#[tokio::test]
async fn shows_daemon_functions_and_instances() {
    let daemon = Setup::default()
        .function(Function::new("f").set("concurrent-requests", 2).flag("--say").flag("hello from the function"))
        .function(Function::verbatim("bad", "nonsense = 1\n"))
        .start()
        .await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let reply = daemon.get("/debug").await.ok();
    assert!(reply.header("content-type").unwrap().starts_with("application/json"));
    let debug = reply.json();

    has(&debug["daemon"], &["version", "pid", "uptime_seconds", "settings", "callbacks_refused"]);
    assert_eq!(number(&debug["daemon"], "pid"), u64::from(daemon.pid));
    assert!(debug["daemon"]["uptime_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 60.0));
    assert!(debug["daemon"]["settings"].to_string().contains(&*daemon.home.registry().to_string_lossy()));

    let f = &debug["functions"]["f"];
    has(f, &["state", "spec", "revision", "waiting", "counters", "instances_started", "callbacks_refused"]);
    assert_eq!((&f["state"], &f["spec"]["concurrent_requests"]), (&"serving".into(), &2.into()));
    for code in CODES {
        let expected = u64::from(code == "ok");
        assert_eq!(number(&f["counters"], code), expected, "{code}");
    }
    assert_eq!(number(&f["counters"], "requests"), 1);

    let boots = &f["boot_seconds"];
    assert_eq!((number(boots, "count"), number(&boots["buckets"], "+Inf")), (1, 1));
    assert!(boots["sum"].as_f64().is_some_and(|sum| sum > 0.0 && sum < 10.0), "{boots}");
    let buckets = boots["buckets"].as_object().unwrap();
    let mut bounds: Vec<(f64, u64)> = buckets
        .iter()
        .map(|(bound, count)| (bound.trim_start_matches('+').parse().unwrap(), count.as_u64().unwrap()))
        .collect();
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(bounds.len() > 5 && bounds.windows(2).all(|pair| pair[0].1 <= pair[1].1), "not cumulative: {bounds:?}");

    let instance = &f["instances"][0];
    has(instance, &["id", "state", "since_seconds", "epoch", "revision", "pid", "engine_id", "address", "in_flight"]);
    has(instance, &["served", "output", "resources"]);
    assert_eq!((&instance["state"], number(instance, "pid")), (&"idle".into(), u64::from(pid)));
    assert_eq!((number(instance, "served"), number(instance, "in_flight")), (1, 0));
    assert!(
        instance["output"].as_array().unwrap().iter().any(|line| line.to_string().contains("hello from the function"))
    );
    let address = instance["address"].as_str().unwrap();
    assert!(instance["resources"].to_string().contains(address), "the port is a resource: {instance}");

    let bad = &debug["functions"]["bad"];
    assert_eq!(bad["state"], "misconfigured");
    assert!(bad["reason"].as_str().unwrap().contains("nonsense"));
}

#[tokio::test]
async fn summary_selects_by_states_that_exist() {
    let daemon = Setup::default()
        .function(Function::new("f"))
        .function(Function::verbatim("bad", "nonsense = 1\n"))
        .start()
        .await;
    for (state, name) in [("serving", Some("f")), ("misconfigured", Some("bad")), ("failing", None)] {
        let page = daemon.get(&format!("/debug/summary?state={state}")).await.ok().json();
        let names: Vec<_> = page["functions"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, name.into_iter().collect::<Vec<_>>(), "{state}");
    }
    let problem = daemon.get("/debug/summary?state=foo").await.problem(400, "bad_request");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("state=foo: expected one of serving, failing, misconfigured, draining"), "{detail}");
}

#[tokio::test]
async fn functions_and_instances_have_own_pages() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let whole = daemon.debug().await["functions"]["f"].clone();
    let part = daemon.function("f").await;
    assert_eq!((&whole["counters"], &whole["spec"]), (&part["counters"], &part["spec"]));
    let id = part["instances"][0]["id"].as_str().unwrap();
    let instance = daemon.get(&format!("/debug/instances/{id}")).await.ok().json();
    assert_eq!((&instance["id"], &instance["function"]), (&id.into(), &"f".into()));
    assert_eq!(instance["pid"], part["instances"][0]["pid"]);
    for path in ["/debug/functions/g", "/debug/functions/", "/debug/instances/0000000000000000", "/debug/instances/x"] {
        assert_eq!(daemon.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn shows_waiting_and_running_requests() {
    let function = Function::new("f").set("max-instances", 1).flag("--boot-delay").flag("600");
    let daemon = Daemon::with(function.ends_after(0.3)).await;
    let requests = futures::future::join(daemon.get("/invoke/f/sleep?ms=800"), daemon.get("/invoke/f/pid"));
    let watch = async {
        let booting = daemon.until("f", "booting", 1).await;
        assert!(number(&booting, "waiting") >= 1);
        let busy = daemon.until("f", "busy", 1).await;
        assert_eq!(number(&busy["instances"][0], "in_flight"), 1);
        assert!(number(&busy["instances"][0], "epoch") > number(&booting["instances"][0], "epoch"));
        assert!(busy["instances"][0]["since_seconds"].as_f64().is_some_and(|seconds| seconds < 2.0));
    };
    let ((first, second), ()) = futures::join!(requests, watch);
    first.ok();
    second.ok();
    daemon.until("f", "idle", 1).await;
    daemon.settled("f", "none left", |f| f["instances"] == serde_json::json!([])).await;
}

#[tokio::test]
async fn hides_values_of_environment() {
    let daemon = Daemon::with(Function::new("f").env("PASSWORD", "open-sesame-4711")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let debug = daemon.debug().await.to_string();
    assert!(debug.contains("PASSWORD") && !debug.contains("open-sesame-4711"));
    assert!(!daemon.log().contains("open-sesame-4711"));
}

#[tokio::test]
async fn health_page_answers_get_and_head() {
    let daemon = Setup::default().start().await;
    assert_eq!(daemon.get("/healthz").await.ok().text().trim(), "ok");
    assert_eq!(daemon.debug().await["functions"], serde_json::json!({}));
    for page in ["/healthz", "/debug"] {
        // Some health checks use HEAD.
        assert_eq!(daemon.send(request("HEAD", page, empty())).await.unwrap().ok().body.len(), 0);
    }
}

#[tokio::test]
async fn answers_while_all_instances_are_busy() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1).set("queue", 50)).await;
    let busy = async { (daemon.get("/invoke/f/sleep?ms=3000").await, Instant::now()) };
    let watch = async {
        daemon.until("f", "busy", 1).await;
        let waiting = join_all((0..20).map(|_| daemon.get("/invoke/f/pid")));
        let pages = async {
            for _ in 0..10 {
                daemon.get("/debug").await.ok();
            }
            Instant::now()
        };
        futures::join!(waiting, pages)
    };
    let ((busy, freed), (waiting, answered)) = futures::join!(busy, watch);
    assert!(answered < freed, "the pages waited for the instance");
    waiting.into_iter().chain([busy]).for_each(|reply| drop(reply.ok()));
}

#[tokio::test]
async fn admin_listener_serves_admin_pages() {
    let daemon = Setup::default().option("--admin-listen", "127.0.0.1:0").function(Function::new("f")).start().await;
    let admin = daemon.admin.expect("it announces the admin listener");
    let mut admin = integration::Connection::open(admin).await.expect("the admin listener");
    let debug = admin.send(integration::request("GET", "/debug", integration::empty())).await.unwrap().ok().json();
    assert_eq!(debug["functions"]["f"]["state"], "serving");
    assert_eq!(daemon.get("/debug").await.status, 404);
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn log_lines_are_json_with_function_and_instance() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let id = daemon.instances("f").await[0]["id"].as_str().unwrap().to_owned();
    let log = daemon.logged(&id).await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["function"] == "f" && line["instance"] == id.as_str()), "{log}");
}
