//! Transfers that break off: they go on where they were, with any node that has the files, and nothing half is served.

use integration::relay::{Relay, RelayMode};

use super::*;

/// Bytes of a file of 1 MiB behind which a relay breaks off.
const PART: usize = 300 << 10;
/// Less than the file and what was fetched twice, if it was begun again.
const RESUMED: u64 = (1 << 20) + (200 << 10);

/// Starts a node that others reach through a relay.
async fn relayed(server: &Broker, name: &str, relay: &Relay) -> Daemon {
    let setup = settings(server, name, Setup::default()).option("--peer-address", relay.address.to_string());
    let daemon = setup.start().await;
    relay.lead_to(peer_listener(&daemon).await);
    daemon
}

/// Waits until a node serves what was published, and checks its content. Returns how many bytes it has fetched.
async fn has_whole(daemon: &Daemon, directory: &Path) -> u64 {
    let state = async || published(daemon, "f").await;
    let state = eventually(SOON, "the version is served", state, |it| it["state"] == "current").await;
    let id = state["serves"].as_str().unwrap();
    let content = fs::read(daemon.home.path(&format!("state/functions/f/{id}/data/content"))).unwrap();
    assert!(content == fs::read(directory.join("data/content")).unwrap(), "the content is another");
    let staging = fs::read_dir(daemon.home.path("state/functions/.staging"));
    assert_eq!(staging.map_or(0, |parts| parts.count()), 0, "nothing half-done is left");
    cluster(daemon).await["published"]["fetched_bytes"].as_u64().unwrap()
}

#[tokio::test]
async fn transfer_that_breaks_off_again_and_again_goes_on_where_it_was() {
    let Some((home, server)) = server().await else { return };
    let relay = Relay::start(RelayMode::Cut(PART)).await;
    let a = relayed(&server, "a", &relay).await;
    follows(&[&a]).await;
    let directory = version(&home, Function::new("f"), 1);
    let ran = publish(&a, &directory, &["--copies", "1"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let b = node(&server, "b", []).await;
    let fetched = has_whole(&b, &directory).await;
    assert!(relay.stopped() >= 3, "{} connections were broken off", relay.stopped());
    assert!(fetched < RESUMED, "{fetched} bytes were fetched");
    serve(&[&b], "f", 1).await;
    assert_eq!(cluster(&b).await["published"]["damaged_blobs"], 0);
}

#[tokio::test]
async fn node_that_is_killed_in_the_middle_of_a_transfer_is_replaced_by_another_one() {
    let Some((home, server)) = server().await else { return };
    let relays = [Relay::start(RelayMode::Pass).await, Relay::start(RelayMode::Pass).await];
    let a = relayed(&server, "a", &relays[0]).await;
    let b = relayed(&server, "b", &relays[1]).await;
    knows(&a, 1, 0).await;
    follows(&[&a, &b]).await;
    let directory = version(&home, Function::new("f"), 1);
    let ran = publish(&a, &directory, &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    relays.iter().for_each(|relay| relay.set(RelayMode::Hold(PART)));
    let c = node(&server, "c", []).await;
    let held = async || [relays[0].stopped(), relays[1].stopped()];
    let held = eventually(SOON, "a transfer is held", held, |held| held.iter().any(|count| *count > 0)).await;
    assert_eq!(published(&c, "f").await["serves"], Value::Null);
    assert!(!c.home.path("state/functions/f").exists(), "nothing half is there");
    let (killed, other) = if held[0] > 0 { (a, b) } else { (b, a) };
    killed.killed().await;
    relays.iter().for_each(|relay| relay.set(RelayMode::Pass));
    let fetched = has_whole(&c, &directory).await;
    assert!(fetched < RESUMED, "{fetched} bytes were fetched");
    serve(&[&other, &c], "f", 1).await;
}
