use super::{super::beat::OfferedFunction, *};

const OWN: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

struct Fixture {
    base: Instant,
    site: Arc<str>,
    peers: Peers,
}

impl Fixture {
    fn new() -> Self {
        let (base, site) = (Instant::now(), Arc::from("default"));
        let peers = Peers::new(OWN, Epoch::new(1, 0), Arc::clone(&site), base);
        Self { base, site, peers }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.base + Duration::from_secs_f64(seconds)
    }

    fn hear(&mut self, node: NodeId, epoch: Epoch, sequence: u64, seconds: f64) -> Heard {
        let beat = beat(node, epoch, sequence);
        self.peers.heard(&self.site.clone(), Arc::new(beat), self.at(seconds))
    }

    fn healths(&mut self, seconds: f64) -> Vec<Health> {
        let now = self.at(seconds);
        self.peers.judge(now);
        self.peers.view(now).peers.iter().map(|peer| peer.health).collect()
    }
}

fn beat(node: NodeId, epoch: Epoch, sequence: u64) -> Beat {
    let (name, address) = ("n".into(), "10.0.0.2:1".into());
    let (key, labels, loads, versions) = Default::default();
    let (is_draining, memory_free, starting, functions) = (false, 100, 0, 5);
    Beat {
        node,
        epoch,
        sequence,
        name,
        address,
        key,
        labels,
        is_draining,
        memory_free,
        starting,
        functions,
        loads,
        versions,
    }
}

fn peer(is_new: bool, wants_functions: bool) -> Heard {
    Heard::Peer { is_new, wants_functions, key_before: None }
}

fn run(runs: u32) -> Epoch {
    Epoch::new(runs, 9)
}

#[test]
fn later_beats_replace_earlier_ones_and_late_ones_change_nothing() {
    let mut f = Fixture::new();
    assert_eq!(f.hear(OTHER, run(2), 5, 0.0), peer(true, true));
    assert_eq!(f.hear(OTHER, run(2), 6, 0.1), peer(false, false));
    for (epoch, sequence) in [(run(2), 6), (run(2), 5), (run(1), 99)] {
        assert_eq!(f.hear(OTHER, epoch, sequence, 0.2), Heard::Stale);
    }
    assert_eq!(f.peers.ages(f.at(1.1)).next().unwrap().1, Duration::from_secs(1));
    // A new run counts from the beginning.
    assert_eq!(f.hear(OTHER, run(3), 1, 0.3), peer(true, true));
}

#[test]
fn list_is_asked_for_until_it_comes_and_again_when_it_changes() {
    let mut f = Fixture::new();
    f.hear(OTHER, run(1), 1, 0.0);
    assert_eq!(f.hear(OTHER, run(1), 2, 1.0), peer(false, false));
    assert_eq!(f.hear(OTHER, run(1), 3, 2.1), peer(false, true));
    let list = FunctionList::from([("f".into(), OfferedFunction { memory: 1, ..OfferedFunction::default() })]);
    f.peers.listed(OTHER, 5, list);
    assert_eq!(f.hear(OTHER, run(1), 4, 9.0), peer(false, false));
    let view = f.peers.view(f.at(9.0));
    assert!(view.peers[0].offers("f").is_some() && view.peers[0].offers("g").is_none());
    let changed = Beat { functions: 6, ..beat(OTHER, run(1), 5) };
    let heard = f.peers.heard(&f.site.clone(), Arc::new(changed), f.at(9.1));
    assert_eq!(heard, peer(false, true));
    // Until the new one comes, the old one counts, also that of an earlier run.
    assert!(f.peers.view(f.at(9.1)).peers[0].offers("f").is_some());
    assert_eq!(f.hear(OTHER, run(2), 1, 9.2), peer(true, true));
    assert!(f.peers.view(f.at(9.2)).peers[0].offers("f").is_some());
}

#[test]
fn silent_nodes_become_suspect_and_are_forgotten_while_the_link_works() {
    let mut f = Fixture::new();
    f.hear(OTHER, run(1), 1, 0.0);
    for second in 0..=15 {
        assert_eq!(f.hear(OWN, Epoch::new(1, 0), second + 1, second as f64), Heard::Own);
        let expected: &[_] = match second {
            0..3 => &[Health::Fresh],
            3..15 => &[Health::Silent],
            _ => &[],
        };
        assert_eq!(f.healths(second as f64), expected, "second {second}");
    }
}

#[test]
fn nodes_stay_while_the_link_is_down() {
    let mut f = Fixture::new();
    f.hear(OWN, Epoch::new(1, 0), 1, 0.0);
    f.hear(OTHER, run(1), 1, 0.0);
    f.peers.set_link_up(false);
    assert!(f.peers.is_frozen(f.at(0.0)));
    assert_eq!(f.healths(500.0), [Health::Fresh]);
    // Its connections tell.
    f.peers.failed(OTHER, f.at(500.0));
    assert_eq!(f.healths(500.0), [Health::Unreachable]);
    f.peers.reached(OTHER);
    assert_eq!(f.healths(500.0), [Health::Fresh]);
    assert_eq!(f.healths(700.0), []);
}

#[test]
fn node_that_accepts_no_connection_is_tried_again_and_again() {
    let mut f = Fixture::new();
    f.hear(OTHER, run(1), 1, 0.0);
    let mut probes = Vec::new();
    for tenth in 0..1000 {
        let seconds = f64::from(tenth) / 10.0;
        let now = f.at(seconds);
        if !f.peers.probes(now).is_empty() {
            probes.push(seconds);
            f.peers.failed(OTHER, now);
        }
    }
    assert_eq!(probes, [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0]);
    f.peers.reached(OTHER);
    f.peers.view(f.at(100.0)).peers[0].contact.set_rtt(Duration::from_millis(1));
    assert!(f.peers.probes(f.at(200.0)).is_empty());
}

#[test]
fn another_daemon_of_the_same_identity_is_noticed() {
    let mut f = Fixture::new();
    let (epoch, address) = (Epoch::new(1, 7), "10.0.0.2:1".into());
    assert_eq!(f.hear(OWN, epoch, 1, 0.0), Heard::Impostor { epoch, address });
    assert!(f.peers.is_frozen(f.at(0.0)), "it proves nothing about the link");
}

#[test]
fn node_that_moves_is_reached_anew() {
    let mut f = Fixture::new();
    f.hear(OTHER, run(1), 1, 0.0);
    let before = f.peers.view(f.at(0.0)).peers[0].contact.clone();
    before.set_unreachable(true);
    f.hear(OTHER, run(2), 1, 0.5);
    let after = f.peers.view(f.at(0.5)).peers[0].contact.clone();
    assert!(Arc::ptr_eq(&before, &after) && !after.is_unreachable(), "the daemon before may still answer");
    before.set_unreachable(true);
    let moved = Beat { address: "10.0.0.3:1".into(), ..beat(OTHER, run(2), 2) };
    f.peers.heard(&f.site.clone(), Arc::new(moved), f.at(1.0));
    let moved = f.peers.view(f.at(1.0)).peers[0].clone();
    assert!(!moved.is_suspect() && !Arc::ptr_eq(&before, &moved.contact));
    f.peers.heard(&"far".into(), Arc::new(Beat { address: "10.0.0.3:1".into(), ..beat(OTHER, run(3), 1) }), f.at(1.5));
    assert!(!f.peers.view(f.at(1.5)).peers[0].contact.is_near(), "it has joined another site");
}

#[test]
fn nodes_with_another_security_are_asked_for_nothing() {
    let key = PublicKey([3; 32]);
    for (is_secure, has_key, is_asked) in
        [(false, false, true), (true, true, true), (false, true, false), (true, false, false)]
    {
        let mut f = Fixture::new();
        f.peers = f.peers.with_security(is_secure);
        let beat = Beat { key: has_key.then_some(key), ..beat(OTHER, run(1), 1) };
        assert_eq!(f.peers.heard(&f.site.clone(), Arc::new(beat), f.base), peer(true, is_asked));
        assert_eq!(f.peers.view(f.base).keys.contains_key(&key), has_key);
    }
}
