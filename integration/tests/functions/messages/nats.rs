//! NATS: core messages, answers to them, and streams, each of whose messages is one invocation.
//!
//! `UNIFAAS_KILLS=20 cargo test -p integration --test functions messages::nats` is the long form.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
};

use integration::{
    Function, Home, Setup,
    brokers::{Broker, NatsClient, lines_of, own_address, public_file},
    eventually, ms,
};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{all_run, connected, put_earlier, recorder, repeats, runs, until};

/// Kills without `UNIFAAS_KILLS`.
const KILLS: u32 = 4;

/// Stores messages in a stream at a steady rate, and keeps the subjects of those that the server has stored.
struct Publishing {
    stored: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Publishing {
    fn start(address: std::net::SocketAddr) -> Self {
        let stored = Arc::<Mutex<Vec<String>>>::default();
        let subjects = stored.clone();
        let task = tokio::spawn(async move {
            let mut number = 0;
            loop {
                let Ok(mut client) = NatsClient::connect(address).await else {
                    sleep(ms(50)).await;
                    continue;
                };
                loop {
                    number += 1;
                    let subject = format!("orders.{number}");
                    if client.store(&subject, "body").await.is_err() {
                        break;
                    }
                    subjects.lock().unwrap().push(subject);
                    sleep(ms(10)).await;
                }
            }
        });
        Self { stored, task }
    }

    async fn more(&self, count: usize) {
        let before = self.stored.lock().unwrap().len();
        let stored = async || self.stored.lock().unwrap().len();
        eventually(ms(60_000), "messages are stored", stored, |now| *now >= before + count).await;
    }

    fn stop(self) -> Vec<String> {
        self.task.abort();
        std::mem::take(&mut *self.stored.lock().unwrap())
    }
}

fn stream_subscriber(file: &Path) -> Function {
    recorder("f", "[[nats]]\nsubject = \"orders.*\"\nstream = \"ORDERS\"", file)
}

/// Returns the ids of all events, which are those of the stream.
fn event_ids(file: &Path) -> BTreeSet<String> {
    lines_of(file).iter().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect()
}

#[tokio::test]
async fn core_message_becomes_an_invocation_and_its_answer_goes_to_the_reply_subject() {
    let home = Home::new();
    let Some(broker) = Broker::nats(&home, "").await else { return };
    let trigger =
        "[[nats]]\nsubject = \"echo.>\"\npath = \"/echo\"\n[[nats]]\nsubject = \"heads.*\"\npath = \"/headers\"";
    let function = Function::new("f").asynchronous("max-body", 1).asynchronous("attempts", 1).table(trigger);
    let daemon = Setup::default().function(function).option("--nats", broker.url("nats")).start().await;
    connected(&daemon, "nats").await;
    let mut client = NatsClient::connect(broker.address).await.unwrap();
    let mut answered = None;
    let ask = async || match client.request("echo.a.b", "Content-Type: text/plain\r\n", "hello").await {
        // The subscription may follow the connection by a moment.
        Ok(answer) if !answer.headers.contains("503") => {
            answered = Some(answer);
            true
        }
        _ => false,
    };
    eventually(ms(60_000), "an answer", ask, |is_answered| *is_answered).await;
    let answer = answered.unwrap();
    assert_eq!((answer.body.as_str(), answer.header("x-unifaas-status")), ("hello", Some("200")), "{answer:?}");
    let id = answer.header("x-unifaas-invocation").unwrap();
    assert_eq!(daemon.invocation(id).await["state"], "done");

    let heads = client.request("heads.x", "Content-Type: text/x-test\r\n", "hello").await.unwrap().body.to_lowercase();
    for header in ["ce-type: unifaas.nats", "ce-source: /nats/f/1", "ce-subject: heads.x", "content-type: text/x-test"]
    {
        assert!(heads.contains(header), "{header}: {heads}");
    }
    let large = client.request("echo.large", "", &"x".repeat((1 << 20) - 1000)).await.unwrap();
    // The answer fits, with the headers of the platform.
    assert_eq!(large.header("x-unifaas-status"), Some("200"), "{}", large.headers);
    let shown = until(&daemon, "nats", "counted", |it| it["stored"].as_u64() >= Some(3)).await;
    assert_eq!((&shown["subscriptions"], &shown["problems"]), (&2.into(), &serde_json::Value::Null));
    daemon
        .measured("the connection", |metrics| metrics.value("unifaas_trigger_connected{source=\"nats\"}") == Some(1.0))
        .await;
}

#[tokio::test]
async fn requester_is_answered_if_there_is_no_answer_of_the_function() {
    let home = Home::new();
    let Some(broker) = Broker::nats(&home, "max_payload: 4MB").await else { return };
    let trigger = "[[nats]]\nsubject = \"f\"\npath = \"/exit?code=1\"";
    let function = Function::new("f").asynchronous("attempts", 1).table(trigger);
    let daemon = Setup::default().function(function).option("--nats", broker.url("nats")).start().await;
    connected(&daemon, "nats").await;
    let mut client = NatsClient::connect(broker.address).await.unwrap();
    let mut errors = BTreeSet::new();
    let mut ask = async |body: &str| {
        let answer = client.request("f", "", body).await;
        answer.ok().and_then(|answer| answer.header("x-unifaas-error").map(str::to_owned))
    };
    for (body, why) in [("", "the function has not answered"), (&*"x".repeat(2 << 20), "larger than 1048576 bytes")] {
        let error = async || ask(body).await;
        let error = eventually(ms(60_000), why, error, Option::is_some).await.unwrap();
        assert!(error.contains(why), "{error}");
        errors.insert(error);
    }
    assert_eq!(errors.len(), 2);
}

#[tokio::test]
async fn each_message_of_a_stream_is_one_invocation_whatever_is_killed() {
    let kills = repeats("UNIFAAS_KILLS", KILLS);
    let home = Home::new();
    let Some(mut broker) = Broker::nats(&home, "").await else { return };
    NatsClient::connect(broker.address).await.unwrap().create_stream("ORDERS", "orders.*").await;
    let file = public_file(home.path("runs"));
    home.put(&stream_subscriber(&file));
    let start = async || Setup::at(&home).option("--nats", broker.url("nats")).start().await;
    let mut daemon = start().await;
    connected(&daemon, "nats").await;
    let publishing = Publishing::start(broker.address);
    for round in 0..kills {
        publishing.more(30).await;
        if round % 2 == 0 {
            broker.end(Signal::SIGKILL);
            broker.start().await;
        } else {
            daemon.killed().await;
            daemon = Setup::at(&home).option("--nats", broker.url("nats")).start().await;
        }
        connected(&daemon, "nats").await;
    }
    publishing.more(30).await;
    let successor = daemon.upgrade().await;
    connected(&daemon, "nats").await;
    publishing.more(30).await;
    let stored = publishing.stop();
    let runs = all_run(&file, &stored).await;
    let twice: Vec<_> = runs.iter().filter(|(_, invocations)| invocations.len() > 1).collect();
    assert!(twice.is_empty(), "a message has two invocations: {twice:?}");
    assert!(event_ids(&file).iter().all(|id| id.starts_with("ORDERS/")), "the key of a stream");
    drop(successor);
}

#[tokio::test]
async fn stream_that_does_not_exist_yet_is_shown_and_followed_once_it_does() {
    let home = Home::new();
    let Some(broker) = Broker::nats(&home, "").await else { return };
    let file = public_file(home.path("runs"));
    home.put(&stream_subscriber(&file));
    let daemon = Setup::at(&home).option("--nats", broker.url("nats")).start().await;
    let shown = until(&daemon, "nats", "a problem", |it| it["problems"][0]["function"] == "f").await;
    assert!(shown["problems"][0]["error"].as_str().unwrap().contains("stream ORDERS"), "{shown}");
    let mut client = NatsClient::connect(broker.address).await.unwrap();
    client.create_stream("ORDERS", "orders.*").await;
    client.store("orders.1", "").await.unwrap();
    all_run(&file, &["orders.1".to_owned()]).await;
    until(&daemon, "nats", "no problem", |it| it["problems"].is_null()).await;
    assert_eq!(runs(&file)["orders.1"].len(), 1);
}

#[tokio::test]
async fn consumer_of_an_earlier_version_is_replaced_where_it_has_ended() {
    let home = Home::new();
    let store = home.path("nats/store");
    let settings = format!("jetstream {{ store_dir: {store:?}, domain: edge }}");
    let Some(broker) = Broker::nats_at(&home, own_address(4222), &settings).await else { return };
    let mut client = NatsClient::connect(broker.address).await.unwrap();
    client.create_stream("ORDERS", "orders.*").await;
    for number in 1..=3 {
        client.store(&format!("orders.{number}"), "").await.unwrap();
    }
    // It has given away the first two messages.
    let earlier = "unifaas-f-orders=2E=2A";
    put_earlier(&broker, earlier, 3).await;
    let file = public_file(home.path("runs"));
    home.put(&stream_subscriber(&file));
    let daemon = Setup::at(&home).option("--nats", broker.url("nats")).start().await;
    all_run(&file, &["orders.3".to_owned()]).await;
    client.store("orders.4", "").await.unwrap();
    all_run(&file, &["orders.4".to_owned()]).await;
    assert_eq!(runs(&file).len(), 2, "{:?}", runs(&file));
    let known = client.request("$JS.API.CONSUMER.NAMES.ORDERS", "", "").await.unwrap().body;
    assert!(known.contains("unifaas=edge-f-orders=2E=2A") && !known.contains(earlier), "{known}");
    drop(daemon);
}
