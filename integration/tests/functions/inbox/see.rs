//! What operators see of the inbox: `/debug`, the dashboard and the metrics.

use std::{collections::BTreeSet, fs};

use futures::FutureExt as _;
use integration::{Daemon, Function, Receiver, SOON, Setup, eventually, within};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Starts a daemon whose function has one dead letter, one attempt under way and one invocation that waits for it.
async fn with_work() -> (Daemon, String) {
    let function = Function::new("f").set("concurrent-requests", 4).asynchronous("attempts", 1);
    let daemon = Daemon::with(function.asynchronous("concurrency", 1)).await;
    let dead = daemon.accepted("/f/status/500", "", &[]).await;
    daemon.ended_invocation(&dead).await;
    let running = daemon.accepted("/f/sleep?ms=60000", "", &[]).await;
    let state = async || daemon.invocation(&running).await["state"].clone();
    eventually(SOON, "it runs", state, |state| state == "running").await;
    daemon.accepted("/f/pid", "", &[]).await;
    (daemon, dead)
}

#[tokio::test]
async fn debug_has_what_waits_runs_and_is_dead_of_the_daemon_and_of_each_function() {
    let (daemon, _) = with_work().await;
    let expected = |it: &Value| (it["queued"] == 1, it["running"] == 1, it["dead"] == 1) == (true, true, true);
    let inbox = async || daemon.debug().await["daemon"]["inbox"].clone();
    let waited = |it: &Value| expected(it) && it["oldest_seconds"].as_f64() > Some(0.1);
    let inbox = eventually(SOON, "the inbox", inbox, waited).await;
    assert!(expected(&inbox["functions"][0]), "{inbox}");
    assert_eq!(inbox["functions"][0]["function"], "f");
    assert!(inbox["commit_ms"].as_f64() > Some(0.0) && inbox["bytes"].as_u64() > Some(0), "{inbox}");
    assert_eq!(inbox.get("problem"), None);
    let function = daemon.get("/debug/functions/f").await.ok().json();
    assert!(expected(&function["inbox"]), "{function}");
}

#[tokio::test]
async fn the_dashboard_shows_the_inbox_and_its_dead_letters() {
    let (daemon, dead) = with_work().await;
    let overview = async || daemon.get("/ui/").await.ok().text();
    let has = |page: &String| page.contains("1 dead letter") && page.contains("1 running");
    let page = eventually(SOON, "the card", overview, has).await;
    assert!(page.contains("Asynchronous") && page.contains("a commit takes"), "{page}");
    assert!(page.contains("1 asynchronous invocation was given up"), "it needs attention: {page}");
    let page = daemon.get("/ui/functions/f").await.ok().text();
    for text in [&*dead, "attempts exhausted", "Redrive", "Remove"] {
        assert!(page.contains(text), "no {text:?} in {page}");
    }
    let idle = Daemon::with(Function::new("g")).await;
    assert!(!idle.get("/ui/").await.ok().text().contains("Asynchronous"), "nothing was ever stored");
    assert!(!idle.get("/ui/functions/g").await.ok().text().contains("Asynchronous"));
}

#[tokio::test]
async fn metrics_have_what_waits_runs_and_is_dead_by_function() {
    let (daemon, _) = with_work().await;
    let of = |name: &str| format!("unifaas_async_{name}{{function=\"f\"}}");
    let metrics = daemon.measured("the dead letter", |it| it.value(&of("dead_letters")) == Some(1.0)).await;
    assert_eq!(["queued", "running"].map(|it| metrics.value(&of(it))), [Some(1.0), Some(1.0)]);
    assert!(metrics.value(&of("oldest_seconds")).is_some());
    assert!(metrics.value("unifaas_inbox_commit_seconds_count") >= Some(5.0));
    assert_eq!(metrics.value("unifaas_inbox_unavailable"), Some(0.0));
}

/// Returns the names of the threads of asynchronous work and of connections to brokers.
fn own_threads(daemon: &Daemon) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid)).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let is_own = |name: &String| name.starts_with("inbox") || name.starts_with("triggers");
    names.map(|name| name.trim().to_owned()).filter(is_own).collect()
}

#[tokio::test]
async fn a_daemon_without_asynchronous_work_has_no_thread_file_or_connection_for_it() {
    let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = broker.local_addr().unwrap();
    let setup = Setup::default().function(Function::new("f")).option("--deliver-to", "http://127.0.0.1:1/");
    let setup = setup.option("--nats", format!("nats://{address}")).option("--mqtt", format!("mqtt://{address}"));
    let daemon = setup.start().await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon.get("/invocations/0123456789abcdef0123456789abcdef").await.problem(404, "no_such_invocation");
    for page in ["/ui/", "/ui/functions/f", "/debug", "/debug/functions/f", "/metrics"] {
        daemon.get(page).await.ok();
    }
    daemon.cli(&["dead"]).await.ok();
    assert_eq!(own_threads(&daemon), BTreeSet::new());
    let database = daemon.home.path("state/inbox.db");
    assert!(!database.exists());
    assert!(broker.accept().now_or_never().is_none(), "nothing has connected");
    // With work, there is each of them.
    let id = daemon.accepted("/f/pid", "", &[]).await;
    daemon.ended_invocation(&id).await;
    daemon.home.put(&Function::new("f").table("[[mqtt]]\ntopic = \"a\""));
    within(SOON, "a connection", broker.accept()).await.unwrap();
    let expected = ["inbox-attempts", "inbox-store", "triggers"].map(str::to_owned);
    assert_eq!(own_threads(&daemon), BTreeSet::from(expected));
    assert!(database.exists());
}

#[tokio::test]
async fn deliveries_are_counted() {
    let setup = Setup::default().function(Function::new("f"));
    let Some(receiver) = Receiver::start(setup.home(), "").await else { return };
    let daemon = setup.option("--deliver-to", receiver.url("/")).start().await;
    let id = daemon.accepted("/f/pid", "", &[("x-callback-url", &receiver.url("/refuse/1"))]).await;
    daemon.delivery_is(&id, "delivered").await;
    assert_eq!(receiver.got("/refuse/1")[0]["headers"].get("webhook-signature"), None, "there is no secret");
    let inbox = daemon.debug().await["daemon"]["inbox"].clone();
    assert_eq!((&inbox["delivered"], &inbox["redelivered"]), (&json!(1), &json!(1)));
    let metrics = daemon.measured("the delivery", |it| it.value("unifaas_async_undelivered") == Some(0.0)).await;
    let deliveries = |result: &str| metrics.value(&format!("unifaas_async_deliveries_total{{result=\"{result}\"}}"));
    assert_eq!(["delivered", "retry", "failed"].map(deliveries), [Some(1.0), Some(1.0), Some(0.0)]);
}
