//! The connection to an MQTT broker: one session for all functions, kept by the broker while the daemon is away.
//!
//! rumqttc speaks the protocol. Its event loop runs beside the code here. Messages are acknowledged in the order in which
//! they came, each after its invocations are durable. While too many bytes wait for the inbox, nothing is read: the broker
//! keeps what it may not send, and ends the connection of a client that is silent for too long.

use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{StreamExt as _, future::join_all, stream::FuturesOrdered};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, Incoming, MqttOptions, MqttState, Outgoing,
    Publish, QoS, Request, SubAck, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use slog::{error, info, warn};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    time::sleep,
};
use unifaas_actors::{
    WallTime,
    inbox::Enqueue,
    spec::MqttSpec,
    trigger::{Event as CloudEvent, Subscription, Subscriptions},
};

use super::{
    connections::Source,
    followed::{AllFollowed, Followed},
    intake::NotStored,
    topic,
};
use crate::{
    broker::{BrokerSettings, MqttUrl},
    client_tls::client_config,
};

/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(500);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Requests of this side that wait for the event loop: more than there can be acknowledgements.
const REQUESTS: usize = 1 << 17;
/// Largest packet, in bytes: the largest body that an invocation may have, and its head.
const MAX_PACKET: usize = 17 << 20;
/// Messages that wait for the inbox, in bytes. A message counts its head as well.
const MAX_WAITING: usize = 32 << 20;
const HEAD: usize = 512;

/// What the event loop reports.
enum Report {
    Connected { has_session: bool },
    Message(Message),
    Subscribed(SubAck),
}

/// A message that has come.
struct Message {
    publish: Publish,
    /// That of the connection that it came by: the broker sends again what an earlier one has not acknowledged.
    connection: u64,
    permit: OwnedSemaphorePermit,
}

/// Follows the subscriptions at the broker until the source stops. Connects with the first one.
pub async fn run(
    url: &MqttUrl,
    settings: &BrokerSettings,
    mut wanted: watch::Receiver<Subscriptions>,
    source: &Source,
) {
    tokio::select! {
        Ok(_) = wanted.wait_for(|wanted| !wanted.mqtt.is_empty()) => {}
        () = source.stop.cancelled() => return,
    }
    let MqttUrl(broker) = url;
    let mut options = MqttOptions::new(&settings.client_id, broker.host.trim_matches(['[', ']']), broker.port);
    options.set_clean_session(false).set_manual_acks(true).set_keep_alive(KEEP_ALIVE);
    options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
    if let Some((user, password)) = &broker.login {
        options.set_credentials(user, password);
    }
    if url.is_tls() {
        match client_config(&settings.mqtt_ca) {
            Ok(config) => {
                options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
            }
            Err(error) => {
                error!(source.log, "there is no TLS to the MQTT broker"; "broker" => %url, "error" => %error);
                source.status.set_disconnected(Some(error.to_string()));
                return;
            }
        }
    }
    let (client, events) = AsyncClient::new(options, REQUESTS);
    let (reports, received) = unbounded_channel();
    let connection = Cell::new(0);
    let followed = AllFollowed::new(&source.stop);
    let session = Session { client, source, connection: &connection, followed };
    let link = Link { events, reports, connection: &connection, url, source };
    tokio::join!(link.run(), session.run(received, wanted));
}

/// The event loop, and where its reports go.
struct Link<'a> {
    events: EventLoop,
    reports: UnboundedSender<Report>,
    connection: &'a Cell<u64>,
    url: &'a MqttUrl,
    source: &'a Source,
}

impl Link<'_> {
    /// Drives the event loop until the session has closed the connection.
    async fn run(mut self) {
        let Source { status, log, stop, .. } = self.source;
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let fresh = state_that_accepts_releases();
        self.events.state = fresh.clone();
        let mut is_connected = false;
        loop {
            let event = tokio::select! {
                event = self.events.poll() => event,
                () = stop.cancelled(), if !is_connected => return,
            };
            match event {
                Ok(Event::Incoming(Incoming::ConnAck(connected))) => {
                    is_connected = true;
                    status.set_connected();
                    let has_session = connected.session_present;
                    info!(log, "connected to the MQTT broker"; "broker" => %self.url, "session" => has_session);
                    let _ = self.reports.send(Report::Connected { has_session });
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => self.take(publish, &waiting).await,
                Ok(Event::Incoming(Incoming::SubAck(answer))) => drop(self.reports.send(Report::Subscribed(answer))),
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(error) => {
                    is_connected = false;
                    self.connection.set(self.connection.get() + 1);
                    // What is left of the connection concerns packets that the broker will send again.
                    self.events.state = fresh.clone();
                    self.events.pending.retain(|request| !matches!(request, Request::PubAck(_) | Request::PubRec(_)));
                    let error = explained(&error);
                    if status.set_disconnected(Some(error.clone())) {
                        warn!(log, "not connected to the MQTT broker"; "broker" => %self.url, "error" => error);
                    }
                    tokio::select! {
                        () = sleep(RECONNECT) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Passes a message on, as soon as there is room for it.
    async fn take(&self, publish: Publish, waiting: &Arc<Semaphore>) {
        let Source { status, stop, .. } = self.source;
        status.received.fetch_add(1, Relaxed);
        let size = (publish.payload.len() + publish.topic.len() + HEAD).min(MAX_WAITING) as u32;
        let permit = match waiting.clone().try_acquire_many_owned(size) {
            Ok(permit) => permit,
            Err(_) if publish.qos == QoS::AtMostOnce => {
                status.dropped.fetch_add(1, Relaxed);
                return;
            }
            Err(_) => tokio::select! {
                Ok(permit) = waiting.clone().acquire_many_owned(size) => permit,
                // It is not acknowledged.
                () = stop.cancelled() => return,
            },
        };
        let message = Message { publish, connection: self.connection.get(), permit };
        let _ = self.reports.send(Report::Message(message));
    }
}

fn explained(error: &ConnectionError) -> String {
    use ConnectReturnCode::{BadUserNamePassword, NotAuthorized};
    match error {
        ConnectionError::ConnectionRefused(BadUserNamePassword | NotAuthorized) => {
            "the broker refuses the user or the password of --mqtt".to_owned()
        }
        error => error.to_string(),
    }
}

/// Makes the state of a connection by which the broker may release any message of quality of service 2: those that an
/// earlier connection has received. rumqttc takes a release of a packet that it does not know for an error.
fn state_that_accepts_releases() -> MqttState {
    let mut state = MqttState::new(0, true);
    for packet in 1..=u16::MAX {
        let mut known = Publish::new("", QoS::ExactlyOnce, []);
        known.pkid = packet;
        // An error is not possible here, and would only mean that a release fails later.
        let _ = state.handle_incoming_packet(Incoming::Publish(known));
        state.events.clear();
    }
    state
}

/// The subscriptions at the broker, and the messages on the way.
struct Session<'a> {
    client: AsyncClient,
    source: &'a Source,
    connection: &'a Cell<u64>,
    followed: AllFollowed<MqttSpec>,
}

impl Session<'_> {
    /// Follows subscriptions and messages until the source stops. Then it completes what has come, and disconnects.
    async fn run(mut self, mut received: UnboundedReceiver<Report>, mut wanted: watch::Receiver<Subscriptions>) {
        let Source { stop, .. } = self.source;
        let (mut under_way, mut has_subscribed) = (FuturesOrdered::new(), false);
        self.followed.update(&wanted.borrow_and_update().mqtt);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = wanted.changed() => {
                    let before = self.filters();
                    self.followed.update(&wanted.borrow_and_update().mqtt);
                    if has_subscribed {
                        self.change(&before, &self.filters()).await;
                    }
                }
                Some(report) = received.recv() => match report {
                    // The session of an earlier daemon may have other subscriptions.
                    Report::Connected { has_session } if has_session && has_subscribed => {}
                    Report::Connected { .. } => {
                        has_subscribed = true;
                        self.change(&[], &self.filters()).await;
                    }
                    Report::Message(message) => under_way.push_back(self.store(message)),
                    Report::Subscribed(answer) => self.note_refused(&answer),
                },
                Some(stored) = under_way.next() => self.acknowledge(stored).await,
            }
        }
        while let Some(stored) = under_way.next().await {
            self.acknowledge(stored).await;
        }
        // An error means that the event loop has ended.
        let _ = self.client.disconnect().await;
    }

    /// Stores the message for each function that it is for. The result is what is to be acknowledged.
    fn store(&self, message: Message) -> impl Future<Output = Option<(Publish, u64)>> + use<> {
        let Message { publish, connection, permit } = message;
        let matches = |it: &&Arc<Followed<MqttSpec>>| topic::matches(&publish.topic, &it.subscription.spec.topic);
        let recipients: Vec<_> = self.followed.iter().filter(matches).cloned().collect();
        let (intake, stop) = (self.source.intake.clone(), self.source.stop.clone());
        async move {
            let stored =
                recipients.iter().map(|it| intake.store(invocation(&publish, &it.subscription), &it.cancelled));
            let results = join_all(stored).await;
            drop(permit);
            // A subscription that is gone does not need it.
            let is_left = stop.is_cancelled() && results.contains(&Err(NotStored::Cancelled));
            (!is_left).then_some((publish, connection))
        }
    }

    async fn acknowledge(&self, stored: Option<(Publish, u64)>) {
        let Some((publish, connection)) = stored else { return };
        if connection == self.connection.get() {
            // An error means that the event loop has ended.
            let _ = self.client.ack(&publish).await;
        }
    }

    /// Subscribes and unsubscribes what has changed.
    async fn change(&self, from: &[(String, QoS)], to: &[(String, QoS)]) {
        for (topic, _) in from.iter().filter(|(topic, _)| !to.iter().any(|(other, _)| other == topic)) {
            // An error means that the event loop has ended.
            let _ = self.client.unsubscribe(topic).await;
        }
        let new = to.iter().filter(|filter| !from.contains(filter));
        let new: Vec<_> = new.map(|(topic, qos)| SubscribeFilter::new(topic.clone(), *qos)).collect();
        if !new.is_empty() {
            let _ = self.client.subscribe_many(new).await;
        }
    }

    /// Returns the topic filters, each once and with the highest quality of service that is wanted.
    fn filters(&self) -> Vec<(String, QoS)> {
        let specs = self.followed.iter().map(|it| &it.subscription.spec);
        let mut filters: Vec<_> = specs.map(|spec| (spec.topic.clone(), spec.qos)).collect();
        filters.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        filters.dedup_by(|later, first| later.0 == first.0);
        filters.into_iter().map(|(topic, qos)| (topic, quality(qos))).collect()
    }

    fn note_refused(&self, answer: &SubAck) {
        let Source { status, log, .. } = self.source;
        let refused = answer.return_codes.iter().filter(|code| matches!(code, SubscribeReasonCode::Failure)).count();
        if refused > 0 {
            let error = format!("the broker refuses {refused} of the topic filters");
            if status.set_error(&error) {
                warn!(log, "subscriptions were refused"; "error" => error);
            }
        }
    }
}

fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn invocation(publish: &Publish, subscription: &Subscription<MqttSpec>) -> Enqueue {
    let Subscription { function, index, spec } = subscription;
    let event = CloudEvent {
        id: format!("{:032x}", rand::random::<u128>()),
        source: format!("/mqtt/{function}/{index}"),
        kind: "unifaas.mqtt",
        time: WallTime::now().to_string(),
        subject: Some(publish.topic.clone()),
        content_type: None,
    };
    Enqueue::new(function, event.request("POST", &spec.path, publish.payload.clone()))
}
