//! Shutdown, from the first signal to the last byte.
//!
//! In order: if another process keeps the front's socket open, connections are handed over to the next daemon. Then new
//! requests are refused, no more messages of brokers are taken, functions drain, instances end, their resources are
//! released, and the servers send their last bytes.

use std::time::Duration;

use actix::Addr;
use slog::{Logger, info, warn};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use unifaas_actors::{
    DrainAll, RegistryActor,
    trigger::{StopSources, TriggerActor},
};

use crate::{
    host::signals::{Event, Signals},
    http::{ListenerKind, Servers},
    service,
    shared::Shared,
    upgrade::{Successor, UpgradeError},
};

/// How long kept connections are served before idle ones are closed. Clients that use theirs have noticed by then that it
/// ends.
const HANDOVER_TIME: Duration = Duration::from_secs(1);
/// After the drain's grace: how long killed instances and the release of their resources may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the connections to brokers may take to close.
const SOURCES_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the ends of asynchronous attempts may take to be recorded, after the last instance has ended.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(2);

/// What the shutdown needs.
pub struct Shutdown<'a> {
    pub shared: &'a Shared,
    pub servers: Servers,
    pub registry: &'a Addr<RegistryActor>,
    pub triggers: &'a Addr<TriggerActor>,
    pub signals: &'a mut Signals,
    pub log: &'a Logger,
    /// The daemon that has replaced this one.
    pub successor: Option<Successor>,
}

impl Shutdown<'_> {
    /// Leaves new connections to the next daemon, if there may be one, and lets kept ones end after their next response.
    /// Returns whether a second signal came meanwhile.
    pub async fn hand_over(&mut self) -> bool {
        if !self.servers.is_front_inherited() {
            return false;
        }
        info!(self.log, "new connections wait for the next daemon");
        self.servers.stop_accepting().await;
        self.shared.start_handover();
        let is_hurried = tokio::select! {
            () = self.shared.server.no_connections(&[ListenerKind::Front]) => false,
            () = sleep(HANDOVER_TIME) => false,
            name = self.signals.next_end() => {
                warn!(self.log, "ending at once"; "signal" => name);
                true
            }
        };
        self.shared.server.close_idle();
        is_hurried
    }

    /// Makes another daemon the daemon, and serves kept connections until they have ended, at most for `grace`. Returns what
    /// is left of `grace`.
    pub async fn leave_to(
        &mut self,
        successor: Successor,
        reply: oneshot::Sender<Result<u32, UpgradeError>>,
        grace: Duration,
    ) -> Duration {
        let began = Instant::now();
        // The new daemon connects to brokers when it takes over.
        let stopped = self.stop_sources();
        tokio::join!(self.servers.stop_accepting_all(), stopped);
        service::replaced_by(successor.pid(), self.log);
        successor.take_over();
        if self.signals.take_reload() {
            successor.reload();
        }
        // The client may have left.
        let _ = reply.send(Ok(successor.pid()));
        self.successor = Some(successor);
        self.shared.start_handover();
        for limit in [HANDOVER_TIME.min(grace), grace] {
            let left = limit.saturating_sub(began.elapsed());
            let shared = self.shared;
            tokio::select! {
                () = shared.server.no_connections(&[ListenerKind::Front, ListenerKind::Peer]) => break,
                () = sleep(left) => {}
                why = self.next_end() => {
                    warn!(self.log, "ending at once"; "signal" => why);
                    return Duration::ZERO;
                }
            }
            self.shared.server.close_idle();
        }
        grace.saturating_sub(began.elapsed())
    }

    /// Waits until this daemon has to end at once, and returns why.
    async fn next_end(&mut self) -> &'static str {
        let Some(successor) = &mut self.successor else { return self.signals.next_end().await };
        loop {
            let event = tokio::select! {
                event = self.signals.next() => event,
                Ok(_) = successor.is_hurried.wait_for(|is_hurried| *is_hurried) => Event::End("the end of the new daemon"),
            };
            match event {
                Event::End(why) => return why,
                Event::Reload => successor.reload(),
            }
        }
    }

    /// Drains the instances within `grace`, kills the rest, and stops the servers.
    pub async fn finish(mut self, grace: Duration) {
        let mut drained = self.drain(grace);
        let sources_stopped = self.stop_sources();
        let kill = tokio::select! {
            _ = &mut drained => false,
            name = self.next_end() => {
                warn!(self.log, "ending at once"; "signal" => name);
                true
            }
            () = sleep(grace) => {
                self.log_unfinished();
                true
            }
        };
        if kill {
            // A second drain without grace kills what is left. The registry answers both when no instance is left.
            let at_once = self.drain(Duration::ZERO);
            if timeout(KILL_TIMEOUT, at_once).await.is_err() {
                warn!(self.log, "some instances did not end in time and are killed at exit");
            }
        }
        sources_stopped.await;
        self.shared.inbox.hand_over(OUTCOME_TIMEOUT).await;
        self.servers.stop().await;
        info!(self.log, "ended");
    }

    /// Logs how many requests are ended because the grace is over.
    fn log_unfinished(&self) {
        let functions = self.shared.directory.all();
        let gauges = functions.values().filter_map(|function| function.gauges());
        let requests: usize = gauges.map(|gauges| gauges.in_flight + gauges.waiting).sum();
        if requests > 0 {
            warn!(self.log, "the grace is over: requests that have not ended are ended now"; "requests" => requests);
        }
    }

    /// Has the connections to brokers closed, after the messages on the way. The future resolves when they are.
    fn stop_sources(&self) -> impl Future<Output = ()> + use<> {
        let (stopped, wait) = oneshot::channel();
        self.triggers.do_send(StopSources(stopped));
        async move { drop(timeout(SOURCES_TIMEOUT, wait).await) }
    }

    fn drain(&self, grace: Duration) -> oneshot::Receiver<()> {
        let (done, drained) = oneshot::channel();
        self.registry.do_send(DrainAll { grace, done });
        drained
    }
}
