//! Orderly ends of containers: SIGTERM, then kill, then removal.

use integration::{contained, ms};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{container, shared};

async fn leaves_nothing(signal: Signal, name: &str) {
    let Some(engine) = shared() else { return };
    let foreign = format!("unifaas-{name}-foreign");
    let id = engine.foreign(&foreign).await;
    let mut daemon = engine
        .setup()
        .option("--drain-grace", "10")
        .function(contained(name, &[], "min-instances = 2", ""))
        .function(contained(&format!("{name}-boots"), &["--callbacks", "0"], "min-instances = 1", ""))
        .start()
        .await;
    daemon.until(name, "idle", 2).await;
    daemon.until(&format!("{name}-boots"), "booting", 1).await;
    let long = async { daemon.get(&format!("/invoke/{name}/sleep?ms=1500")).await };
    let signalled = async {
        daemon.until(name, "busy", 1).await;
        daemon.signal(signal);
    };
    let (long, ()) = futures::join!(long, signalled);
    long.ok();
    let ending = daemon.ended().await;
    assert_eq!(ending.status.code(), Some(0), "{}", daemon.log());

    let left = engine.containers(&format!("unifaas-{name}")).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].id.as_deref(), Some(id.as_str()));
    assert_eq!(left[0].state.as_ref().map(ToString::to_string).as_deref(), Some("running"));
    engine.remove(&id).await;
}

#[tokio::test]
async fn sigterm_finishes_requests_and_removes_own_containers() {
    leaves_nothing(Signal::SIGTERM, "terminated").await;
}

#[tokio::test]
async fn sigint_finishes_requests_and_removes_own_containers() {
    leaves_nothing(Signal::SIGINT, "interrupted").await;
}

#[tokio::test]
async fn container_gets_sigterm_before_kill() {
    let Some(engine) = shared() else { return };
    // With an init as process 1: without it, SIGTERM does not reach a program that has no handler.
    let daemon = engine
        .daemon(contained("polite", &[], "keepalive = 0.2\nkeep-paused = 0\nstop-grace = 20", "init = true"))
        .await;
    container(&daemon, "polite").await;
    daemon.settled("polite", "it has ended by itself", |function| function["instances"] == json!([])).await;
    engine.none_left("polite").await;
}

#[tokio::test]
async fn container_that_ignores_sigterm_is_killed_after_grace() {
    let Some(engine) = shared() else { return };
    let flags = ["--ignore-sigterm"];
    let daemon = engine
        .daemon(contained("stubborn", &flags, "keepalive = 0.1\nkeep-paused = 0\nstop-grace = 1", "init = true"))
        .await;
    container(&daemon, "stubborn").await;
    let stopping = daemon.until("stubborn", "stopping", 1).await;
    assert_eq!(stopping["instances"].as_array().map(Vec::len), Some(1));
    tokio::time::sleep(ms(600)).await;
    assert_eq!(engine.containers("unifaas-stubborn-").await.len(), 1, "it was not given its grace");
    engine.none_left("stubborn").await;
}
