//! The thread of the connections to brokers, from the first subscription on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use slog::{Logger, error, o, warn};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use unifaas_actors::trigger::{EventSources, SourceReport, Subscriptions};

use super::{follow_site, intake::Intake, mqtt, nats, status::SourceStatus};
use crate::{
    broker::BrokerSettings,
    inbox::{Inbox, Site},
    worker::{Requests, Worker},
};

/// How long the messages on the way may take when the connections are closed.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// The connections to brokers.
pub struct Sources {
    connections: Connections,
    thread: Thread,
    /// What the nodes of the site share.
    site: Option<Arc<Site>>,
}

enum Thread {
    /// No function has subscribed.
    NotStarted,
    Running(Worker<Request>),
    Stopped,
}

enum Request {
    Follow(Subscriptions),
    Stop(oneshot::Sender<()>),
}

/// What a connection needs.
#[derive(Clone)]
pub struct Source {
    pub intake: Intake,
    pub status: Arc<SourceStatus>,
    pub log: Logger,
    /// Cancelled when the connection has to complete what it has taken, and to close.
    pub stop: CancellationToken,
}

/// What runs on the thread.
#[derive(Clone)]
struct Connections {
    settings: BrokerSettings,
    mqtt: Source,
    nats: Source,
}

impl Sources {
    /// Makes the connections to the brokers of the settings, none of which is tried yet.
    pub fn new(settings: BrokerSettings, inbox: &Inbox, log: &Logger) -> Self {
        let stop = CancellationToken::new();
        let source = |kind, broker| {
            let (status, log) = (SourceStatus::new(kind, broker), log.new(o!()));
            let intake = Intake::new(inbox.handle.clone(), status.clone(), log.clone());
            Source { intake, status, log, stop: stop.clone() }
        };
        let mqtt = source("mqtt", settings.mqtt.as_ref().map(ToString::to_string));
        let nats = source("nats", settings.nats.as_ref().map(ToString::to_string));
        let site = inbox.site.clone();
        Self { connections: Connections { settings, mqtt, nats }, thread: Thread::NotStarted, site }
    }

    fn start(&mut self) {
        let connections = self.connections.clone();
        match Worker::on_runtime("triggers", async move |requests| connections.run(requests).await) {
            Ok(worker) => self.thread = Thread::Running(worker),
            // The next change of a function's triggers tries it again.
            Err(error) => error!(self.connections.nats.log, "messages of brokers are not taken"; "error" => %error),
        }
    }
}

impl EventSources for Sources {
    fn follow(&mut self, subscriptions: Subscriptions) {
        follow_site(self.site.as_ref(), &subscriptions, &self.connections.nats.log);
        let Connections { settings, mqtt, nats } = &self.connections;
        mqtt.status.set_subscriptions(&subscriptions.mqtt);
        nats.status.set_subscriptions(&subscriptions.nats);
        for (count, is_known, log, option) in [
            (subscriptions.mqtt.len(), settings.mqtt.is_some(), &mqtt.log, "--mqtt"),
            (subscriptions.nats.len(), settings.nats.is_some(), &nats.log, "--nats"),
        ] {
            if count > 0 && !is_known {
                warn!(log, "functions subscribe to messages, and no option says where they come from";
                    "subscriptions" => count, "option" => option);
            }
        }
        let is_needed = settings.mqtt.is_some() && !subscriptions.mqtt.is_empty()
            || settings.nats.is_some() && !subscriptions.nats.is_empty();
        if is_needed && matches!(self.thread, Thread::NotStarted) {
            self.start();
        }
        if let Thread::Running(worker) = &self.thread {
            worker.handle().send(Request::Follow(subscriptions));
        }
    }

    fn stop(&mut self, stopped: oneshot::Sender<()>) {
        if let Some(site) = &self.site {
            site.follow(BTreeSet::new());
        }
        match &self.thread {
            Thread::Running(worker) => worker.handle().send(Request::Stop(stopped)),
            Thread::NotStarted | Thread::Stopped => self.thread = Thread::Stopped,
        }
        for source in [&self.connections.mqtt, &self.connections.nats] {
            source.status.set_stopped();
        }
    }

    fn reports(&self) -> Vec<SourceReport> {
        [&self.connections.nats, &self.connections.mqtt].into_iter().map(|source| source.status.report()).collect()
    }
}

impl Connections {
    async fn run(self, requests: Requests<Request>) {
        let stop = &self.mqtt.stop;
        // What is on the way when the daemon ends without a stop is not acknowledged.
        let _ends_all = stop.clone().drop_guard();
        let (wanted, seen) = watch::channel(Subscriptions::default());
        let mqtt = async {
            if let Some(url) = &self.settings.mqtt {
                mqtt::run(url, &self.settings, seen.clone(), &self.mqtt).await;
            }
        };
        let nats = async {
            if let Some(url) = &self.settings.nats {
                nats::run(url, &self.settings, seen.clone(), &self.nats).await;
            }
        };
        let mut connections = std::pin::pin!(async { tokio::join!(mqtt, nats) });
        let mut are_closed = false;
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                _ = &mut connections, if !are_closed => {
                    are_closed = true;
                    continue;
                }
            };
            match request {
                Ok(Request::Follow(subscriptions)) => drop(wanted.send_replace(subscriptions)),
                Ok(Request::Stop(stopped)) => {
                    stop.cancel();
                    if !are_closed && timeout(STOP_TIMEOUT, &mut connections).await.is_err() {
                        warn!(self.mqtt.log, "messages on the way are left to the next daemon");
                    }
                    are_closed = true;
                    // The receiver may have given up.
                    let _ = stopped.send(());
                }
                // Answers to reply subjects may be sent until then.
                Err(_) => return,
            }
        }
    }
}
