//! The connection to a NATS server: core messages here, those of streams in `stream.rs`.
//!
//! A core message is at most once: what comes while the daemon is away is lost. If it has a reply subject, the body of the
//! function's answer goes there.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{Client, Event, Message, ServerAddr, connection::State};
use futures::{
    StreamExt as _,
    stream::{FuturesUnordered, Stream},
};
use slog::{info, warn};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use unifaas_actors::{
    WallTime,
    inbox::Enqueue,
    spec::{NatsSource, NatsSpec},
    trigger::{Event as CloudEvent, Subscription, Subscriptions},
};

use super::{
    connections::Source,
    followed::{AllFollowed, Followed},
    reply, stream,
};
use crate::broker::{BrokerSettings, NatsUrl, nats_options, too_old};

/// Between two attempts to make a connection or a subscription.
const RETRY: Duration = Duration::from_secs(1);
/// A server that does not answer twice is given up.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Messages of a subscription that are being stored at once.
pub const UNDER_WAY: usize = 64;
/// Messages that a subscription holds in memory. More are dropped, as those of slow consumers.
const CAPACITY: usize = 1024;
/// Answers that are waited for at once, to be sent to reply subjects.
const MAX_REPLIES: usize = 1024;
/// How long acknowledgements may take to leave at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What all subscriptions use.
pub struct Link<'a> {
    pub client: Client,
    pub source: &'a Source,
    pub replies: Arc<Semaphore>,
}

/// Follows the subscriptions at the server until the source stops. Connects with the first one.
pub async fn run(
    url: &NatsUrl,
    settings: &BrokerSettings,
    mut wanted: watch::Receiver<Subscriptions>,
    source: &Source,
) {
    tokio::select! {
        Ok(_) = wanted.wait_for(|wanted| !wanted.nats.is_empty()) => {}
        () = source.stop.cancelled() => return,
    }
    let client = tokio::select! {
        client = connected(url, settings, source) => client,
        () = source.stop.cancelled() => return,
    };
    let link = Link { client, source, replies: Arc::new(Semaphore::new(MAX_REPLIES)) };
    let (mut all, mut running) = (AllFollowed::new(&source.stop), FuturesUnordered::new());
    loop {
        let new = all.update(&wanted.borrow_and_update().nats);
        running.extend(new.into_iter().map(|followed| follow(&link, followed)));
        let changed = async {
            tokio::select! {
                Ok(()) = wanted.changed() => true,
                () = source.stop.cancelled() => false,
            }
        };
        if !beside(&mut running, changed).await {
            break;
        }
    }
    while running.next().await.is_some() {}
    let _ = timeout(FLUSH_TIMEOUT, link.client.flush()).await;
}

/// Waits for `change`, and drives the subscriptions meanwhile.
async fn beside<T>(running: &mut (impl Stream + Unpin), change: impl Future<Output = T>) -> T {
    let mut change = std::pin::pin!(change);
    poll_fn(|cx| {
        while let std::task::Poll::Ready(Some(_)) = running.poll_next_unpin(cx) {}
        change.as_mut().poll(cx)
    })
    .await
}

/// Returns the connection once there is one. It is made again by itself from then on.
async fn connected(url: &NatsUrl, settings: &BrokerSettings, source: &Source) -> Client {
    let Source { status, log, .. } = source;
    loop {
        let is_usable = Arc::new(AtomicBool::new(false));
        let error = match connect(url, settings, source, is_usable.clone()).await.map_err(|error| error.to_string()) {
            Ok(client) => match too_old(&client.server_info().version) {
                None => {
                    is_usable.store(true, Relaxed);
                    note(&Event::Connected, source, &url.to_string());
                    // Its end may have come before the events counted.
                    if client.connection_state() != State::Connected {
                        status.set_disconnected(None);
                    }
                    return client;
                }
                Some(why) => why,
            },
            Err(error) => error,
        };
        if status.set_disconnected(Some(error.clone())) {
            warn!(log, "not connected to the NATS server"; "server" => %url, "error" => error);
        }
        sleep(RETRY).await;
    }
}

/// Makes the connection. Its events are noted while it is usable: those of a server that is refused do not count.
async fn connect(
    url: &NatsUrl,
    settings: &BrokerSettings,
    source: &Source,
    is_usable: Arc<AtomicBool>,
) -> io::Result<Client> {
    let (shown, noted) = (url.to_string(), source.clone());
    let options = nats_options(url, settings)
        .name(&settings.client_id)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(CAPACITY)
        .event_callback(move |event| {
            if is_usable.load(Relaxed) {
                note(&event, &noted, &shown);
            }
            async {}
        });
    let address: ServerAddr = url.to_string().parse()?;
    options.connect(address).await.map_err(io::Error::other)
}

fn note(event: &Event, source: &Source, server: &str) {
    let Source { status, log, .. } = source;
    match event {
        Event::Connected => {
            if status.set_connected() {
                info!(log, "connected to the NATS server"; "server" => server);
            }
        }
        Event::Disconnected | Event::Closed => {
            if status.set_disconnected(None) {
                warn!(log, "not connected to the NATS server"; "server" => server);
            }
        }
        Event::SlowConsumer(_) => drop(status.dropped.fetch_add(1, Relaxed)),
        Event::ClientError(_) | Event::ServerError(_) => {
            let error = event.to_string();
            if status.set_error(&error) {
                warn!(log, "error of the NATS connection"; "server" => server, "error" => error);
            }
        }
        Event::LameDuckMode | Event::Draining => {}
    }
}

/// Follows one subscription until it is cancelled, whatever happens to the connection.
async fn follow(link: &Link<'_>, followed: Arc<Followed<NatsSpec>>) {
    let Followed { subscription, cancelled } = &*followed;
    while !cancelled.is_cancelled() {
        let ended = match &subscription.spec.source {
            NatsSource::Queue(queue) => core(link, &followed, queue).await,
            NatsSource::Stream(name) => stream::follow(link, &followed, name).await,
        };
        let Source { status, log, .. } = link.source;
        if let Err(error) = ended
            && status.set_problem(subscription, Some(error.clone()))
        {
            warn!(log, "subscription does not work, and is tried again"; "function" => &*subscription.function,
                "subject" => &subscription.spec.subject, "error" => error);
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = cancelled.cancelled() => {}
        }
    }
}

/// Follows core messages until the subscription ends. What has come by then is stored.
async fn core(link: &Link<'_>, followed: &Followed<NatsSpec>, queue: &str) -> Result<(), String> {
    let Followed { subscription, cancelled } = followed;
    let subject = subscription.spec.subject.clone();
    let subscribed = link.client.queue_subscribe(subject, queue.to_owned()).await;
    let mut messages = subscribed.map_err(|error| error.to_string())?;
    link.source.status.set_problem(subscription, None);
    let store = |message| store(link, subscription, message, cancelled);
    (&mut messages).take_until(cancelled.cancelled()).for_each_concurrent(UNDER_WAY, store).await;
    messages.unsubscribe().await.map_err(|error| error.to_string())?;
    messages.for_each_concurrent(UNDER_WAY, store).await;
    Ok(())
}

async fn store(link: &Link<'_>, subscription: &Subscription<NatsSpec>, message: Message, stop: &CancellationToken) {
    link.source.status.received.fetch_add(1, Relaxed);
    let reply = message.reply.clone();
    let id = format!("{:032x}", rand::random::<u128>());
    let enqueue = invocation(subscription, message, id, WallTime::now().to_string());
    let result = link.source.intake.store(enqueue, stop).await;
    if let Some(subject) = reply {
        reply::send(link, subject, result);
    }
}

/// Makes the invocation for a message.
pub fn invocation(subscription: &Subscription<NatsSpec>, message: Message, id: String, time: String) -> Enqueue {
    let Subscription { function, index, spec } = subscription;
    let content_type = message.headers.as_ref().and_then(|headers| headers.get("Content-Type"));
    let event = CloudEvent {
        id,
        source: format!("/nats/{function}/{index}"),
        kind: "unifaas.nats",
        time,
        subject: Some(message.subject.to_string()),
        content_type: content_type.map(|value| value.as_str().to_owned()).filter(|value| is_header_value(value)),
    };
    Enqueue::new(function, event.request("POST", &spec.path, message.payload))
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}
