//! MQTT: each message that the broker has confirmed is run, whatever restarts.
//!
//! `UNIFAAS_RESTARTS=50 cargo test -p integration --test functions messages::mqtt` is the long form.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use integration::{
    Function, Home, Setup,
    brokers::{Broker, MqttPublisher, lines_of, public_file},
    eventually, ms,
};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::{all_run, connected, recorder, repeats, runs, until};

/// Restarts without `UNIFAAS_RESTARTS`.
const RESTARTS: u32 = 5;

/// Publishes at a steady rate, whatever happens to the broker, and keeps the topics of confirmed messages.
struct Publishing {
    confirmed: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Publishing {
    fn start(address: std::net::SocketAddr) -> Self {
        let confirmed = Arc::<Mutex<Vec<String>>>::default();
        let topics = confirmed.clone();
        let next = AtomicU32::new(0);
        let task = tokio::spawn(async move {
            loop {
                let Ok(mut publisher) = MqttPublisher::connect(address).await else {
                    sleep(ms(50)).await;
                    continue;
                };
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let topic = format!("t/{number}");
                    // Both qualities that are confirmed.
                    if publisher.publish(&topic, b"body", 1 + u8::from(number.is_multiple_of(3))).await.is_err() {
                        break;
                    }
                    topics.lock().unwrap().push(topic);
                    sleep(ms(10)).await;
                }
            }
        });
        Self { confirmed, task }
    }

    /// Waits until so many more messages are confirmed.
    async fn more(&self, count: usize) {
        let before = self.confirmed.lock().unwrap().len();
        let confirmed = async || self.confirmed.lock().unwrap().len();
        eventually(ms(60_000), "messages are confirmed", confirmed, |now| *now >= before + count).await;
    }

    fn stop(self) -> Vec<String> {
        self.task.abort();
        std::mem::take(&mut *self.confirmed.lock().unwrap())
    }
}

fn subscriber(file: &Path, qos: u8) -> Function {
    recorder("f", &format!("[[mqtt]]\ntopic = \"t/+\"\nqos = {qos}"), file)
}

#[tokio::test]
async fn message_becomes_an_invocation_of_each_function_that_subscribes() {
    let home = Home::new();
    let Some(broker) = Broker::mqtt(&home, false).await else { return };
    let (one, other) = (public_file(home.path("one")), public_file(home.path("other")));
    home.put(&recorder("one", "[[mqtt]]\ntopic = \"home/+/temperature\"\nqos = 2", &one));
    home.put(&recorder("other", "[[mqtt]]\ntopic = \"home/#\"\nqos = 0", &other));
    let daemon = Setup::at(&home).option("--mqtt", broker.url("mqtt")).start().await;
    connected(&daemon, "mqtt").await;
    let mut publisher = MqttPublisher::connect(broker.address).await.unwrap();
    for (topic, qos) in [("home/k%/temperature", 2), ("home/hall/light", 1), ("home/hall/temperature", 0)] {
        // The subscriptions may follow the connection by a moment.
        let both = async || {
            publisher.publish(topic, b"21", qos).await.unwrap();
            sleep(ms(200)).await;
            lines_of(&other).iter().any(|line| line.starts_with(&topic.replace('%', "%25")))
        };
        eventually(ms(60_000), format!("{topic} has run"), both, |has_run| *has_run).await;
    }
    let of_one = async || runs(&one).into_keys().collect::<Vec<_>>();
    let both = |topics: &Vec<_>| topics.len() == 2;
    let topics = eventually(ms(60_000), "the other one has run", of_one, both).await;
    assert_eq!(topics, ["home/hall/temperature", "home/k%25/temperature"]);
    let shown = until(&daemon, "mqtt", "counted", |it| it["stored"].as_u64() >= Some(5)).await;
    assert_eq!((&shown["subscriptions"], &shown["broker"]), (&2.into(), &broker.url("mqtt").into()));
    daemon
        .measured("the connection and its messages", |metrics| {
            metrics.value("unifaas_trigger_connected{source=\"mqtt\"}") == Some(1.0)
                && metrics.sum("unifaas_trigger_messages_total{source=\"mqtt\",result=\"stored\"}") >= 5.0
        })
        .await;
    // A changed topic is another subscription.
    home.put(&recorder("one", "[[mqtt]]\ntopic = \"garden/+\"", &one));
    let changed = async || {
        publisher.publish("garden/gate", b"open", 1).await.unwrap();
        sleep(ms(200)).await;
        runs(&one).contains_key("garden/gate")
    };
    eventually(ms(60_000), "the new topic", changed, |has_run| *has_run).await;
}

/// Publishes until a message has run, so that the daemon has subscribed.
async fn subscribed(publisher: &mut MqttPublisher, file: &Path) {
    let begun = async || {
        publisher.publish("t/first", b"", 1).await.unwrap();
        sleep(ms(100)).await;
        runs(file).contains_key("t/first")
    };
    eventually(ms(60_000), "the subscription", begun, |has_begun| *has_begun).await;
}

#[tokio::test]
async fn confirmed_messages_survive_restarts_of_a_broker_that_persists() {
    let restarts = repeats("UNIFAAS_RESTARTS", RESTARTS);
    let home = Home::new();
    let Some(mut broker) = Broker::mqtt(&home, true).await else { return };
    let file = public_file(home.path("runs"));
    home.put(&subscriber(&file, 2));
    let daemon = Setup::at(&home).option("--mqtt", broker.url("mqtt")).start().await;
    connected(&daemon, "mqtt").await;
    // Its session begins with the subscription, which follows the connection.
    subscribed(&mut MqttPublisher::connect(broker.address).await.unwrap(), &file).await;
    let publishing = Publishing::start(broker.address);
    for _ in 0..restarts {
        publishing.more(30).await;
        broker.end(Signal::SIGTERM);
        broker.start().await;
        connected(&daemon, "mqtt").await;
    }
    publishing.more(30).await;
    let confirmed = publishing.stop();
    all_run(&file, &confirmed).await;
}

#[tokio::test]
async fn subscription_is_back_after_a_broker_has_forgotten_the_session() {
    let restarts = repeats("UNIFAAS_RESTARTS", RESTARTS);
    let home = Home::new();
    let Some(mut broker) = Broker::mqtt(&home, false).await else { return };
    let file = public_file(home.path("runs"));
    home.put(&subscriber(&file, 1));
    let daemon = Setup::at(&home).option("--mqtt", broker.url("mqtt")).start().await;
    connected(&daemon, "mqtt").await;
    let mut longest = Duration::ZERO;
    for number in 0..restarts {
        broker.end(Signal::SIGKILL);
        broker.start().await;
        let (began, topic) = (Instant::now(), format!("t/{number}"));
        let mut publisher = MqttPublisher::connect(broker.address).await.unwrap();
        let is_back = async || {
            publisher.publish(&topic, b"", 1).await.unwrap();
            sleep(ms(20)).await;
            runs(&file).contains_key(&topic)
        };
        eventually(ms(60_000), format!("{topic} has run"), is_back, |is_back| *is_back).await;
        longest = longest.max(began.elapsed());
    }
    eprintln!("{restarts} restarts: the subscription was back after {longest:?} at most");
}

#[tokio::test]
async fn confirmed_messages_survive_kills_and_an_upgrade_of_the_daemon() {
    let kills = repeats("UNIFAAS_KILLS", RESTARTS);
    let home = Home::new();
    let Some(broker) = Broker::mqtt(&home, false).await else { return };
    let file = public_file(home.path("runs"));
    home.put(&subscriber(&file, 2));
    let start = async || Setup::at(&home).option("--mqtt", broker.url("mqtt")).start().await;
    let mut daemon = start().await;
    let mut first = MqttPublisher::connect(broker.address).await.unwrap();
    let begun = async || {
        first.publish("t/first", b"", 1).await.unwrap();
        sleep(ms(100)).await;
        runs(&file).contains_key("t/first")
    };
    eventually(ms(60_000), "the subscription", begun, |has_begun| *has_begun).await;
    let publishing = Publishing::start(broker.address);
    for _ in 0..kills {
        publishing.more(20).await;
        daemon.killed().await;
        daemon = start().await;
    }
    connected(&daemon, "mqtt").await;
    publishing.more(20).await;
    let successor = daemon.upgrade().await;
    connected(&daemon, "mqtt").await;
    publishing.more(20).await;
    let confirmed = publishing.stop();
    all_run(&file, &confirmed).await;
    drop(successor);
}

#[tokio::test]
async fn messages_wait_at_the_broker_while_the_inbox_is_full() {
    let home = Home::new();
    let Some(broker) = Broker::mqtt(&home, false).await else { return };
    let file = public_file(home.path("runs"));
    // It has room for two, and the first ones fail until the trigger's path is right.
    let full = Function::new("f").asynchronous("queue", 2).asynchronous("attempts", 1000).asynchronous("backoff", 0.2);
    let full = full.asynchronous("backoff-max", 0.5).set("concurrent-requests", 4);
    let path = format!("/record?ms=300&headers=ce-subject,ce-id,x-unifaas-invocation&file={}", file.display());
    home.put(&full.table(&format!("[[mqtt]]\ntopic = \"t/+\"\npath = \"{path}\"")));
    let daemon = Setup::at(&home).option("--mqtt", broker.url("mqtt")).start().await;
    connected(&daemon, "mqtt").await;
    let mut publisher = MqttPublisher::connect(broker.address).await.unwrap();
    subscribed(&mut publisher, &file).await;
    let topics: Vec<_> = (0..40).map(|number| format!("t/{number}")).collect();
    for topic in &topics {
        publisher.publish(topic, b"", 1).await.unwrap();
    }
    let runs = all_run(&file, &topics).await;
    assert!(topics.iter().all(|topic| runs[topic].len() == 1), "the connection was never lost: {runs:?}");
    assert!(daemon.log().contains("message waits for the inbox"), "{}", daemon.log());
}
