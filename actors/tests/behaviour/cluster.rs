//! The ClusterActor: when it sends heartbeats, and how it judges other nodes by theirs. `support/network.rs` is their network.

use unifaas_actors::cluster::{Health, LinkChanged, LinkState, NodeId, StartDraining};

use crate::support::*;

/// What the timers of tokio may add.
const TICK: std::time::Duration = ms(2);

#[test]
fn heartbeats_come_every_second_and_ten_times_a_second_at_most() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new(""), Network::default());
        let node = network.join(&rig, 1, 1);
        sleep(secs(2)).await;
        let since = Instant::now();
        sleep(secs(20)).await;
        let gaps = node.gaps_since(since);
        assert!((17..=22).contains(&gaps.len()), "{gaps:?}");
        assert!(gaps.iter().all(|gap| (ms(900)..=ms(1100) + TICK).contains(gap)), "{gaps:?}");

        // Something changes all the time.
        let since = Instant::now();
        for _ in 0..200 {
            node.handle.want_beat();
            sleep(ms(10)).await;
        }
        let gaps = node.gaps_since(since);
        assert!((17..=20).contains(&gaps.len()) && gaps.iter().all(|gap| *gap >= ms(100)), "{gaps:?}");

        sleep(ms(500)).await;
        node.handle.want_beat();
        rig.settle().await;
        assert!(node.last_beat().0.elapsed() <= TICK, "the first of them is sent at once");
        rig.finish().await;
    });
}

#[test]
fn other_nodes_hear_at_once_that_a_node_drains() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new(""), Network::default());
        let [node, other] = [1, 2].map(|id| network.join(&rig, id, 1));
        sleep(secs(3)).await;
        let is_draining = || other.handle.view().peers[0].beat.is_draining;
        assert!(!is_draining());
        node.handle.actor().do_send(StartDraining);
        rig.settle().await;
        assert!(is_draining() && node.last_beat().0.elapsed() <= TICK);
        sleep(secs(3)).await;
        assert!(is_draining(), "the next ones say it, too");
        rig.finish().await;
    });
}

#[test]
fn heartbeats_tell_of_the_slots_that_are_free_when_they_are_sent() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new("max-instances = 1"), Network::default());
        let [node, other] = [1, 2].map(|id| network.join(&rig, id, 1));
        sleep(secs(3)).await;
        let view = other.handle.view();
        assert!(view.peers[0].offers(FUNCTION).is_some(), "the list of functions was asked for");
        assert!(view.peers[0].beat.loads.is_empty(), "the function is inactive");
        let lease = rig.acquire().await.unwrap();
        let mut lease = Some(lease);
        for free in [0, 1] {
            node.handle.want_beat();
            sleep(ms(100) + TICK).await;
            let load = other.handle.view().peers[0].beat.loads[FUNCTION];
            assert_eq!((load.free, load.capacity, load.is_full), (free, 1, true));
            lease.take();
        }
        rig.finish().await;
    });
}

#[test]
fn silent_node_is_suspect_after_three_seconds_and_removed_after_fifteen() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new(""), Network::default());
        let [node, cut] = [1, 2].map(|id| network.join(&rig, id, 1));
        sleep(secs(3)).await;
        assert_eq!([node.healths(), cut.healths()], [[Health::Fresh]; 2]);
        cut.set_cut(true);
        // The last heartbeat was up to 1.1 s ago, and nodes are judged about once a second.
        sleep(ms(1800)).await;
        assert_eq!(node.healths(), [Health::Fresh]);
        sleep(ms(2500)).await;
        assert_eq!(node.healths(), [Health::Silent]);
        sleep(secs(9)).await;
        assert_eq!(node.healths(), [Health::Silent]);
        sleep(secs(3)).await;
        assert_eq!(node.healths(), [], "it is removed");
        assert!(cut.handle.view().is_frozen && !node.handle.view().is_frozen);
        assert_eq!(cut.healths(), [Health::Fresh], "it hears not even itself, so others may be well");
        cut.set_cut(false);
        sleep(ms(1100) + TICK).await;
        assert_eq!([node.healths(), cut.healths()], [[Health::Fresh]; 2]);
        rig.finish().await;
    });
}

#[test]
fn own_heartbeats_that_do_not_come_back_freeze_the_directory_for_ten_minutes() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new(""), Network::default());
        let nodes = [1, 2].map(|id| network.join(&rig, id, 1));
        for away in [60, 590, 620] {
            sleep(secs(3)).await;
            assert!(nodes.iter().all(|node| !node.handle.view().is_frozen && node.healths() == [Health::Fresh]));
            nodes.iter().for_each(|node| node.set_cut(true));
            for second in 0..away {
                sleep(secs(1)).await;
                for node in &nodes {
                    let is_kept = second < 595;
                    assert!(second < 4 || node.handle.view().is_frozen, "second {second}");
                    assert!(!is_kept || node.healths() == [Health::Fresh], "second {second}: {:?}", node.healths());
                }
            }
            let left = if away < 600 { 1 } else { 0 };
            assert!(nodes.iter().all(|node| node.healths().len() == left), "after {away} s");
            nodes.iter().for_each(|node| node.set_cut(false));
        }
        rig.finish().await;
    });
}

#[test]
fn lost_connection_of_the_link_freezes_the_directory_at_once() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new(""), Network::default());
        let [node, other] = [1, 2].map(|id| network.join(&rig, id, 1));
        sleep(secs(3)).await;
        node.set_cut(true);
        node.handle.actor().do_send(LinkChanged(LinkState::Disconnected { error: None }));
        rig.settle().await;
        assert!(node.handle.view().is_frozen && !other.handle.view().is_frozen);
        sleep(secs(30)).await;
        assert_eq!((node.healths(), other.healths()), (vec![Health::Fresh], vec![]));
        let since = Instant::now();
        node.set_cut(false);
        node.connect();
        rig.settle().await;
        assert!(node.beats_since(since).len() == 1 && !node.handle.view().is_frozen, "a heartbeat shows that it works");
        assert_eq!([node.healths(), other.healths()], [[Health::Fresh]; 2]);
        rig.finish().await;
    });
}

#[test]
fn of_two_daemons_with_one_identity_the_later_one_leaves() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new(""), Network::default());
        let [earlier, later] = [1, 2].map(|runs| network.join(&rig, 1, runs));
        sleep(ms(500)).await;
        assert_eq!([earlier.rejoins(), later.rejoins()], [0, 0], "a heartbeat or two may be those of a run before");
        sleep(secs(4)).await;
        assert_eq!([earlier.rejoins(), later.rejoins()], [0, 1]);
        let other = network.join(&rig, 2, 1);
        sleep(secs(5)).await;
        assert_eq!([earlier.rejoins(), later.rejoins()], [0, 1], "it has left");
        assert_eq!(other.handle.view().peers[0].beat.epoch, earlier.last_beat().1.epoch);
        rig.finish().await;
    });
}

#[test]
fn node_that_accepts_no_connection_is_suspect_and_tried_less_and_less_often() {
    with_paused_clock(async {
        let (rig, network) = (Rig::new(""), Network::default());
        let [node, failing] = [1, 2].map(|id| network.join(&rig, id, 1));
        sleep(secs(3)).await;
        failing.set_accepting(false);
        let since = Instant::now();
        node.handle.note_tried(NodeId(2), false);
        rig.settle().await;
        assert_eq!(node.healths(), [Health::Unreachable]);
        sleep(secs(95)).await;
        assert_eq!(node.healths(), [Health::Unreachable], "it is heard, so it is not removed");
        let tried = node.probes_since(since);
        let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (pause, expected) in pauses.iter().zip([2, 4, 8, 16, 30]) {
            // Nodes are tried at a heartbeat of either.
            assert!((secs(expected)..secs(expected) + ms(1200)).contains(pause), "{pauses:?}");
        }
        assert!(pauses.len() >= 5, "{pauses:?}");
        failing.set_accepting(true);
        sleep(secs(32)).await;
        assert_eq!(node.healths(), [Health::Fresh]);
        rig.finish().await;
    });
}
