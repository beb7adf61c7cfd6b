//! Messages of brokers invoke functions.

mod domains;
mod mqtt;
mod nats;
mod security;
mod settings;

use std::{collections::BTreeMap, env, path::Path};

use integration::{
    Daemon, Function,
    brokers::{Broker, NatsClient, lines_of},
    eventually, ms,
};
use serde_json::Value;

/// Returns a function that adds a line to a file for each run: the subject of the event, its id, and the invocation.
pub fn recorder(name: &str, trigger: &str, file: &Path) -> Function {
    let path = format!("/record?ms=0&headers=ce-subject,ce-id,x-unifaas-invocation&file={}", file.display());
    Function::new(name)
        .set("concurrent-requests", 16)
        .asynchronous("attempts", 1000)
        .asynchronous("backoff", 0.1)
        .asynchronous("concurrency", 8)
        .table(&format!("{trigger}\npath = \"{path}\""))
}

/// Returns the invocations by the subject of their event.
fn runs(file: &Path) -> BTreeMap<String, Vec<String>> {
    let mut runs = BTreeMap::<_, Vec<_>>::new();
    for line in lines_of(file) {
        let words: Vec<_> = line.split(' ').collect();
        let invocations = runs.entry(words[0].to_owned()).or_default();
        if !invocations.iter().any(|it| it == words[2]) {
            invocations.push(words[2].to_owned());
        }
    }
    runs
}

/// Waits until the event of each subject has run, and returns the runs.
pub async fn all_run(file: &Path, subjects: &[String]) -> BTreeMap<String, Vec<String>> {
    let missing = async || {
        let runs = runs(file);
        subjects.iter().filter(|subject| !runs.contains_key(*subject)).cloned().collect::<Vec<_>>()
    };
    eventually(ms(120_000), "all confirmed messages have run", missing, Vec::is_empty).await;
    runs(file)
}

/// Returns the state of a connection.
async fn source(daemon: &Daemon, kind: &str) -> Value {
    let debug = daemon.debug().await;
    let sources = debug["daemon"]["triggers"]["sources"].as_array().cloned().unwrap_or_default();
    sources.into_iter().find(|source| source["kind"] == kind).unwrap_or_default()
}

/// Waits until a connection has a state.
pub async fn until(daemon: &Daemon, kind: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(ms(60_000), format!("{kind}: {what}"), async || source(daemon, kind).await, is_so).await
}

pub async fn connected(daemon: &Daemon, kind: &str) {
    until(daemon, kind, "connected", |source| source["state"] == "connected").await;
}

/// Returns the consumers of the stream `ORDERS`.
pub async fn consumers(server: &Broker) -> Vec<Value> {
    let mut client = NatsClient::connect(server.address).await.unwrap();
    let known = client.request("$JS.API.CONSUMER.LIST.ORDERS", "", "").await.unwrap();
    let known: Value = serde_json::from_str(&known.body).unwrap();
    known["consumers"].as_array().cloned().unwrap_or_default()
}

/// Makes a consumer of an earlier version for the stream `ORDERS` and the function `f`, which has ended before this message.
pub async fn put_earlier(server: &Broker, name: &str, next: u64) {
    let config = format!(
        "{{\"stream_name\":\"ORDERS\",\"config\":{{\"durable_name\":{name:?},\"filter_subject\":\"orders.*\",\
         \"description\":\"function f of UniFaaS\",\
         \"ack_policy\":\"explicit\",\"deliver_policy\":\"by_start_sequence\",\"opt_start_seq\":{next}}}}}"
    );
    let mut client = NatsClient::connect(server.address).await.unwrap();
    let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.ORDERS.{name}");
    let made = client.request(&subject, "", &config).await.unwrap();
    assert!(!made.body.contains("\"error\""), "{made:?}");
}

/// Returns how often something is repeated: the variable says it for the long form.
fn repeats(variable: &str, default: u32) -> u32 {
    env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}
