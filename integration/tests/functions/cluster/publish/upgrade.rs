//! Upgrades of nodes in the middle of a rollout: it ends as if nothing had happened.

use integration::{
    UPGRADE_LIMIT,
    relay::{Relay, RelayMode},
};

use super::*;

#[tokio::test]
async fn rollout_goes_on_when_nodes_are_upgraded_in_its_middle() {
    let Some((home, server)) = server().await else { return };
    let relay = Relay::start(RelayMode::Pass).await;
    let setup = settings(&server, "a", Setup::default()).option("--peer-address", relay.address.to_string());
    let mut a = setup.start().await;
    relay.lead_to(peer_listener(&a).await);
    let mut b = node(&server, "b", []).await;
    knows(&a, 1, 0).await;
    knows(&b, 1, 0).await;
    follows(&[&a, &b]).await;
    let publish_held = async |number| {
        let held = relay.stopped();
        relay.set(RelayMode::Hold(300 << 10));
        let ran = publish(&a, &version(&home, Function::new("f"), number), &["--copies", "1"]).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        eventually(SOON, "a transfer is held", async || relay.stopped(), |now| *now > held).await;
    };
    let ran = publish(&a, &version(&home, Function::new("f"), 1), &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &b], "f", 1).await;

    // The node that fetches.
    publish_held(2).await;
    let new_b = b.upgrade().await;
    b.ended_within(UPGRADE_LIMIT).await;
    serve(&[&b], "f", 1).await;
    relay.set(RelayMode::Pass);
    serve(&[&a, &b], "f", 2).await;

    // The node that has the files: it gives them away until its grace is over, and then the new one does.
    publish_held(3).await;
    let new_a = a.upgrade().await;
    relay.set(RelayMode::Pass);
    serve(&[&a, &b], "f", 3).await;
    a.ended_within(UPGRADE_LIMIT).await;
    for daemon in [&a, &b] {
        let state = async || published(daemon, "f").await["state"].clone();
        eventually(SOON, "all is as published", state, |state| *state == "current").await;
        let parts = || fs::read_dir(daemon.home.path("state/functions/.staging")).map_or(0, |parts| parts.count());
        eventually(SOON, "nothing half-done is left", async || parts(), |parts| *parts == 0).await;
    }
    drop((new_a, new_b));
}

#[tokio::test]
async fn version_that_fails_after_an_upgrade_goes_back_all_the_same() {
    let Some((home, _server, mut a, b)) = two().await else { return };
    let ran = publish(&a, &version(&home, Function::new("f"), 1), &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &b], "f", 1).await;
    let broken = home.path("broken");
    let directory = version(&home, Function::new("f").ends_after(0), 2);
    let file = directory.join("function.toml");
    // The first line of the process is its program.
    let text = fs::read_to_string(&file).unwrap();
    let script = format!("command = [\"/bin/sh\", \"-c\", 'test ! -e {} && exec \"$0\" \"$@\"', ", broken.display());
    fs::write(&file, text.replacen("command = [", &script, 1)).unwrap();
    let ran = publish(&b, &directory, &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &b], "f", 2).await;
    let new_a = a.upgrade().await;
    a.ended_within(UPGRADE_LIMIT).await;
    fs::write(&broken, "").unwrap();
    // Requests start instances, which fail.
    let state = async || {
        a.get("/invoke/f/pid").await;
        published(&a, "f").await["state"].clone()
    };
    eventually(4 * SOON, "the version has failed", state, |state| *state == "failed").await;
    serve(&[&a], "f", 1).await;
    drop((new_a, b));
}
