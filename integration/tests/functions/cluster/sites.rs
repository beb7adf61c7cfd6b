//! Two sites whose NATS servers are a hub and its leaf: they help each other where they may, and keep their work apart.

use std::{path::Path, sync::Arc};

use integration::{
    Daemon, Function, Home, SOON, Setup,
    brokers::{Broker, NatsClient, lines_of, own_address, public_file},
    empty, eventually,
    relay::{Relay, RelayMode},
    request,
};
use serde_json::Value;

use super::{
    cluster, knows, settings,
    site::{recorded, shared},
};
use crate::messages::{all_run, connected, consumers, recorder, until};

/// The NATS servers of the sites a, the hub, and b, the leaf.
struct Sites {
    a: Broker,
    b: Broker,
    /// Between the leaf and the hub.
    link: Relay,
    _homes: [Arc<Home>; 2],
}

impl Sites {
    async fn start() -> Option<Self> {
        let (hub, relay) = (own_address(7422), own_address(7422));
        let homes = [Home::new(), Home::new()];
        let settings = |home: &Home, site: &str, leaves: &str| {
            let store = home.path("nats/store");
            format!(
                "ping_interval: \"2s\"\nping_max: 2\nserver_name: {site}\nleafnodes {{ {leaves} }}\n\
                 jetstream {{ store_dir: {store:?}, domain: {site}, sync_interval: always, max_file_store: 64M }}"
            )
        };
        // The leaf is not to learn a way around the relay.
        let listen = format!("listen: \"{hub}\", no_advertise: true");
        let a = Broker::nats_at(&homes[0], own_address(4222), &settings(&homes[0], "a", &listen)).await?;
        let link = Relay::start_at(relay, RelayMode::Pass).await;
        link.lead_to(hub);
        let remote = format!("reconnect: \"1s\", remotes: [{{ url: \"nats://{relay}\" }}]");
        let b = Broker::nats_at(&homes[1], own_address(4222), &settings(&homes[1], "b", &remote)).await?;
        Some(Self { a, b, link, _homes: homes })
    }

    /// Starts a node of site a, which asks no other site, or of site b, which asks a.
    async fn node(&self, site: &str, name: &str, functions: impl IntoIterator<Item = Function>) -> Daemon {
        functions.into_iter().fold(self.settings(site, name, Setup::default()), Setup::function).start().await
    }

    fn settings(&self, site: &str, name: &str, setup: Setup) -> Setup {
        let server = if site == "a" { &self.a } else { &self.b };
        let setup = settings(server, name, setup).option("--site", site);
        if site == "b" { setup.option("--overflow", "a") } else { setup }
    }
}

/// Asks a node, and returns the name of the node that has served the request.
async fn served_by(daemon: &Daemon, function: &str) -> String {
    let reply = daemon.get(&format!("/invoke/{function}/pid")).await;
    if reply.status == 200 { reply.header("x-unifaas-node").unwrap_or_default() } else { reply.status.to_string() }
}

#[tokio::test]
async fn other_site_serves_what_the_own_one_has_no_room_for_and_nothing_else() {
    let Some(sites) = Sites::start().await else { return };
    let small = || Function::new("f").set("min-instances", 1).set("max-instances", 1);
    let large = Function::new("f").set("min-instances", 1).set("concurrent-requests", 8);
    let a = sites.node("a", "a", [large, Function::new("far")]).await;
    let b = sites.node("b", "b", [small(), Function::new("own")]).await;
    let other = sites.node("b", "other", [small()]).await;
    knows(&b, 2, 3).await;
    // The function is in site a alone, and a does not ask b.
    eventually(SOON, "site a helps", async || served_by(&b, "far").await, |node| node == "a").await;
    knows(&a, 0, 0).await;
    assert_eq!(served_by(&a, "own").await, "404");

    // Each node of site b has served a request, so that it is known how long one takes.
    for (daemon, name) in [(&b, "b"), (&other, "other")] {
        daemon.until("f", "idle", 1).await;
        let reply = daemon.get("/invoke/f/sleep?ms=200").await.ok();
        assert_eq!(reply.header("x-unifaas-node").as_deref(), Some(name));
    }
    let load = async || {
        let peers = cluster(&b).await["peers"].clone();
        peers
            .as_array()
            .and_then(|peers| Some(peers.iter().find(|peer| peer["name"] == "other")?["loads"]["f"].clone()))
    };
    let is_free = |load: &Option<Value>| load.as_ref().is_some_and(|load| load["free"] == 1);
    eventually(SOON, "the other node of the site is free", load, is_free).await;
    let long = || request("GET", "/invoke/f/stream?n=100000&ms=50", empty());
    let busy = b.start(long()).await;
    // Node a has more free slots, and is as near.
    assert_eq!(served_by(&b, "f").await, "other");
    let other_busy = other.start(long()).await;
    let is_busy = |load: &Option<Value>| load.as_ref().is_some_and(|load| load["free"] == 0);
    eventually(SOON, "the other node of the site is busy", load, is_busy).await;
    assert_eq!(served_by(&b, "f").await, "a");
    drop((busy, other_busy));
    eventually(SOON, "the site serves its own requests", async || served_by(&b, "f").await, |node| node != "a").await;
    let counts = &cluster(&a).await["functions"]["f"];
    assert!(counts["served_for_peers"].as_u64() >= Some(1), "{counts}");
}

/// Has a node accept work, and returns the ids. Each is stored at the site.
async fn work(daemon: &Daemon, file: &Path, delay: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..8 {
        let reply = daemon.enqueue(&recorded(file, 0), "", &[("x-unifaas-delay", delay)]).await;
        assert_eq!(
            (reply.status, reply.header("x-unifaas-stored").as_deref()),
            (202, Some("site")),
            "{}",
            reply.text()
        );
        ids.push(reply.header("x-unifaas-invocation").expect("an id"));
    }
    ids
}

#[tokio::test]
async fn sites_go_on_without_the_link_between_them_and_lose_no_work() {
    let Some(sites) = Sites::start().await else { return };
    let home = Home::new();
    let file = public_file(home.path("runs"));
    let a = sites.node("a", "a", [shared(), Function::new("far")]).await;
    let b = sites.node("b", "b", [shared(), Function::new("own")]).await;
    eventually(SOON, "site a helps", async || served_by(&b, "far").await, |node| node == "a").await;

    // What waits in b has the numbers of what ends in a: the sites have streams of the same name.
    let mut accepted = Vec::new();
    for (daemon, delay) in [(&b, "3"), (&a, "0")] {
        accepted.extend(work(daemon, &file, delay).await.into_iter().map(|id| (daemon, id)));
    }
    for (daemon, id) in accepted.iter().rev() {
        assert_eq!(daemon.ended_invocation(id).await["state"], "done");
    }
    let (_, of_b) = &accepted[0];
    a.get(&format!("/invocations/{of_b}")).await.problem(404, "no_such_invocation");

    sites.link.set(RelayMode::Silent);
    for daemon in [&a, &b] {
        for id in work(daemon, &file, "0").await {
            assert_eq!(daemon.ended_invocation(&id).await["state"], "done");
            accepted.push((daemon, id));
        }
    }
    let far = async || {
        assert_eq!((served_by(&b, "own").await, served_by(&b, "f").await), ("b".to_owned(), "b".to_owned()));
        served_by(&b, "far").await
    };
    // The nodes of a are forgotten 15 s after their last heartbeat.
    eventually(2 * SOON, "site a is forgotten", far, |served| served == "404").await;

    // The servers have noticed, and join again by themselves.
    sites.link.set(RelayMode::Pass);
    eventually(2 * SOON, "site a helps again", far, |node| node == "a").await;
    for daemon in [&a, &b] {
        for id in work(daemon, &file, "0").await {
            assert_eq!(daemon.ended_invocation(&id).await["state"], "done");
            accepted.push((daemon, id));
        }
    }
    let (mut ran, mut ids) = (lines_of(&file), accepted.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
    ran.sort();
    ids.sort();
    assert_eq!(ran, ids, "each has run once");
}

#[tokio::test]
async fn streams_of_the_same_name_keep_what_one_site_has_not_stored_yet() {
    let Some(sites) = Sites::start().await else { return };
    let home = Home::new();
    let [of_a, of_b] = ["a", "b"].map(|site| public_file(home.path(site)));
    for server in [&sites.a, &sites.b] {
        NatsClient::connect(server.address).await.unwrap().create_stream("ORDERS", "orders.*").await;
    }
    let follower = |file: &Path| recorder("f", "[[nats]]\nsubject = \"orders.*\"\nstream = \"ORDERS\"", file);
    // The inbox of b is full, so that it has messages and cannot store them.
    let home_of_b = Home::new();
    home_of_b.put(&follower(&of_b).asynchronous("queue", 1));
    let b = sites.settings("b", "b", Setup::at(&home_of_b)).start().await;
    assert_eq!(b.enqueue("/f/pid", "", &[("x-unifaas-delay", "3600")]).await.status, 202);
    connected(&b, "nats").await;
    let a = sites.node("a", "a", [follower(&of_a)]).await;
    connected(&a, "nats").await;
    let subjects: Vec<_> = (0..8).map(|number| format!("orders.{number}")).collect();
    let mut client = NatsClient::connect(sites.b.address).await.unwrap();
    for subject in &subjects {
        client.send(subject, "").await.unwrap();
    }
    let received = |source: &Value| source["received"].as_u64() >= Some(8);
    until(&b, "nats", "all received", received).await;
    assert_eq!(all_run(&of_a, &subjects).await.len(), 8);
    // What a acknowledges has its time to get to the server of b.
    let acknowledged = async || pending(&sites.a).await;
    eventually(SOON, "site a has acknowledged all", acknowledged, |pending| *pending == 0).await;
    assert!(lines_of(&of_b).is_empty());
    b.killed().await;
    home_of_b.put(&follower(&of_b));
    let b = sites.settings("b", "b", Setup::at(&home_of_b)).start().await;
    all_run(&of_b, &subjects).await;
    drop((a, b));
}

/// Returns how many messages of the stream are not acknowledged.
async fn pending(server: &Broker) -> u64 {
    let consumers = consumers(server).await;
    consumers
        .iter()
        .filter_map(|consumer| Some(consumer["num_ack_pending"].as_u64()? + consumer["num_pending"].as_u64()?))
        .sum()
}
