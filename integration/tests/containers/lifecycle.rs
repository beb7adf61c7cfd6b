//! The life cycle of containers under runc and gVisor: sharing, single use, keep-alive, streaming.

use std::collections::HashSet;

use futures::{StreamExt, future::join_all, stream};
use integration::{Pieces, contained, empty, ms, number, request};
use tokio::time::Instant;

use crate::{container, shared};

#[tokio::test]
async fn sequential_requests_share_container() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("shares", &[], "", "")).await;
    let first = container(&daemon, "shares").await;
    for _ in 0..20 {
        assert_eq!(container(&daemon, "shares").await, first);
    }
    let instance = &daemon.instances("shares").await[0];
    assert_eq!((number(instance, "served"), instance["state"].as_str()), (21, Some("idle")));
    let id = instance["engine_id"].as_str().unwrap();
    assert!(id.starts_with(&first) && id.len() == 64, "{id}");
    let name = format!("unifaas-shares-{}", instance["id"].as_str().unwrap());
    assert_eq!(instance["resources"], serde_json::json!([format!("container {name}")]));
    assert_eq!(engine.containers("unifaas-shares-").await[0].names, Some(vec![format!("/{name}")]));
}

#[tokio::test]
async fn output_of_crashed_container_is_found_by_id() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("crashes", &["--say-out", "on-stdout"], "", "")).await;
    daemon.get("/invoke/crashes/say?line=on-stderr").await.ok();
    let failed = daemon.post("/invoke/crashes/exit?code=3", "").await.problem(502, "instance_failed");
    let page = daemon.ended_instance(failed["instance"].as_str().unwrap()).await;
    assert_eq!((&page["cause"], &page["exit"]), (&"exited".into(), &"exited with status 3".into()));
    let lines = page["output"].as_array().unwrap();
    let stream =
        |text: &str| lines.iter().find(|line| line["text"] == text).map(|line| line["stream"].as_str().unwrap());
    assert_eq!((stream("on-stdout"), stream("on-stderr")), (Some("out"), Some("err")), "{page}");
    assert_eq!(stream("ended: exited with status 3"), Some("platform"));
}

#[tokio::test]
async fn start_of_a_container_has_all_phases_in_order() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("phases", &["--say", "hello", "--boot-delay", "300"], "", "")).await;
    container(&daemon, "phases").await;
    let boot = daemon.boots("phases").await.remove(0);
    assert_eq!((&boot["kind"], &boot["result"]), (&"container".into(), &"ready".into()));
    let end = |phase: &str| boot["phases"][phase].as_u64().unwrap_or_else(|| panic!("no {phase} in {boot}"));
    let ends = ["admitted", "resources", "created", "started", "ready", "first_byte"].map(end);
    assert!(ends.is_sorted(), "{boot}");
    assert!(end("ready") - end("created") >= 300_000 && end("first_output") > end("created"), "{boot}");
}

#[tokio::test]
async fn single_use_requests_get_a_container_each() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("once", &[], "single-use = true\nstop-grace = 0", "")).await;
    let mut ids = HashSet::new();
    for _ in 0..20 {
        ids.insert(container(&daemon, "once").await);
    }
    assert_eq!(ids.len(), 20);
    engine.none_left("once").await;
}

#[tokio::test]
async fn burst_of_single_use_requests_is_served() {
    let Some(engine) = shared() else { return };
    let top = "single-use = true\nstop-grace = 0\nboot-timeout = 60";
    let daemon = engine.daemon(contained("burst", &[], top, "memory = 64")).await;
    let ids: HashSet<_> = join_all((0..50).map(|_| container(&daemon, "burst"))).await.into_iter().collect();
    assert_eq!(ids.len(), 50);
    engine.none_left("burst").await;
    assert_eq!(daemon.counter("burst", "ok").await, 50);
}

#[tokio::test]
async fn concurrent_cold_requests_share_boots() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("boots", &[], "concurrent-requests = 10", "")).await;
    for reply in join_all((0..40).map(|_| daemon.get("/invoke/boots/sleep?ms=100"))).await {
        reply.ok();
    }
    let started = number(&daemon.function("boots").await, "instances_started");
    assert!((1..=4).contains(&started), "{started} containers were started");
}

#[tokio::test]
async fn runc_and_gvisor_serve_side_by_side() {
    let Some(engine) = shared() else { return };
    let daemon = engine
        .setup()
        .function(contained("plain", &[], "concurrent-requests = 4", "runtime = \"runc\""))
        .function(contained("guarded", &[], "concurrent-requests = 4", "runtime = \"runsc\""))
        .start()
        .await;
    let paths = (0..40).map(|n| format!("/invoke/{}/pid", if n % 2 == 0 { "plain" } else { "guarded" }));
    let replies: Vec<_> =
        stream::iter(paths.map(async |path| daemon.get(&path).await)).buffer_unordered(8).collect().await;
    assert_eq!(replies.len(), 40);
    for reply in replies {
        assert_eq!(reply.ok().pid(), 1);
    }
    for (function, runtime) in [("plain", "runc"), ("guarded", "runsc")] {
        assert_eq!(daemon.counter(function, "ok").await, 20);
        let id = daemon.instances(function).await[0]["engine_id"].as_str().unwrap().to_owned();
        let found = engine.docker().await.inspect_container(&id, None).await.unwrap();
        assert_eq!(found.host_config.unwrap().runtime.as_deref(), Some(runtime));
    }
    drop(daemon);
    assert!(engine.containers("unifaas-plain-").await.is_empty());
    assert!(engine.containers("unifaas-guarded-").await.is_empty());
}

#[tokio::test]
async fn keepalive_counts_from_the_last_byte() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("streams", &[], "keepalive = 1\nkeep-paused = 0", "")).await;
    container(&daemon, "streams").await;
    let since = Instant::now();
    let (_connection, response) = daemon.start(request("GET", "/invoke/streams/stream?n=20&ms=100", empty())).await;
    let mut pieces = Pieces::of(response);
    let mut text = Vec::new();
    let mut times = Vec::new();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.expect("the whole stream"));
        times.push(Instant::now());
    }
    assert_eq!(String::from_utf8_lossy(&text).lines().count(), 20);
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(last - first > ms(900), "the pieces came together, within {:?}", last - first);
    daemon.settled("streams", "no instance", |function| function["instances"] == serde_json::json!([])).await;
    // The client may see the last byte late.
    assert!(since.elapsed() > ms(19 * 100 + 1000), "it was gone {:?} after the last byte", last.elapsed());
    engine.none_left("streams").await;
}

#[tokio::test]
async fn large_bodies_go_both_ways() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("echoes", &[], "", "")).await;
    let body = "0123456789abcdef".repeat(1 << 20);
    let reply = daemon.post("/invoke/echoes/echo", &body).await.ok();
    assert!(reply.text() == body, "{} bytes came back", reply.body.len());
}
