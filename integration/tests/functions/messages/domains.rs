//! A stream of a hub with a JetStream domain, which nodes at a leaf without JetStream follow too.

use std::{path::Path, sync::Arc};

use integration::{
    Daemon, Home, SOON, Setup,
    brokers::{Broker, NatsClient, own_address, public_file},
    eventually,
};
use serde_json::Value;

use super::{all_run, consumers, put_earlier, recorder, source, until};

const CONSUMER: &str = "unifaas=hub-f-orders=2E=2A";
/// The names of earlier versions: without a domain, and with that of the leaf.
const EARLIER: [&str; 2] = ["unifaas-f-orders=2E=2A", "unifaas=edge-f-orders=2E=2A"];

/// A hub that has the stream, and a leaf whose requests to JetStream reach the hub.
struct Servers {
    hub: Broker,
    leaf: Broker,
    _homes: [Arc<Home>; 2],
}

impl Servers {
    async fn start(leaf: &str) -> Option<Self> {
        let (leaves, homes) = (own_address(7422), [Home::new(), Home::new()]);
        let store = homes[0].path("nats/store");
        let settings = format!(
            "server_name: hub\njetstream {{ store_dir: {store:?}, domain: hub }}\nleafnodes {{ listen: \"{leaves}\" }}"
        );
        let hub = Broker::nats_at(&homes[0], own_address(4222), &settings).await?;
        let remote = format!("reconnect: \"1s\", remotes: [{{ url: \"nats://{leaves}\" }}]");
        let settings = format!("server_name: leaf\nleafnodes {{ {remote} }}\ndefault_js_domain {{ $G: hub }}\n{leaf}");
        let leaf = Broker::nats_at(&homes[1], own_address(4222), &settings).await?;
        NatsClient::connect(hub.address).await.unwrap().create_stream("ORDERS", "orders.*").await;
        Some(Self { hub, leaf, _homes: homes })
    }

    async fn client(&self) -> NatsClient {
        NatsClient::connect(self.hub.address).await.unwrap()
    }

    /// Waits until the consumers of the stream have a state.
    async fn until(&self, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(SOON, what, async || consumers(&self.hub).await, |consumers| is_so(consumers)).await
    }
}

async fn follower(server: &Broker, file: &Path) -> Daemon {
    let function = recorder("f", "[[nats]]\nsubject = \"orders.*\"\nstream = \"ORDERS\"", file);
    Setup::default().function(function).option("--nats", server.url("nats")).start().await
}

fn names(consumers: &[Value]) -> Vec<&str> {
    consumers.iter().filter_map(|consumer| consumer["name"].as_str()).collect()
}

fn sum(consumers: &[Value], count: &str) -> u64 {
    consumers.iter().filter_map(|consumer| consumer[count].as_u64()).sum()
}

#[tokio::test]
async fn nodes_at_a_hub_and_at_its_leaf_share_the_consumer_of_a_stream() {
    let Some(servers) = Servers::start("").await else { return };
    let home = Home::new();
    let file = public_file(home.path("runs"));
    let daemons = [follower(&servers.hub, &file).await, follower(&servers.leaf, &file).await];
    servers.until("both nodes follow the stream", |consumers| sum(consumers, "num_waiting") >= 2).await;
    let subjects: Vec<_> = (0..40).map(|number| format!("orders.{number}")).collect();
    let mut client = servers.client().await;
    for subject in &subjects {
        client.store(subject, "").await.unwrap();
    }
    let ended = |consumers: &[Value]| sum(consumers, "num_pending") + sum(consumers, "num_ack_pending") == 0;
    let known = servers.until("all is acknowledged", ended).await;
    all_run(&file, &subjects).await;
    let mut stored = Vec::new();
    for daemon in &daemons {
        stored.push(source(daemon, "nats").await["stored"].as_u64().unwrap_or_default());
    }
    // Each has run, so that none has run twice.
    assert_eq!(stored.iter().sum::<u64>(), 40, "{stored:?} of {:?}", names(&known));
    assert!(!stored.contains(&0), "both have messages: {stored:?}");
    assert_eq!(names(&known), [CONSUMER]);
}

#[tokio::test]
async fn consumers_that_are_named_by_the_leaf_are_replaced_where_they_have_ended_once_they_are_not_used() {
    let Some(servers) = Servers::start("jetstream { enabled: false, domain: edge }").await else { return };
    let home = Home::new();
    let file = public_file(home.path("runs"));
    let mut client = servers.client().await;
    for number in 1..=2 {
        client.store(&format!("orders.{number}"), "").await.unwrap();
    }
    for (name, next) in EARLIER.into_iter().zip([2, 3]) {
        put_earlier(&servers.hub, name, next).await;
    }
    // As a node of an earlier version does.
    let mut puller = servers.client().await;
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.ORDERS.{}", EARLIER[1]);
    let pulling =
        tokio::spawn(async move { puller.request(&subject, "", r#"{"batch":1,"expires":8000000000}"#).await });
    servers.until("one is used", |consumers| sum(consumers, "num_waiting") == 1).await;
    let daemon = follower(&servers.hub, &file).await;
    let shown = until(&daemon, "nats", "a problem", |it| it["problems"][0]["function"] == "f").await;
    assert!(shown["problems"][0]["error"].as_str().unwrap().contains(EARLIER[1]), "{shown}");
    let mut known = servers.until("both", |consumers| consumers.len() == 2).await;
    known.sort_by_key(|consumer| consumer["name"].to_string());
    assert_eq!(names(&known), EARLIER);
    let _ = pulling.await;

    servers.until("one consumer", |consumers| names(consumers) == [CONSUMER]).await;
    for number in 3..=4 {
        client.store(&format!("orders.{number}"), "").await.unwrap();
    }
    let subjects = ["orders.3", "orders.4"].map(str::to_owned);
    assert_eq!(all_run(&file, &subjects).await.len(), 2, "the messages after both");
    until(&daemon, "nats", "no problem", |it| it["problems"].is_null()).await;
    drop(daemon);
}
