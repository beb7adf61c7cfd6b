//! Containers during an upgrade.

use integration::{UPGRADE_LIMIT, contained, empty, eventually, processes, request};
use nix::sys::signal::Signal;

use crate::shared;

#[tokio::test]
async fn containers_of_a_killed_old_daemon_are_removed_by_the_new_one() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("upgraded", &[], "concurrent-requests = 1\nkeepalive = 300", "")).await;
    let mut client = daemon.connect().await;
    let long = request("GET", "/invoke/upgraded/sleep?ms=60000", empty());
    let held = tokio::spawn(async move { client.send(long).await.is_ok() });
    daemon.until("upgraded", "busy", 1).await;
    let new = daemon.upgrade().await;
    daemon.get("/invoke/upgraded/pid").await.ok();
    let containers = async || engine.containers("unifaas-upgraded").await.len();
    assert_eq!(containers().await, 2, "each daemon has its own");
    processes::signal(daemon.pid, Signal::SIGKILL);
    assert!(!held.await.unwrap());
    eventually(UPGRADE_LIMIT, "that of the old daemon is removed", containers, |count| *count == 1).await;
    daemon.get("/invoke/upgraded/pid").await.ok();
    drop(new);
    engine.none_left("upgraded").await;
}

#[tokio::test]
async fn containers_that_boot_during_an_upgrade_call_back_to_the_old_daemon() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("delayed", &["--boot-delay", "3000"], "keepalive = 300", "")).await;
    let mut client = daemon.connect().await;
    let first = request("GET", "/invoke/delayed/pid", empty());
    let booting = tokio::spawn(async move { client.send(first).await.unwrap() });
    daemon.until("delayed", "booting", 1).await;
    // The new daemon has started no container, so it knows the network of containers from the old one.
    let new = daemon.upgrade().await;
    booting.await.unwrap().ok();
    drop(new);
    engine.none_left("delayed").await;
}
