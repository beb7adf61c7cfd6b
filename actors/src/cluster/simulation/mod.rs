//! Many nodes in virtual time, with lost heartbeats, cut links, killed nodes and clocks that go wrong. Directories and
//! placements are the daemon's; `world.rs` has the nodes and the network.
//!
//! The long form is 1,000 schedules of 500 nodes: `UNIFAAS_SIMULATED_SCHEDULES=1000 UNIFAAS_SIMULATED_NODES=500`, built with
//! optimization.

mod world;

use self::world::{Traffic, World};
use crate::seeds::for_each_seed;

/// Nodes and schedules, unless the environment sets others.
const NODES: usize = 40;
const SCHEDULES: u64 = 10;
/// Requests by share of what all nodes together can serve.
const LIGHT: f64 = 0.05;
const HEAVY: f64 = 0.8;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn nodes() -> usize {
    setting("UNIFAAS_SIMULATED_NODES").map_or(NODES, |nodes| nodes as usize)
}

/// Cuts links, kills nodes, and looks at all directories three seconds after everything is well again.
fn disturb(seed: u64, nodes: usize) {
    let mut world = World::begin(seed, nodes, Traffic { load: LIGHT, hot_share: 0.5 });
    world.run_for(4.0);
    for _ in 0..2 {
        world.disturb();
        let lasts = world.draw(1.0..25.0);
        world.run_for(lasts);
        world.heal();
        world.run_for(3.2);
        world.check_views();
    }
    world.finish();
}

#[test]
fn directories_agree_after_any_disturbance_and_no_request_goes_to_a_lost_node() {
    let schedules = setting("UNIFAAS_SIMULATED_SCHEDULES").unwrap_or(SCHEDULES);
    for_each_seed(schedules, |seed| disturb(seed, nodes()));
}

#[test]
fn five_hundred_nodes_agree_after_a_broken_server() {
    let mut world = World::begin(0, 500, Traffic { load: 0.002, hot_share: 0.5 });
    world.run_for(2.0);
    world.break_server();
    world.run_for(4.0);
    world.heal();
    world.run_for(3.2);
    world.check_views();
    world.finish();
}

#[test]
fn busy_nodes_share_their_load_evenly() {
    for hot_share in [0.2, 0.5, 1.0] {
        let mut world = World::begin(1, nodes(), Traffic { load: HEAVY, hot_share });
        world.run_for(10.0);
        let figures = world.figures();
        println!("{hot_share}: {figures:?}");
        assert!(figures.most_served <= 1.5, "{hot_share}: {figures:?}");
        assert!(figures.most_flooded <= 2.0, "{hot_share}: {figures:?}");
        world.finish();
    }
}

#[test]
fn node_that_becomes_free_among_busy_ones_is_not_flooded() {
    let mut world = World::begin(2, nodes(), Traffic { load: 1.5, hot_share: 1.0 });
    world.run_for(3.0);
    for node in [0, 7, 1, 8] {
        world.release(node);
        world.run_for(2.5);
        let figures = world.figures();
        println!("{figures:?}");
        assert!(figures.most_flooded <= 2.0, "{figures:?}");
    }
}
