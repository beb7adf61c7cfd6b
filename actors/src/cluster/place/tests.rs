use std::collections::BTreeMap;

use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    super::{
        beat::{Beat, FunctionList, NodeVersions, OfferedFunction},
        node::Epoch,
        suspicion::Health,
        view::Contact,
    },
    *,
};

const MEMORY: u64 = 128;
/// Slots that are all busy: 10 ms for each request.
const BUSY: FunctionLoad = FunctionLoad {
    free: 0,
    capacity: 1,
    waiting: 0,
    service_us: 10_000,
    boot_us: Some(500_000),
    is_failing: false,
    is_full: false,
};

/// A node that is a round trip of 100 µs away and has no memory for instances.
#[derive(Clone)]
struct Node {
    id: u64,
    load: Option<FunctionLoad>,
    memory: u64,
    rtt: Duration,
    is_near: bool,
    health: Health,
    labels: BTreeMap<String, String>,
    is_draining: bool,
    /// The published version of the function that it serves.
    serves: Option<&'static str>,
}

fn node(id: u64, load: FunctionLoad) -> Node {
    let (rtt, health, labels) = (Duration::from_micros(100), Health::Fresh, BTreeMap::new());
    Node { id, load: Some(load), memory: 0, rtt, is_near: true, health, labels, is_draining: false, serves: None }
}

fn free(slots: u32) -> FunctionLoad {
    FunctionLoad { free: slots, capacity: slots, ..BUSY }
}

fn view(nodes: &[Node]) -> ClusterView {
    let peer = |node: &Node| {
        let Node { id, load, memory, rtt, is_near, health, labels, is_draining, serves } = node.clone();
        let versions =
            serves.map(|version| NodeVersions { serves: Some(version.to_owned()), ..NodeVersions::default() });
        let beat = Beat {
            node: NodeId(id),
            epoch: Epoch::new(1, 1),
            sequence: 1,
            name: "n".into(),
            address: "h:1".into(),
            key: None,
            labels,
            is_draining,
            memory_free: memory,
            starting: 0,
            functions: 1,
            versions: versions.map(|versions| ("f".into(), versions)).into_iter().collect(),
            loads: load.map(|load| ("f".into(), load)).into_iter().collect(),
        };
        let contact = Contact::new(is_near);
        contact.set_rtt(rtt);
        let functions =
            FunctionList::from([("f".into(), OfferedFunction { memory: MEMORY, ..OfferedFunction::default() })]);
        Arc::new(PeerView::new("s".into(), Arc::new(beat), health, Arc::new(functions), Arc::new(contact)))
    };
    ClusterView { own: NodeId(0), peers: nodes.iter().map(peer).collect(), is_frozen: false, keys: Arc::default() }
}

const REQUEST: Request<'_> = Request { function: "f", local: None, version: None, labels: &[], tried: &[] };

/// Places a request; 0 is this node.
fn placed(view: &ClusterView, request: Request<'_>, seed: u64) -> Option<u64> {
    match place(view, request, &mut StdRng::seed_from_u64(seed)).choice {
        Choice::Local => Some(0),
        Choice::Peer(peer, _) => Some(peer.node().0),
        Choice::Nowhere => None,
    }
}

fn local(load: FunctionLoad) -> LocalOffer {
    LocalOffer { load, has_memory: false }
}

#[track_caller]
fn check(nodes: &[Node], offer: Option<LocalOffer>, expected: Option<u64>) {
    for seed in 0..20 {
        assert_eq!(placed(&view(nodes), Request { local: offer.as_ref(), ..REQUEST }, seed), expected, "seed {seed}");
    }
}

#[test]
fn the_soonest_start_wins() {
    let cold = Node { load: None, memory: MEMORY, ..node(4, BUSY) };
    let quick = FunctionLoad { boot_us: Some(5_000), ..BUSY };
    check(&[node(1, BUSY), node(2, free(1)), cold.clone()], Some(local(BUSY)), Some(2));
    check(&[node(1, BUSY), cold.clone()], None, Some(1));
    check(&[node(1, BUSY), Node { memory: MEMORY, ..node(3, quick) }], None, Some(3));
    // A long queue is worse than a boot of unknown length.
    check(&[node(1, FunctionLoad { waiting: 200, ..BUSY }), cold.clone()], None, Some(4));
    check(&[cold], None, Some(4));
}

#[test]
fn another_node_has_to_win_by_a_margin() {
    check(&[node(1, free(1))], Some(local(FunctionLoad { service_us: 1_000, ..BUSY })), Some(0));
    check(&[node(1, free(1))], Some(local(FunctionLoad { service_us: 1_200, ..BUSY })), Some(1));
    let far = Node { rtt: Duration::from_millis(50), ..node(1, free(1)) };
    check(std::slice::from_ref(&far), Some(local(FunctionLoad { service_us: 59_000, ..BUSY })), Some(0));
    check(&[far], Some(local(FunctionLoad { service_us: 61_000, ..BUSY })), Some(1));
    check(&[node(1, BUSY)], Some(local(BUSY)), Some(0));
}

#[test]
fn other_sites_are_asked_if_the_own_one_has_no_room() {
    let far = Node { is_near: false, ..node(9, free(4)) };
    let slow = FunctionLoad { service_us: 900_000, ..BUSY };
    let full = FunctionLoad { is_full: true, ..slow };
    let alone = std::slice::from_ref(&far);
    // The own site does not have the function, or all its nodes that have it are busy and cannot start another instance.
    check(alone, None, Some(9));
    check(alone, Some(local(slow)), Some(9));
    check(alone, Some(LocalOffer { load: full, has_memory: true }), Some(9));
    check(&[far.clone(), node(1, slow)], Some(local(slow)), Some(9));
    // A free slot or memory for an instance keeps the request in the site, on the node or on another one, however long that takes.
    check(alone, Some(LocalOffer { load: slow, has_memory: true }), Some(0));
    check(&[far.clone(), Node { memory: MEMORY, ..node(1, slow) }], None, Some(1));
    check(&[far.clone(), Node { rtt: Duration::from_millis(90), ..node(1, free(1)) }], Some(local(slow)), Some(1));
    // A queue that is shorter than the way is no reason to leave the site.
    check(&[Node { rtt: Duration::from_millis(50), ..far.clone() }, node(1, BUSY)], None, Some(1));
    // What may not answer is no room.
    check(&[far.clone(), Node { health: Health::Silent, ..node(1, free(1)) }], None, Some(9));
    // Refusals of the own site lead to the other one.
    let tried = Request { tried: &[NodeId(1)], ..REQUEST };
    assert_eq!(placed(&view(&[far, node(1, free(1))]), tried, 0), Some(9));
}

#[test]
fn nodes_that_cannot_serve_are_not_asked() {
    let failing = FunctionLoad { is_failing: true, ..free(1) };
    let full = Node { memory: MEMORY, ..node(1, FunctionLoad { capacity: 0, is_full: true, ..BUSY }) };
    let draining = Node { is_draining: true, ..node(1, free(1)) };
    let small = Node { load: None, memory: MEMORY - 1, ..node(1, BUSY) };
    for refuses in [node(1, failing), full, draining, small] {
        check(&[refuses], None, None);
    }
    assert_eq!(placed(&view(&[node(1, free(1))]), Request { function: "g", ..REQUEST }, 0), None);
    for (serves, expected) in [(None, Some(1)), (Some("1"), Some(1)), (Some("2"), None)] {
        let there = view(&[Node { serves, ..node(1, free(1)) }]);
        assert_eq!(placed(&there, Request { version: Some("1"), ..REQUEST }, 0), expected, "{serves:?}");
    }
    assert_eq!(placed(&view(&[node(1, free(1))]), Request { tried: &[NodeId(1)], ..REQUEST }, 0), None);
}

#[test]
fn version_that_a_heartbeat_has_no_room_for_is_in_the_list() {
    let mut view = view(&[node(1, free(1))]);
    let listed = OfferedFunction { version: Some("2".to_owned()), ..OfferedFunction::default() };
    let functions = Arc::new(FunctionList::from([("f".into(), listed)]));
    view.peers[0] = Arc::new(view.peers[0].with(Health::Fresh, functions));
    for (version, expected) in [("1", None), ("2", Some(1))] {
        assert_eq!(placed(&view, Request { version: Some(version), ..REQUEST }, 0), expected, "{version}");
    }
}

#[test]
fn suspect_nodes_are_the_last_choice() {
    for health in [Health::Silent, Health::Unreachable] {
        let suspect = Node { health, ..node(1, free(9)) };
        check(&[suspect.clone(), node(2, BUSY)], None, Some(2));
        check(std::slice::from_ref(&suspect), Some(local(BUSY)), Some(0));
        check(&[suspect], None, Some(1));
    }
}

#[test]
fn labels_are_keys_or_keys_with_values() {
    let labels = BTreeMap::from([("gpu".to_owned(), String::new()), ("zone".to_owned(), "a".to_owned())]);
    let nodes = [Node { labels, ..node(1, free(1)) }, node(2, free(1))];
    for (wanted, expected) in [(["gpu"], Some(1)), (["zone"], Some(1)), (["zone=a"], Some(1)), (["zone=b"], None)] {
        let labels = wanted.map(str::to_owned);
        assert_eq!(placed(&view(&nodes), Request { labels: &labels, ..REQUEST }, 0), expected, "{wanted:?}");
    }
}

#[test]
fn free_slots_are_counted_down_until_the_next_beat() {
    let view = view(&[node(1, free(3)), node(2, free(2))]);
    let mut counts = [0, 0];
    for seed in 0..5 {
        let node = placed(&view, Request { local: Some(&local(BUSY)), ..REQUEST }, seed).unwrap();
        assert_ne!(node, 0, "there are free slots");
        counts[node as usize - 1] += 1;
    }
    assert_eq!(counts, [3, 2]);
    assert_eq!(placed(&view, Request { local: Some(&local(BUSY)), ..REQUEST }, 5), Some(0));
    assert_eq!(view.peers[0].load("f", view.share("f")), FunctionLoad { free: 0, capacity: 3, ..BUSY });
}

#[test]
fn nodes_without_free_slots_share_those_of_the_others() {
    let nodes: Vec<_> = (1..=9).map(|id| node(id, if id == 9 { free(6) } else { BUSY })).collect();
    let view = view(&nodes);
    let all: Vec<_> =
        (10..1010).map(|own| view.peers[8].load("f", Share { own: NodeId(own), competitors: 7 }).free).collect();
    assert!(all.iter().all(|share| matches!(share, 1 | 2)), "{all:?}");
    // Nine for seven.
    let sum: u32 = all.iter().sum();
    assert!((1200..1370).contains(&sum), "{sum}");
    assert_eq!(view.share("f"), Share { own: NodeId(0), competitors: 9 });
    assert_eq!(view.peers[8].load("f", Share { own: NodeId(0), competitors: 1 }).free, 6);
}

#[test]
fn memory_is_counted_down_until_the_next_beat() {
    let view = view(&[Node { load: None, memory: 2 * MEMORY, ..node(1, BUSY) }]);
    let placements = [0, 1, 2].map(|seed| placed(&view, REQUEST, seed));
    assert_eq!(placements, [Some(1), Some(1), None]);
    view.peers[0].note_started(MEMORY);
    assert_eq!([0, 1].map(|seed| placed(&view, REQUEST, seed)), [Some(1), None], "the instance serves the next one");
}

#[test]
fn refusal_takes_the_free_slots_of_a_node() {
    let view = view(&[node(1, free(5)), node(2, free(1))]);
    view.peers[0].note_refusal("f");
    assert_eq!(placed(&view, REQUEST, 0), Some(2));
}

#[test]
fn of_two_drawn_nodes_the_freer_one_gets_the_request() {
    let nodes: Vec<_> = (1..=10).map(|id| node(id, free(id as u32 * 10))).collect();
    let mut counts = [0; 11];
    for seed in 0..1000 {
        counts[placed(&view(&nodes), REQUEST, seed).unwrap() as usize] += 1;
    }
    // The least free one loses to any other; the freest one is among two of ten with a probability of a fifth.
    assert_eq!(counts[1], 0);
    assert!((150..=250).contains(&counts[10]), "{counts:?}");
}

#[test]
fn placement_remembers_its_estimates() {
    let placement = place(
        &view(&[node(1, free(1)), node(2, BUSY)]),
        Request { local: Some(&local(BUSY)), ..REQUEST },
        &mut StdRng::seed_from_u64(0),
    );
    let seen: Vec<_> = placement.candidates.iter().map(|it| (it.node.map(|node| node.0), it.kind)).collect();
    assert_eq!(seen, [(None, StartKind::Waiting), (Some(1), StartKind::Warm), (Some(2), StartKind::Waiting)]);
    let text = serde_json::to_string(&placement.candidates[1]).unwrap();
    assert_eq!(text, r#"{"node":"0000000000000001","kind":"warm","estimate_ms":0.1,"free":1,"has_room":true}"#);
}
