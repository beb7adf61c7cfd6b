//! Nodes of a site and its server are killed under load: nothing that was accepted is lost.
//!
//! `UNIFAAS_KILLS=100 cargo test -p integration --test functions site_kills` is the long form: each fifth kill is also one of
//! the server.

use std::{
    collections::{HashMap, HashSet},
    env, fs,
};

use integration::{AsyncLoad, Function, Setup, brokers::public_file, ms};
use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    knows, node, server, settings,
    site::{recorded, shared},
};

/// Kills of nodes without `UNIFAAS_KILLS`.
const KILLS: usize = 5;
/// Kills of nodes for one of the server.
const OF_SERVER: usize = 5;
/// Attempts at the same time on each node.
const CONCURRENCY: usize = 4;
const NAMES: [&str; 3] = ["a", "b", "c"];

fn function() -> Function {
    let function = shared().set("concurrent-requests", 16).set("min-instances", 1);
    function.asynchronous("concurrency", CONCURRENCY).asynchronous("attempts", 1000).asynchronous("queue", 100_000)
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "figures")]
async fn killed_nodes_and_servers_lose_nothing_that_was_accepted() {
    let Some((home, mut server)) = server().await else { return };
    let kills = env::var("UNIFAAS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let file = public_file(home.path("runs"));
    let mut nodes = Vec::new();
    for name in NAMES {
        nodes.push(node(&server, name, [function()]).await);
    }
    knows(&nodes[0], 2, 2).await;
    let addresses: Vec<_> = nodes.iter().map(|node| node.listen).collect();
    let load = AsyncLoad::start(&addresses, recorded(&file, 5));
    let (mut random, began) = (StdRng::seed_from_u64(7), Instant::now());
    for kill in 0..kills {
        sleep(ms(random.random_range(100..900))).await;
        if kill % OF_SERVER == OF_SERVER - 1 {
            server.end(Signal::SIGKILL);
            sleep(ms(random.random_range(0..500))).await;
            server.start().await;
        }
        let killed = random.random_range(0..NAMES.len());
        let node = nodes.remove(killed);
        let (listen, home) = (node.listen.to_string(), node.home.clone());
        node.killed().await;
        let setup = settings(&server, NAMES[killed], Setup::at(&home)).option("--listen", &*listen);
        nodes.insert(killed, setup.start().await);
    }
    let took = began.elapsed();
    let accepted = load.stop().await;
    let stopped = Instant::now();
    let (mut states, mut places) = (HashMap::<String, usize>::new(), HashMap::<&str, usize>::new());
    for (number, one) in accepted.iter().enumerate() {
        *places.entry(&one.stored).or_default() += 1;
        // What is still on its node is known there alone.
        let mut ended = None;
        while ended.is_none() {
            for node in nodes.iter().cycle().skip(number % NAMES.len()).take(NAMES.len()) {
                let reply = node.get(&format!("/invocations/{}", one.id)).await;
                let shown = (reply.status == 200).then(|| reply.json());
                ended = shown
                    .and_then(|it| it["state"].as_str().filter(|it| ["done", "dead"].contains(it)).map(str::to_owned));
                if ended.is_some() {
                    break;
                }
            }
            assert!(stopped.elapsed() < ms(120_000), "{one:?} does not end");
            if ended.is_none() {
                sleep(ms(100)).await;
            }
        }
        *states.entry(ended.unwrap_or_default()).or_default() += 1;
    }
    let ids: HashSet<_> = accepted.iter().map(|one| one.id.as_str()).collect();
    let text = fs::read_to_string(&file).unwrap();
    let runs: Vec<_> = text.lines().collect();
    let distinct: HashSet<_> = runs.iter().copied().collect();
    let repeated = runs.len() - distinct.len();
    let rate = accepted.len() as f64 / took.as_secs_f64();
    println!("{kills} nodes and {} servers killed in {took:.0?}, {rate:.0} accepted a second", kills / OF_SERVER);
    println!("{} accepted ({places:?}), {states:?}, the last after {:.0?}", accepted.len(), stopped.elapsed());
    println!("{} runs, {repeated} beyond one", runs.len());
    assert_eq!(states.get("done"), Some(&accepted.len()), "{states:?}");
    assert!(ids.iter().all(|id| distinct.contains(id)), "each has run");
    // A kill of the server interrupts what all nodes run.
    let most = (kills + kills / OF_SERVER * NAMES.len()) * CONCURRENCY;
    assert!(repeated <= most, "{repeated}");
}
