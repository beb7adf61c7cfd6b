//! Messages of a stream of JetStream, by a durable consumer.
//!
//! A message is acknowledged after its invocation is durable. Its key is the stream and its number there, so a message that
//! is delivered again is the same invocation for as long as the function keeps its keys.

use std::{
    error::Error,
    fmt::Write as _,
    future::ready,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime},
};

use async_nats::jetstream::{
    self, AckKind, Message,
    consumer::{AckPolicy, DeliverPolicy, Info, PullConsumer, pull},
    context::{ConsumerInfoError, ConsumerInfoErrorKind},
    response::Response,
    stream::{RetentionPolicy, Stream},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use unifaas_actors::{WallTime, spec::NatsSpec, trigger::Subscription};

use super::{
    followed::Followed,
    intake::NotStored,
    nats::{Link, UNDER_WAY, invocation},
};

/// After that a message that is not acknowledged is delivered again: while the inbox takes nothing, it is prolonged.
const ACK_WAIT: Duration = Duration::from_secs(30);
const PROLONG: Duration = Duration::from_secs(10);
const MAX_ACK_PENDING: i64 = 10_000;
/// A server that is silent for twice as long is given up, and the consumer is asked for anew.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Follows a stream until it fails or is cancelled. Messages that are not stored by then are given back.
pub async fn follow(link: &Link<'_>, followed: &Followed<NatsSpec>, name: &str) -> Result<(), String> {
    let Followed { subscription, cancelled } = followed;
    let failed = |error: &dyn std::fmt::Display| format!("stream {name}: {error}");
    let consumer = open_consumer(link, subscription, name).await.map_err(|error| failed(&*error))?;
    let pulled = consumer.stream().max_messages_per_batch(UNDER_WAY).heartbeat(HEARTBEAT);
    let mut messages = pulled.messages().await.map_err(|error| failed(&error))?;
    link.source.status.set_problem(subscription, None);

    let mut failure = None;
    let until_failure = (&mut messages)
        .take_until(cancelled.cancelled())
        .scan(&mut failure, |failure, message| ready(message.map_err(|error| **failure = Some(error)).ok()));
    until_failure.for_each_concurrent(UNDER_WAY, |message| store(link, subscription, message, cancelled)).await;
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        give_back(&message).await;
    }
    failure.map_or(Ok(()), |error| Err(failed(&error)))
}

/// What is read of the answer for a stream.
#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
    /// The domain of the JetStream that has the stream, which may be beyond the server of the connection.
    domain: Option<String>,
}

#[derive(Deserialize)]
struct StreamConfig {
    retention: RetentionPolicy,
}

/// Opens the consumer of a subscription, which the nodes with the function share, at whatever server each is.
///
/// Its name has the domain of the stream: servers that are joined as leaf nodes confuse acknowledgements of consumers with the
/// same stream and name. Consumers of earlier versions have other names. While a node takes messages from such a consumer, no
/// new one is made, so that no message has two. Then the new one begins where the earlier ones have ended.
async fn open_consumer(
    link: &Link<'_>,
    subscription: &Subscription<NatsSpec>,
    name: &str,
) -> Result<PullConsumer, Box<dyn Error + Send + Sync>> {
    let context = jetstream::new(link.client.clone());
    let stream = context.get_stream_no_info(name).await?;
    let info: StreamInfo = match context.request(format!("STREAM.INFO.{name}"), &()).await? {
        Response::Ok(info) => info,
        Response::Err { error } => return Err(error.into()),
    };
    let name = consumer_name(subscription, info.domain.as_deref());
    let mut config = pull::Config {
        durable_name: Some(name.clone()),
        description: Some(format!("function {} of UniFaaS", subscription.function)),
        filter_subject: subscription.spec.subject.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    };
    if let Some(known) = known(&stream, &name).await? {
        // This cannot change.
        config.deliver_policy = known.config.deliver_policy;
        return Ok(stream.create_consumer(config).await?);
    }
    let earlier: Vec<_> = stream.consumers().try_filter(|info| ready(is_earlier(info, &config))).try_collect().await?;
    if let Some(used) = earlier.iter().find(|info| is_used(info, SystemTime::now())) {
        let name = &used.name;
        return Err(format!("a daemon of an earlier version takes the messages, with the consumer {name}").into());
    }
    if info.config.retention == RetentionPolicy::WorkQueue {
        // Such a stream has what is not acknowledged, and one consumer for it.
        remove(&stream, &earlier).await;
    } else if let Some(end) = earlier.iter().map(end_of).max() {
        config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: end + 1 };
    }
    // If another node has made it meanwhile, from another message on, this fails and is tried again.
    let consumer = stream.create_consumer(config).await?;
    remove(&stream, &earlier).await;
    Ok(consumer)
}

/// Returns whether a consumer is that of an earlier version for the subscription of this one.
fn is_earlier(info: &Info, config: &pull::Config) -> bool {
    info.config.description == config.description
        && info.config.filter_subject == config.filter_subject
        && config.durable_name.as_ref() != Some(&info.name)
}

/// Returns whether a daemon takes messages from a consumer. One whose inbox takes nothing asks for none, and has some that are
/// not acknowledged. So has a consumer whose daemon has just ended.
fn is_used(info: &Info, now: SystemTime) -> bool {
    let delivered = info.delivered.last_active.map(SystemTime::from);
    let is_recent = |at| now.duration_since(at).unwrap_or_default() < ACK_WAIT;
    info.num_waiting > 0 || (info.num_ack_pending > 0 && delivered.is_some_and(is_recent))
}

/// Returns the last message that a consumer's successor need not have.
fn end_of(info: &Info) -> u64 {
    let end = if info.num_ack_pending > 0 { &info.ack_floor } else { &info.delivered };
    end.stream_sequence
}

async fn remove(stream: &Stream<()>, consumers: &[Info]) {
    for consumer in consumers {
        // Another node may have removed it meanwhile.
        let _ = stream.delete_consumer(&consumer.name).await;
    }
}

async fn known(stream: &Stream<()>, name: &str) -> Result<Option<Info>, ConsumerInfoError> {
    match stream.consumer_info(name).await {
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        info => info.map(Some),
    }
}

/// Returns the consumer's name: the same on each node, so that nodes with the function share its messages, and the same
/// wherever in the function's file the subscription is.
fn consumer_name(subscription: &Subscription<NatsSpec>, domain: Option<&str>) -> String {
    let mut name = "unifaas".to_owned();
    let parts = [('=', domain), ('-', Some(&*subscription.function)), ('-', Some(&*subscription.spec.subject))];
    for (separator, part) in parts.into_iter().filter_map(|(separator, part)| Some((separator, part?))) {
        name.push(separator);
        for byte in part.bytes() {
            match byte {
                b'-' | b'_' => name.push(char::from(byte)),
                byte if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
                byte => {
                    // A string takes whatever is written to it.
                    let _ = write!(name, "={byte:02X}");
                }
            }
        }
    }
    name
}

async fn store(link: &Link<'_>, subscription: &Subscription<NatsSpec>, message: Message, stop: &CancellationToken) {
    link.source.status.received.fetch_add(1, Relaxed);
    // The reply subject of each message of a consumer says this.
    let Ok(info) = message.info() else { return };
    let key = format!("{}/{}", info.stream, info.stream_sequence);
    let time = WallTime::from(SystemTime::from(info.published)).to_string();
    let mut enqueue = invocation(subscription, message.message.clone(), key.clone(), time);
    enqueue.key = Some(key);
    let mut stored = std::pin::pin!(link.source.intake.store(enqueue, stop));
    let result = loop {
        tokio::select! {
            result = &mut stored => break result,
            // An error means that the connection is closed for good.
            () = sleep(PROLONG) => drop(message.ack_with(AckKind::Progress).await),
        }
    };
    // What gets lost here is delivered again.
    let _ = match result {
        Ok(_) => message.ack().await,
        Err(NotStored::Refused(_)) => message.ack_with(AckKind::Term).await,
        Err(NotStored::Cancelled) => return give_back(&message).await,
    };
}

/// Has a message delivered again, at once.
async fn give_back(message: &Message) {
    let _ = message.ack_with(AckKind::Nak(None)).await;
}

#[cfg(test)]
mod tests {
    use unifaas_actors::spec::NatsSource;

    use super::*;

    fn subscription(function: &str, subject: &str) -> Subscription<NatsSpec> {
        let source = NatsSource::Stream("S".to_owned());
        let spec = NatsSpec { subject: subject.to_owned(), source, path: "/".to_owned() };
        Subscription { function: function.into(), index: 3, spec }
    }

    #[test]
    fn name_of_a_consumer_has_only_what_servers_take() {
        let subscription = subscription("resize.v2", "orders.*.x-1.>");
        assert_eq!(consumer_name(&subscription, None), "unifaas-resize=2Ev2-orders=2E=2A=2Ex-1=2E=3E");
        assert_eq!(consumer_name(&subscription, Some("a.b")), "unifaas=a=2Eb-resize=2Ev2-orders=2E=2A=2Ex-1=2E=3E");
    }

    /// Returns what a server says of a consumer of `f`.
    fn info(name: &str, counts: serde_json::Value) -> Info {
        let mut info = serde_json::json!({
            "stream_name": "S",
            "name": name,
            "created": "2026-12-01T12:00:00Z",
            "config": {
                "durable_name": name, "description": "function f of UniFaaS", "filter_subject": "s",
                "deliver_policy": "all", "ack_policy": "explicit", "replay_policy": "instant"
            },
            "delivered": { "consumer_seq": 9, "stream_seq": 9, "last_active": "2026-12-01T12:00:00Z" },
            "ack_floor": { "consumer_seq": 7, "stream_seq": 7 },
            "num_ack_pending": 0, "num_redelivered": 0, "num_waiting": 0, "num_pending": 0,
        });
        info.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
        serde_json::from_value(info).unwrap()
    }

    fn after(seconds: u64) -> SystemTime {
        SystemTime::from(info("n", serde_json::json!({})).created) + Duration::from_secs(seconds)
    }

    #[test]
    fn consumers_of_earlier_versions_are_known_by_their_function_and_subject() {
        let config = |function: &str, subject: &str| pull::Config {
            durable_name: Some("now".to_owned()),
            description: Some(format!("function {function} of UniFaaS")),
            filter_subject: subject.to_owned(),
            ..pull::Config::default()
        };
        let known = |name| info(name, serde_json::json!({}));
        assert!(is_earlier(&known("before"), &config("f", "s")));
        assert!(!is_earlier(&known("now"), &config("f", "s")));
        assert!(!is_earlier(&known("before"), &config("g", "s")) && !is_earlier(&known("before"), &config("f", "t")));
    }

    #[test]
    fn consumer_is_used_while_a_daemon_asks_for_messages_or_has_some() {
        let used = |counts, seconds| is_used(&info("n", counts), after(seconds));
        assert!(used(serde_json::json!({ "num_waiting": 1 }), 3600));
        assert!(used(serde_json::json!({ "num_ack_pending": 1 }), 29));
        assert!(!used(serde_json::json!({ "num_ack_pending": 1 }), 30));
        assert!(!used(serde_json::json!({}), 0));
    }

    #[test]
    fn successor_of_a_consumer_has_what_was_not_acknowledged() {
        assert_eq!(end_of(&info("n", serde_json::json!({}))), 9);
        assert_eq!(end_of(&info("n", serde_json::json!({ "num_ack_pending": 2 }))), 7);
    }
}
