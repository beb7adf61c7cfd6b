//! What is done to the nodes, and what is checked.

use super::*;

impl World {
    /// Cuts the links or connections of some nodes, kills some, and may break the server of heartbeats.
    pub fn disturb(&mut self) {
        self.is_disturbed = true;
        if self.random.random_ratio(1, 4) {
            self.break_server();
        }
        for index in 0..self.nodes.len() {
            match self.random.random_range(0..20) {
                0 => self.nodes[index].is_linked = false,
                1 => self.nodes[index].is_connected = false,
                2 => (self.nodes[index].is_linked, self.nodes[index].is_connected) = (false, false),
                3 => self.kill(index),
                _ => {}
            }
        }
    }

    /// Has no node reach the server of heartbeats.
    pub fn break_server(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.is_linked = false);
    }

    fn kill(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        (node.is_alive, node.free, node.offered) = (false, SLOTS, SLOTS);
        node.queue.clear();
        // Nothing of this run happens any more.
        node.runs += 1;
    }

    /// Ends all disturbances, and starts some of the killed nodes again.
    pub fn heal(&mut self) {
        self.is_disturbed = false;
        for index in 0..self.nodes.len() {
            let restarts = !self.nodes[index].is_alive && self.random.random_bool(0.5);
            if restarts {
                let clock = self.clock(index);
                let (site, now) = (self.site.clone(), self.now);
                let node = &mut self.nodes[index];
                node.peers = Peers::new(NodeId(index as u64), Epoch::new(node.runs, 0), site, clock);
                (node.is_alive, node.sequence, node.told_saturated, node.frozen) = (true, 0, false, now);
                node.heard.fill(f64::MIN);
            }
            let node = &mut self.nodes[index];
            if !std::mem::replace(&mut node.is_linked, true) || restarts {
                // The link that is up again is used at once.
                self.schedule_beat(index, 0.0);
            }
            self.nodes[index].is_connected = true;
        }
        // A connection that is opened shows that a node is there.
        for index in 0..self.nodes.len() {
            for other in 0..self.nodes.len() {
                if self.nodes[other].is_alive {
                    self.nodes[index].peers.reached(NodeId(other as u64));
                }
            }
        }
    }

    /// Checks that every node counts exactly the nodes that are alive as fresh.
    pub fn check_views(&mut self) {
        let alive: Vec<_> = (0..self.nodes.len()).filter(|index| self.nodes[*index].is_alive).collect();
        for index in alive.iter().copied() {
            let clock = self.clock(index);
            let node = &mut self.nodes[index];
            node.peers.judge(clock);
            assert!(!node.peers.is_frozen(clock), "node {index} is frozen at {} s", self.now);
            let view = node.peers.view(clock);
            let fresh = view.peers.iter().filter(|peer| peer.health == Health::Fresh);
            let mut fresh: Vec<_> = fresh.map(|peer| peer.node().0 as usize).chain([index]).collect();
            fresh.sort_unstable();
            assert_eq!(fresh, alive, "as node {index} sees it at {} s", self.now);
        }
    }

    /// Has a node finish all of its requests at once.
    pub fn release(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.runs += 1;
        (node.free, node.offered, node.forwards, node.window) = (SLOTS, SLOTS, 0, self.now);
        node.queue.clear();
        self.seen.most_flooded = 0.0;
        self.schedule_beat(index, 0.0);
    }

    pub fn figures(&mut self) -> Figures {
        let served: Vec<_> = self.nodes.iter().map(|node| node.served as f64).collect();
        let mean = served.iter().sum::<f64>() / served.len() as f64;
        let most_served = served.iter().copied().fold(0.0, f64::max) / mean;
        Figures { most_served, ..self.seen }
    }

    /// Lets everything end that can.
    pub fn finish(mut self) {
        self.is_ending = true;
        self.run_for(20.0);
        let unanswered = self.calls.iter().filter(|call| call.answers == 0);
        // Those of nodes that were killed have no answer.
        let lost = unanswered.filter(|call| self.nodes[call.origin].runs == 1).count();
        let killed = self.nodes.iter().filter(|node| node.runs > 1).count();
        assert!(killed > 0 || lost == 0, "{lost} requests have no answer");
    }
}
