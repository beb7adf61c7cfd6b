//! The link to the other nodes, on NATS. It has a thread and a runtime of its own.
//!
//! Commands come through a bounded channel and are dropped when it is full; facts go to the ClusterActor's mailbox, which is
//! bounded as well. Nothing here is waited for. While there is no connection, nothing is sent, as the client would keep it
//! and send it later.

use std::{convert::Infallible, sync::Arc, time::Duration};

use actix::Addr;
use async_nats::{Client, Event, Message, ServerAddr, ServerError, Subscriber, connection::State};
use bytes::Bytes;
use futures::{StreamExt as _, stream::select_all};
use serde::{Deserialize, Serialize};
use slog::{Logger, error, info, warn};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use unifaas_actors::cluster::{
    Beat, BeatReceived, ClusterActor, Epoch, FunctionList, FunctionsListed, KeyHeard, LinkChanged, LinkState, PeerTried,
};

use super::{
    LinkSettings,
    denials::Denial,
    known_keys,
    link_handle::{Command, LinkHandle},
    probe::probe,
    subjects,
};
use crate::{
    broker::{nats_options, too_old},
    worker::{Requests, Worker},
};

/// Commands that may wait.
const COMMANDS: usize = 256;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);
/// Until another daemon with the identity of this node is asked for again.
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// A server that does not answer two pings is given up.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long a node may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Heartbeats that may wait for this thread. More are dropped.
const SUBSCRIPTION_CAPACITY: usize = 1024;
/// Largest heartbeat that is read.
const MAX_BEAT: usize = 64 * 1024;

/// The daemon that has an identity, as it answers.
#[derive(Debug, Serialize, Deserialize)]
struct Daemon {
    epoch: Epoch,
    address: Arc<str>,
}

/// The link's thread. It ends when this is dropped.
pub struct Link {
    leave: Option<oneshot::Sender<oneshot::Sender<()>>>,
    _worker: Worker<Infallible>,
}

impl Link {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the host has no more threads or open files.
    pub fn start(
        settings: LinkSettings,
        actor: Addr<ClusterActor>,
        log: Logger,
    ) -> std::io::Result<(Self, LinkHandle)> {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (leave, leaving) = oneshot::channel::<oneshot::Sender<()>>();
        let nats = settings.client.clone();
        let link = Running { settings, actor, log, functions: Arc::default(), reported: None };
        let worker = Worker::on_runtime("cluster", async move |stop: Requests<Infallible>| {
            let left = tokio::select! {
                () = link.run(commands) => None,
                left = leaving => left.ok(),
                // It is never sent, but closed.
                _ = stop.recv() => return,
            };
            // The server knows by then that nothing is subscribed any more.
            nats.flush().await;
            drop(left);
            let _ = stop.recv().await;
        })?;
        Ok((Self { leave: Some(leave), _worker: worker }, LinkHandle::new(sender)))
    }

    /// Tells and hears nothing any more. The connection stays for what still runs on this daemon, until this is dropped.
    pub fn leave(&mut self) -> impl Future<Output = ()> + use<> {
        let (left, done) = oneshot::channel();
        // Where nothing takes it, `left` is closed at once.
        drop(self.leave.take().map(|leave| leave.send(left)));
        async move { drop(done.await) }
    }
}

struct Running {
    settings: LinkSettings,
    actor: Addr<ClusterActor>,
    log: Logger,
    functions: Arc<FunctionList>,
    reported: Option<LinkState>,
}

impl Running {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (events, mut changes) = mpsc::unbounded_channel();
        let client = self.connected(&events).await;
        self.settings.client.set(client.clone());
        loop {
            self.wait_for_identity(&client).await;
            // What could not be carried out is out of date, but for the list of functions.
            while let Ok(command) = commands.try_recv() {
                self.keep(command);
            }
            if let Err(why) = self.serve(&client, &mut commands, &mut changes).await {
                self.report(LinkState::Disconnected { error: Some(why) });
                sleep(RETRY).await;
            }
        }
    }

    /// Returns the connection once there is one. It is made again by itself from then on.
    async fn connected(&mut self, events: &mpsc::UnboundedSender<Event>) -> Client {
        loop {
            let error = match connect(&self.settings, events.clone()).await {
                Ok(client) => match too_old(&client.server_info().version) {
                    Some(why) => why,
                    None => return client,
                },
                Err(error) => error,
            };
            self.report(LinkState::Disconnected { error: Some(error) });
            sleep(RETRY).await;
        }
    }

    /// Keeps what a command says for later.
    fn keep(&mut self, command: Command) {
        if let Command::SetFunctions(functions) = command {
            self.functions = functions;
        }
    }

    /// Waits until no other daemon answers for this node.
    async fn wait_for_identity(&mut self, client: &Client) {
        let LinkSettings { site, node, epoch, .. } = &self.settings;
        let (subject, own) = (subjects::who(site, *node), *epoch);
        loop {
            let asked = client.send_request(subject.clone(), request(Bytes::new())).await;
            let other = asked.ok().and_then(|answer| serde_json::from_slice::<Daemon>(&answer.payload).ok());
            let Some(other) = other.filter(|other| other.epoch != own) else { return };
            let why = format!(
                "the daemon at {} is the same node: its state directory is a copy, or was copied from this one; \
                 remove `identity` from one of them",
                other.address
            );
            self.report(LinkState::Refused { why });
            sleep(REFUSED_RETRY).await;
        }
    }

    /// Carries out commands and passes on what comes. `Ok`: the node has to join anew.
    async fn serve(
        &mut self,
        client: &Client,
        commands: &mut mpsc::Receiver<Command>,
        changes: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), String> {
        let LinkSettings { site, node, epoch, overflow, address, .. } = self.settings.clone();
        let mut subscribed = Vec::new();
        if self.settings.tls.is_some() {
            // Nodes of any site may ask this one, and are known by their keys.
            subscribed.push(subscribe(client, subjects::ANY_BEATS.to_owned()).await?);
        } else {
            for site in std::iter::once(&site).chain(&overflow) {
                subscribed.push(subscribe(client, subjects::all_beats(site)).await?);
            }
        }
        let mut beats = select_all(subscribed);
        let mut lists = subscribe(client, subjects::functions(&site, node)).await?;
        let mut who = subscribe(client, subjects::who(&site, node)).await?;
        let own_beat = subjects::beat(&site, node);
        let daemon = to_json(&Daemon { epoch, address });
        self.report_connected(client);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Rejoin) => return Ok(()),
                    Some(command) => self.carry_out(client, &own_beat, command).await,
                    None => std::future::pending().await,
                },
                Some(message) = beats.next() => self.pass_on(&message),
                Some(message) = lists.next() => reply(client, message, to_json(&*self.functions)).await,
                Some(message) = who.next() => reply(client, message, daemon.clone()).await,
                Some(event) = changes.recv() => match event {
                    Event::Connected => self.report_connected(client),
                    Event::Disconnected | Event::Closed => self.report(LinkState::Disconnected { error: None }),
                    Event::ServerError(_) | Event::ClientError(_) => self.note_error(&event),
                    Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining => {}
                },
            }
        }
    }

    /// Logs an error of the connection; what the server does not allow, once.
    fn note_error(&self, event: &Event) {
        let denial = match event {
            Event::ServerError(ServerError::Other(error)) => Denial::parse(error),
            _ => None,
        };
        match denial {
            Some(denial) if self.settings.client.denials.note(denial.clone()) => {
                warn!(self.log, "the NATS server does not allow what this node needs"; "permission" => denial.permission,
                    "subject" => denial.subject);
            }
            Some(_) => {}
            None => warn!(self.log, "error of the link to the other nodes"; "error" => %event),
        }
    }

    async fn carry_out(&mut self, client: &Client, own_beat: &str, command: Command) {
        match command {
            Command::Send(beat) => publish(client, own_beat.to_owned(), to_json(&*beat)).await,
            Command::SetFunctions(_) => self.keep(command),
            Command::Ask { site, node, digest } => {
                let (client, actor) = (client.clone(), self.actor.clone());
                tokio::spawn(async move {
                    let asked = client.send_request(subjects::functions(&site, node), request(Bytes::new())).await;
                    if let Some(functions) = asked.ok().and_then(|answer| serde_json::from_slice(&answer.payload).ok())
                    {
                        actor.do_send(FunctionsListed { node, digest, functions });
                    }
                });
            }
            Command::Probe(peer) => {
                let (actor, tls) = (self.actor.clone(), self.settings.tls.clone());
                tokio::spawn(async move {
                    let is_reached = probe(&peer, tls.as_ref()).await;
                    actor.do_send(PeerTried { node: peer.node(), is_reached });
                });
            }
            Command::KeepKeys(keys) => {
                if let Err(error) = known_keys::write(&self.settings.state, &keys) {
                    warn!(self.log, "the keys of the other nodes are not kept for the next daemon"; "error" => %error);
                }
            }
            Command::Rejoin => {}
        }
    }

    /// Passes a heartbeat on, unless it claims to be another node's.
    fn pass_on(&self, message: &Message) {
        let Some((site, node)) = subjects::of_beat(&message.subject) else { return };
        if message.payload.len() > MAX_BEAT {
            return;
        }
        if let Some(beat) = serde_json::from_slice::<Beat>(&message.payload).ok().filter(|beat| beat.node == node) {
            // Dropped if the actor has too many messages.
            if self.is_asked(site) {
                let _ = self.actor.try_send(BeatReceived { site: site.into(), beat: Arc::new(beat) });
            } else {
                let _ = self.actor.try_send(KeyHeard { node, key: beat.key });
            }
        }
    }

    /// Whether nodes of a site may be asked for help.
    fn is_asked(&self, site: &str) -> bool {
        let LinkSettings { site: own, overflow, .. } = &self.settings;
        std::iter::once(own).chain(overflow).any(|known| **known == *site)
    }

    fn report_connected(&mut self, client: &Client) {
        if client.connection_state() == State::Connected {
            let info = client.server_info();
            let server = if info.server_name.is_empty() { info.server_id } else { info.server_name };
            self.settings.client.set(client.clone());
            self.report(LinkState::Connected { server, version: info.version });
        }
    }

    fn report(&mut self, state: LinkState) {
        if self.reported.as_ref() == Some(&state) {
            return;
        }
        let servers = &self.settings.servers;
        match &state {
            LinkState::Connected { server, version } => {
                info!(self.log, "joined the other nodes"; "servers" => %servers, "server" => server, "version" => version);
            }
            LinkState::Disconnected { error } => {
                warn!(self.log, "no link to the other nodes"; "servers" => %servers,
                    "error" => error.as_deref().unwrap_or("disconnected"));
            }
            LinkState::Refused { why } => error!(self.log, "not joined"; "reason" => why),
        }
        self.actor.do_send(LinkChanged(state.clone()));
        self.reported = Some(state);
    }
}

async fn connect(settings: &LinkSettings, events: mpsc::UnboundedSender<Event>) -> Result<Client, String> {
    let options = nats_options(settings.servers.first(), &settings.login);
    let options = options
        .name(format!("unifaas {}", settings.node))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .event_callback(move |event| {
            // The thread ends.
            let _ = events.send(event);
            async {}
        });
    let addresses: Result<Vec<ServerAddr>, _> = settings.servers.addresses().map(|address| address.parse()).collect();
    options.connect(addresses.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())
}

fn request(payload: Bytes) -> async_nats::Request {
    async_nats::Request::new().payload(payload).timeout(Some(REQUEST_TIMEOUT))
}

async fn subscribe(client: &Client, subject: String) -> Result<Subscriber, String> {
    client.subscribe(subject).await.map_err(|error| error.to_string())
}

async fn reply(client: &Client, message: Message, payload: Bytes) {
    if let Some(subject) = message.reply {
        publish(client, subject.to_string(), payload).await;
    }
}

/// Publishes a message if there is a connection.
async fn publish(client: &Client, subject: String, payload: Bytes) {
    if client.connection_state() == State::Connected {
        // The client's queue may be full while the connection stalls.
        let _ = timeout(RETRY, client.publish(subject, payload)).await;
    }
}

fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
