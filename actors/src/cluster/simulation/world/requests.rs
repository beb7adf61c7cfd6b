//! Requests: where each is placed, forwarded, queued and served.

use super::*;

impl World {
    pub(super) fn request(&mut self, origin: usize) {
        if !self.nodes[origin].is_alive || self.is_ending {
            return;
        }
        self.seen.requests += 1;
        self.calls.push(Call { origin, tried: Vec::new(), hops: 0, answers: 0 });
        self.offer(self.calls.len() - 1);
    }

    /// A request at the node that it came to, perhaps after others have refused it.
    fn offer(&mut self, id: usize) {
        let (origin, clock) = (self.calls[id].origin, self.clock(self.calls[id].origin));
        let node = &mut self.nodes[origin];
        if node.free > 0 && node.queue.is_empty() {
            return self.serve(id, origin);
        }
        let load = FunctionLoad {
            capacity: SLOTS,
            waiting: node.queue.len() as u32,
            service_us: (SERVICE * 1e6) as u32,
            is_full: true,
            ..Default::default()
        };
        let local = LocalOffer { load, has_memory: false };
        let call = &self.calls[id];
        let choice = if call.tried.len() < MAX_FORWARDS {
            node.peers.judge(clock);
            let request =
                Request { function: FUNCTION, local: Some(&local), version: None, labels: &[], tried: &call.tried };
            place(&node.peers.view(clock), request, &mut self.random).choice
        } else {
            Choice::Local
        };
        match choice {
            Choice::Peer(peer, kind) => {
                let to = peer.node().0 as usize;
                let is_frozen = node.peers.is_frozen(clock);
                let silent = self.now - node.heard[to].max(node.frozen);
                // The directory is judged once a second.
                let most = REMOVED_AFTER.as_secs_f64() + 1.5;
                assert!(is_frozen || silent < most, "{origin} forwards to {to}, silent for {silent} s");
                self.calls[id].tried.push(peer.node());
                let reached = self.nodes[to].is_alive && self.nodes[to].is_connected && self.nodes[origin].is_connected;
                let after = if reached { HOP } else { CONNECT_TIMEOUT };
                let run = if reached { self.nodes[to].runs } else { 0 };
                self.schedule(after, Event::Forwarded { id, to, run, kind });
            }
            Choice::Local | Choice::Nowhere => self.nodes[origin].queue.push_back(id),
        }
        self.note_saturation(origin);
    }

    /// A request at the node that it was forwarded to.
    pub(super) fn forwarded(&mut self, id: usize, to: usize, run: u32, kind: StartKind) {
        let (origin, peer) = (self.calls[id].origin, NodeId(to as u64));
        let clock = self.clock(origin);
        if self.nodes[to].runs != run || !self.nodes[to].is_alive {
            // The run 0 stands for a connection that could not be opened.
            self.nodes[origin].peers.failed(peer, clock);
            return self.offer(id);
        }
        self.seen.forwarded += 1;
        self.calls[id].hops += 1;
        if kind != StartKind::Warm {
            self.nodes[to].queue.push_back(id);
            return self.serve_queue(to);
        }
        self.nodes[to].forwards += 1;
        self.nodes[to].forwards_since_beat += 1;
        if self.nodes[to].forwards_since_beat >= self.nodes[to].told {
            // What it has told is used up.
            self.beat_soon(to);
        }
        if self.nodes[to].free > 0 && self.nodes[to].queue.is_empty() {
            return self.serve(id, to);
        }
        self.seen.refused += 1;
        self.calls[id].hops -= 1;
        let view = self.nodes[origin].peers.view(clock);
        if let Some(peer) = view.peers.iter().find(|it| it.node() == peer) {
            peer.note_refusal(FUNCTION);
        }
        self.offer(id);
    }

    fn serve(&mut self, id: usize, index: usize) {
        let held = self.exponential(SERVICE);
        let node = &mut self.nodes[index];
        (node.free, node.served) = (node.free - 1, node.served + 1);
        let run = node.runs;
        self.schedule(held, Event::Done { id, node: index, run });
        self.note_saturation(index);
    }

    pub(super) fn done(&mut self, id: usize, index: usize) {
        self.calls[id].answers += 1;
        assert!(self.calls[id].answers == 1, "a request has two answers");
        assert!(self.calls[id].hops <= 1, "a request has taken two hops");
        let node = &mut self.nodes[index];
        (node.free, node.offered) = (node.free + 1, node.offered + 1);
        self.serve_queue(index);
        self.note_saturation(index);
    }

    fn serve_queue(&mut self, index: usize) {
        while self.nodes[index].free > 0
            && let Some(next) = self.nodes[index].queue.pop_front()
        {
            self.serve(next, index);
        }
    }

    /// A node tells at once that it has no more free slots, or has some again.
    fn note_saturation(&mut self, index: usize) {
        let node = &self.nodes[index];
        if (node.free == 0) == node.told_saturated {
            return;
        }
        self.nodes[index].told_saturated = !self.nodes[index].told_saturated;
        self.beat_soon(index);
    }
}
