//! Users of the NATS server that may not write or read the catalogue: each error names what is lacking.

use super::*;

const USERS: &str = r#"authorization { users = [
    { user: all, password: x }
    { user: reader, password: x, permissions: { publish: { deny: "$KV.uf_functions.>" } } }
    { user: blind, password: x, permissions: { publish: { deny: "$JS.API.CONSUMER.>" } } }
    { user: deaf, password: x, permissions: { subscribe: { deny: "uf.*.node.*.beat" } } } ] }"#;
const LOGGED: &str = "the NATS server does not allow what this node needs";

async fn as_user(server: &Broker, user: &str, name: &str, setup: Setup) -> Daemon {
    let url = format!("nats://{user}:x@{}", server.address);
    settings(server, name, setup).without("--cluster").option("--cluster", url).start().await
}

async fn denied(daemon: &Daemon) -> Value {
    cluster(daemon).await["denied"].clone()
}

fn times_logged(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains(LOGGED)).count()
}

#[tokio::test]
async fn permission_that_is_lacking_is_named_and_what_a_node_has_is_served() {
    let home = Home::new();
    let Some(server) = Broker::nats(&home, USERS).await else { return };
    let a = as_user(&server, "all", "a", Setup::default()).await;
    let reader = as_user(&server, "reader", "reader", Setup::default()).await;
    let mut blind = as_user(&server, "all", "blind", Setup::default()).await;
    for node in [&a, &reader, &blind] {
        knows(node, 2, 0).await;
    }
    follows(&[&a, &reader, &blind]).await;
    let first = version(&home, Function::new("f"), 1);
    let ran = publish(&a, &first, &["--copies", "3"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &reader, &blind], "f", 1).await;
    blind.end().await;
    let blind = as_user(&server, "blind", "blind", Setup::at(&blind.home)).await;

    // It may read what it may not write.
    let second = version(&home, Function::new("f"), 2);
    let why = "the NATS server does not let this node publish to $KV.uf_functions.f: its user lacks the permission";
    for _ in 0..2 {
        let ran = publish(&reader, &second, &[]).await;
        assert!(ran.status != Some(0) && ran.err.contains(why), "{ran:?}");
    }
    let ran = reader.cli(&["unpublish", "f"]).await;
    assert!(ran.status != Some(0) && ran.err.contains(why), "{ran:?}");
    let listed = denied(&reader).await[0].clone();
    assert_eq!((&listed["permission"], &listed["subject"]), (&"publish".into(), &"$KV.uf_functions.f".into()));
    assert_eq!((listed["times"].as_u64(), times_logged(&reader)), (Some(3), 1), "{}", reader.log());

    // It may not read, and says so for as long as that is so.
    let needed = "publish to $JS.API.CONSUMER.CREATE.KV_uf_functions";
    let trouble = async || cluster(&blind).await["published"]["trouble"].as_str().unwrap_or_default().to_owned();
    eventually(SOON, "the trouble", trouble, |trouble| trouble.contains(needed)).await;
    let times = async || denied(&blind).await[0]["times"].as_u64();
    eventually(SOON, "it is tried again", times, |times| *times > Some(2)).await;
    assert_eq!(times_logged(&blind), 1, "{}", blind.log());
    let ran = publish(&blind, &second, &[]).await;
    assert!(ran.status != Some(0) && ran.err.contains(needed), "{ran:?}");
    assert!(blind.cli(&["versions"]).await.err.contains(needed));
    serve(&[&a, &reader, &blind], "f", 1).await;
}

#[tokio::test]
async fn subscription_that_is_denied_is_named_and_the_node_serves_what_it_has() {
    let home = Home::new();
    let Some(server) = Broker::nats(&home, USERS).await else { return };
    let a = as_user(&server, "all", "a", Setup::default().function(Function::new("f"))).await;
    let deaf = as_user(&server, "deaf", "deaf", Setup::default().function(Function::new("g"))).await;
    let named = |denied: &Value| {
        denied.as_array().is_some_and(|denied| {
            denied.iter().any(|it| it["permission"] == "subscribe" && it["subject"] == "uf.*.node.*.beat")
        })
    };
    eventually(SOON, "the denial", async || denied(&deaf).await, named).await;
    let line = deaf.logged_line(LOGGED).await;
    assert_eq!((&line["permission"], &line["subject"]), (&"subscribe".into(), &"uf.*.node.*.beat".into()), "{line}");
    // The others hear it, and it hears none of them. It refuses connections from nodes that it does not know, so they may call
    // it unreachable.
    let hears =
        |seen: &Value| seen["peers"].as_array().is_some_and(|peers| peers.len() == 1 && peers[0]["functions"] == 1);
    eventually(SOON, "its heartbeat", async || cluster(&a).await, hears).await;
    assert_eq!(cluster(&deaf).await["peers"], serde_json::json!([]));
    deaf.get("/invoke/g/pid").await.ok();
    assert_eq!(times_logged(&deaf), 1, "{}", deaf.log());
}
