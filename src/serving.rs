//! A serving daemon until it ends: signals, upgrades, and the end of the daemon that it has replaced.

use std::path::Path;

use slog::{Logger, info, warn};
use tokio::sync::{mpsc, oneshot};

use crate::{
    host::signals::{Event, Signals},
    http::Servers,
    reload::Reloader,
    shared::Shared,
    upgrade::{
        self, Attempt, Candidate, Lives, Predecessor, Recovery, Successor, UpgradeError, UpgradeRequest, UpgradeTrigger,
    },
};

/// Why a daemon ends.
pub enum End {
    /// This has ended it.
    Signal(&'static str),
    /// A new daemon is ready. Its process id is the answer to the request.
    Upgrade { successor: Successor, reply: oneshot::Sender<Result<u32, UpgradeError>> },
}

/// A serving daemon.
pub struct Serving<'a> {
    pub servers: &'a Servers,
    pub shared: &'a Shared,
    pub signals: &'a mut Signals,
    pub reloader: &'a mut Reloader,
    pub upgrades: &'a UpgradeTrigger,
    pub requests: &'a mut mpsc::UnboundedReceiver<UpgradeRequest>,
    /// The daemon that this one has replaced, until it has ended.
    pub predecessor: &'a mut Option<Predecessor>,
    pub lives: &'a Lives<'a>,
    pub recovery: &'a mut Recovery,
    /// The daemon's program, as it was named at the start.
    pub program: &'a Path,
    pub log: &'a Logger,
}

impl Serving<'_> {
    /// Serves until something ends the daemon.
    pub async fn until_end(&mut self) -> End {
        loop {
            tokio::select! {
                event = self.signals.next() => match event {
                    Event::End(name) => return End::Signal(name),
                    Event::Reload => self.reloader.reload(),
                },
                is_daemon = ended(self.predecessor) => {
                    *self.predecessor = None;
                    if !is_daemon {
                        return End::Signal("the end of the daemon before");
                    }
                    self.shared.inbox.open_existing();
                    self.recovery.remove(self.lives).await;
                    self.upgrades.set_busy(false);
                }
                Some(request) = self.requests.recv() => {
                    if let Some(end) = self.upgrade(request).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Starts a new daemon. Returns `None` if this one serves on.
    async fn upgrade(&mut self, UpgradeRequest { reply }: UpgradeRequest) -> Option<End> {
        info!(self.log, "starting the new daemon"; "program" => %self.program.display());
        let candidate = Candidate {
            program: self.program,
            state_directory: self.lives.base,
            servers: self.servers,
            callbacks: &self.shared.callbacks,
            admission: &self.shared.admission,
            peers: &self.shared.server.function_peers,
        };
        let attempt = upgrade::attempt(candidate, self.signals).await;
        let why = match attempt {
            Attempt::Ready(successor) => {
                info!(self.log, "the new daemon is ready"; "pid" => successor.pid());
                return Some(End::Upgrade { successor, reply });
            }
            Attempt::Interrupted(name) => Err(name),
            Attempt::Failed(why) => Ok(why),
        };
        self.recovery.remove(self.lives).await;
        let error = match why {
            Err(name) => return Some(End::Signal(name)),
            Ok(why) => UpgradeError::Failed(why),
        };
        warn!(self.log, "not upgraded"; "why" => %error);
        self.upgrades.set_busy(false);
        // The client may have left.
        let _ = reply.send(Err(error));
        None
    }
}

/// Waits until the daemon before has ended, and returns whether this one was the daemon by then. Never resolves if there is
/// none.
async fn ended(predecessor: &mut Option<Predecessor>) -> bool {
    match predecessor {
        Some(predecessor) => {
            predecessor.ended().await;
            predecessor.has_left_to_this()
        }
        None => std::future::pending().await,
    }
}
