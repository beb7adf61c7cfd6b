//! Messages of a stream of JetStream, by a durable consumer.
//!
//! A message is acknowledged after its invocation is durable. Its key is the stream and its number there, so a message that
//! is delivered again is the same invocation for as long as the function keeps its keys.

use std::{error::Error, fmt::Write as _, future::ready, sync::atomic::Ordering::Relaxed, time::Duration};

use async_nats::jetstream::{
    self, AckKind, Message,
    consumer::{AckPolicy, DeliverPolicy, Info, PullConsumer, pull},
    context::{ConsumerInfoError, ConsumerInfoErrorKind},
    response::Response,
    stream::{RetentionPolicy, Stream},
};
use futures::{FutureExt as _, StreamExt as _};
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
/// Its name has the domain of the stream: in servers that are joined as leaf nodes, what has the same stream and consumer takes
/// an acknowledgement of one for its own. Consumers of earlier versions have no domain in their name, or that of the server.
/// While any node uses one of them, all do, unless there is one of this version; then another one begins where they have ended.
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
    let mut earlier = Vec::new();
    // Before that of this version: a node that replaces them makes it first.
    for name in earlier_names(subscription, &name, link.client.server_info().domain.as_deref()) {
        earlier.extend(known(&stream, &name).await?);
    }
    let mut config = pull::Config {
        durable_name: Some(name.clone()),
        description: Some(format!("function {} of UniFaaS", subscription.function)),
        filter_subject: subscription.spec.subject.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    };
    let is_used = |info: &Info| info.num_waiting > 0 || info.num_ack_pending > 0;
    if let Some(known) = known(&stream, &name).await? {
        // This cannot change.
        config.deliver_policy = known.config.deliver_policy;
        // Nodes at another server may still have them. They have nothing that this one has not.
        earlier.retain(|info| !is_used(info));
    } else if let Some(used) = earlier.iter().find(|info| is_used(info)) {
        config.durable_name = Some(used.name.clone());
        config.deliver_policy = used.config.deliver_policy;
        earlier.clear();
    } else if info.config.retention == RetentionPolicy::WorkQueue {
        // Such a stream has what is not acknowledged, and one consumer for it.
        for earlier in earlier.drain(..) {
            stream.delete_consumer(&earlier.name).await?;
        }
    } else if let Some(end) = earlier.iter().map(|info| info.delivered.stream_sequence).max() {
        config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: end + 1 };
    }
    let consumer = stream.create_consumer(config).await?;
    for earlier in earlier {
        // Another node may have removed it meanwhile.
        let _ = stream.delete_consumer(&earlier.name).await;
    }
    Ok(consumer)
}

/// Returns the names that earlier versions gave to a consumer that has this name now.
fn earlier_names(subscription: &Subscription<NatsSpec>, name: &str, server_domain: Option<&str>) -> Vec<String> {
    let mut names = vec![consumer_name(subscription, None), consumer_name(subscription, server_domain)];
    names.dedup();
    names.retain(|earlier| earlier != name);
    names
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
    let time = WallTime::from(std::time::SystemTime::from(info.published)).to_string();
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

    #[test]
    fn consumer_is_asked_for_once_by_each_name_that_it_may_have() {
        let subscription = subscription("f", "s");
        let [none, hub, edge] = ["unifaas-f-s", "unifaas=hub-f-s", "unifaas=edge-f-s"];
        let cases: [(_, _, &[&str]); 6] = [
            (none, None, &[]),
            (none, Some("edge"), &[edge]),
            (hub, None, &[none]),
            (hub, Some("hub"), &[none]),
            (hub, Some("edge"), &[none, edge]),
            (edge, Some("edge"), &[none]),
        ];
        for (name, server_domain, earlier) in cases {
            assert_eq!(earlier_names(&subscription, name, server_domain), earlier, "{name} {server_domain:?}");
        }
    }
}
