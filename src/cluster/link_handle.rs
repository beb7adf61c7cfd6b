//! What the ClusterActor tells the link to the other nodes.

use std::sync::Arc;

use tokio::sync::mpsc;
use unifaas_actors::cluster::{Beat, ClusterLink, FunctionList, NodeId, PeerView, TrustedKeys};

/// A command to the link.
#[derive(Debug)]
pub enum Command {
    Send(Arc<Beat>),
    SetFunctions(Arc<FunctionList>),
    Ask { site: Arc<str>, node: NodeId, digest: u64 },
    Probe(Arc<PeerView>),
    KeepKeys(Arc<TrustedKeys>),
    Rejoin,
}

/// Tells the link what to do.
#[derive(Debug)]
pub struct LinkHandle(mpsc::Sender<Command>);

impl LinkHandle {
    /// Tells it through a channel.
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        Self(commands)
    }

    fn tell(&self, command: Command) {
        // What is dropped is sent again with the next heartbeat.
        let _ = self.0.try_send(command);
    }
}

impl ClusterLink for LinkHandle {
    fn send(&self, beat: Arc<Beat>) {
        self.tell(Command::Send(beat));
    }

    fn set_functions(&self, functions: Arc<FunctionList>) {
        self.tell(Command::SetFunctions(functions));
    }

    fn ask(&self, peer: &Arc<PeerView>, digest: u64) {
        self.tell(Command::Ask { site: peer.site.clone(), node: peer.node(), digest });
    }

    fn probe(&self, peer: Arc<PeerView>) {
        self.tell(Command::Probe(peer));
    }

    fn keep_keys(&self, keys: Arc<TrustedKeys>) {
        self.tell(Command::KeepKeys(keys));
    }

    fn rejoin(&self) {
        self.tell(Command::Rejoin);
    }
}
