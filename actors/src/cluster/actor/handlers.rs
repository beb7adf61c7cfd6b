//! What the ClusterActor does with each message.

use actix::{Context, Handler, MessageResult};
use slog::{info, warn};
use tokio::time::Instant;

use super::{
    super::{
        directory::Heard,
        messages::{
            BeatReceived, BeatSoon, ClusterQuestion, FunctionsListed, KeyHeard, LinkChanged, LinkState, PeerTried,
            StartDraining, VersionsChanged,
        },
        report::{ClusterReport, PeerReport},
    },
    ClusterActor, Join,
};
use crate::notice::EndGuard;

impl Handler<Join> for ClusterActor {
    type Result = ();

    fn handle(&mut self, Join(link): Join, ctx: &mut Context<Self>) {
        self.link = Some(link);
        self.last_beat = None;
        self.beat_due(ctx);
    }
}

impl Handler<BeatReceived> for ClusterActor {
    type Result = ();

    fn handle(&mut self, BeatReceived { site, beat }: BeatReceived, ctx: &mut Context<Self>) {
        let now = Instant::now();
        match self.peers.heard(&site, beat.clone(), now) {
            Heard::Peer { is_new, wants_functions, key_before } => {
                if let Some(before) = key_before {
                    warn!(self.log, "node has another key: the one before counts no more"; "node" => %beat.node,
                        "name" => &*beat.name, "key" => ?beat.key.map(|key| key.to_string()), "before" => %before);
                }
                if is_new {
                    info!(self.log, "node has joined"; "node" => %beat.node, "name" => &*beat.name, "site" => &*site,
                        "address" => &*beat.address);
                    // It may ask this node at once, and has to know its key.
                    self.beat_soon(ctx);
                }
                self.look(now);
                let view = self.handle.view();
                let peer = view.peers.iter().find(|peer| peer.node() == beat.node);
                if let (true, Some(link), Some(peer)) = (wants_functions, &self.link, peer) {
                    link.ask(peer, beat.functions);
                }
            }
            Heard::Own => self.look(now),
            Heard::Impostor { epoch, address } => self.meet_impostor(epoch, &address),
            Heard::Stale => {}
        }
    }
}

impl Handler<KeyHeard> for ClusterActor {
    type Result = ();

    fn handle(&mut self, KeyHeard { node, key }: KeyHeard, _: &mut Context<Self>) {
        // Published with the next own heartbeat at the latest.
        self.peers.heard_key(node, key, Instant::now());
    }
}

impl Handler<FunctionsListed> for ClusterActor {
    type Result = ();

    fn handle(&mut self, listed: FunctionsListed, _: &mut Context<Self>) {
        self.peers.listed(listed.node, listed.digest, listed.functions);
        self.look(Instant::now());
    }
}

impl Handler<LinkChanged> for ClusterActor {
    type Result = ();

    fn handle(&mut self, LinkChanged(state): LinkChanged, ctx: &mut Context<Self>) {
        let is_up = matches!(state, LinkState::Connected { .. });
        self.link_state = state;
        self.peers.set_link_up(is_up);
        self.look(Instant::now());
        if is_up {
            // It is the echo of a heartbeat that shows whether the link works. With it goes the list of functions.
            self.last_beat = None;
            self.beat_at(Instant::now(), ctx);
        }
    }
}

impl Handler<PeerTried> for ClusterActor {
    type Result = ();

    fn handle(&mut self, PeerTried { node, is_reached }: PeerTried, _: &mut Context<Self>) {
        let now = Instant::now();
        if is_reached {
            self.peers.reached(node);
        } else {
            self.peers.failed(node, now);
        }
        self.look(now);
    }
}

impl Handler<BeatSoon> for ClusterActor {
    type Result = ();

    fn handle(&mut self, _: BeatSoon, ctx: &mut Context<Self>) {
        self.beat_soon(ctx);
    }
}

impl Handler<VersionsChanged> for ClusterActor {
    type Result = ();

    fn handle(&mut self, versions: VersionsChanged, ctx: &mut Context<Self>) {
        self.versions = versions;
        self.beat_soon(ctx);
    }
}

impl Handler<StartDraining> for ClusterActor {
    type Result = ();

    fn handle(&mut self, _: StartDraining, ctx: &mut Context<Self>) {
        self.is_draining = true;
        self.beat_at(Instant::now(), ctx);
    }
}

impl Handler<ClusterQuestion> for ClusterActor {
    type Result = MessageResult<ClusterQuestion>;

    fn handle(&mut self, _: ClusterQuestion, _: &mut Context<Self>) -> Self::Result {
        let now = Instant::now();
        let is_secure = self.settings.key.is_some();
        let peers = self.peers.ages(now).map(|(peer, age)| PeerReport::new(peer, age, is_secure));
        let VersionsChanged { told, untold } = &self.versions;
        let versions = told.iter().chain(untold).map(|(name, versions)| (name.clone(), versions.clone()));
        MessageResult(ClusterReport {
            node: self.settings.node,
            name: self.settings.name.clone(),
            site: self.settings.site.clone(),
            epoch: self.settings.epoch,
            link: self.link_state.clone(),
            is_frozen: self.peers.is_frozen(now),
            beat: self.last_beat.clone(),
            versions: versions.collect(),
            peers: peers.collect(),
            placements: self.handle.recent_placements(),
        })
    }
}

impl Handler<EndGuard> for ClusterActor {
    type Result = ();

    fn handle(&mut self, guard: EndGuard, _: &mut Context<Self>) {
        self.end_guards.push(guard);
    }
}
