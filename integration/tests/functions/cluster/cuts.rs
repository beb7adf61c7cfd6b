//! Three nodes of which one is killed or cut off, or whose NATS server is killed, under load. See `examples/cluster/run`.

use std::{env, time::Duration};

use integration::{
    Answer, Function, Load, Outcome, SOON, Workload, eventually, median, ms,
    nodes::{FRONT, Nodes},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// What a silent cut costs a request at most, on a machine that is not busy.
const CUT: Duration = Duration::from_millis(600);
/// How long requests go on after a fault.
const AFTER: Duration = Duration::from_secs(3);
/// For how long a node is cut off, and the NATS server away. `UNIFAAS_AWAY`: other seconds.
fn away() -> Duration {
    env::var("UNIFAAS_AWAY").ok().and_then(|seconds| seconds.parse().ok()).map_or(AFTER, Duration::from_secs)
}

/// How often the NATS server is killed.
const KILLS: usize = 20;
/// Some 200 requests a second.
const LOAD: Workload = Workload { method: "GET", path: "/invoke/f/pid", clients: 4, pause: Duration::from_millis(20) };

fn has_answered(answer: &Answer) -> bool {
    answer.outcome == Outcome::Function { status: 200 }
}

fn took(answer: &Answer) -> Duration {
    answer.answered - answer.asked
}

/// Prints times before and after a fault, and returns the answers to requests after it.
#[allow(clippy::print_stdout, reason = "figures")]
fn compare(what: &str, answers: Vec<Answer>, fault: Instant) -> Vec<Answer> {
    let (after, before): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.asked >= fault);
    let times = |answers: &[Answer]| answers.iter().map(took).collect::<Vec<_>>();
    let (all, worst) = (times(&after), after.iter().map(took).max().unwrap_or_default());
    let slow = all.iter().filter(|time| **time > ms(100)).count();
    println!(
        "{what}: median {:?} before, {:?} after; the slowest of {} after {worst:?}, {slow} above 100 ms",
        median(times(&before)),
        median(all),
        after.len()
    );
    // What was under way may have failed, with a true answer.
    for answer in before.iter().filter(|answer| answer.answered < fault) {
        assert!(has_answered(answer), "before: {answer:?}");
    }
    for answer in &before {
        let is_true = matches!(&answer.outcome, Outcome::Platform { status: 502, code, .. } if code == "peer_failed");
        assert!(has_answered(answer) || is_true, "in flight: {answer:?}");
    }
    assert!(after.len() > 50, "{} requests after the fault", after.len());
    after
}

/// Starts load on c, which both others serve.
async fn load(nodes: &Nodes) -> Load {
    nodes.enter("c");
    let load = Load::on(FRONT, &[LOAD]);
    let both = async || {
        let functions = nodes.get("a", "/debug/cluster").json()["functions"]["f"]["served_for_peers"].as_u64();
        let others = nodes.get("b", "/debug/cluster").json()["functions"]["f"]["served_for_peers"].as_u64();
        functions.min(others).unwrap_or_default()
    };
    eventually(SOON, "both serve requests of c", both, |served| *served > 20).await;
    load
}

fn everywhere() -> [(&'static str, Function); 2] {
    ["a", "b"].map(|node| {
        (node, Function::new("f").set("min-instances", 1).set("max-instances", 2).set("concurrent-requests", 4))
    })
}

#[tokio::test]
async fn killed_node_costs_requests_behind_it_no_error() {
    let Some(nodes) = Nodes::start(everywhere()).await else { return };
    let load = load(&nodes).await;
    nodes.kill("a");
    let fault = Instant::now();
    sleep(AFTER).await;
    let after = compare("node killed", load.stop().await, fault);
    let failed: Vec<_> = after.iter().filter(|answer| !has_answered(answer)).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn silent_cut_costs_half_a_second_once_and_the_node_serves_on_alone() {
    let Some(nodes) = Nodes::start(everywhere()).await else { return };
    let load = load(&nodes).await;
    nodes.set_link("a", "down");
    let fault = Instant::now();
    while fault.elapsed() < away() {
        nodes.get("a", "/invoke/f/pid").ok();
        sleep(ms(50)).await;
    }
    let after = compare("silent cut", load.stop().await, fault);
    let failed: Vec<_> = after.iter().filter(|answer| !has_answered(answer)).collect();
    assert!(failed.is_empty(), "{failed:?}");
    // Each client meets the cut at most once or twice: what it had sent, and a new connection.
    let slow: Vec<_> = after.iter().map(took).filter(|took| *took > CUT / 2).collect();
    assert!(slow.len() <= 4 * LOAD.clients, "{slow:?}");
    // A busy machine makes them slower.
    assert!(median(slow.clone()) <= CUT * 3 / 2 && slow.iter().all(|took| *took < 3 * CUT), "{slow:?}");
    let late = after.iter().filter(|answer| answer.asked > fault + ms(1500)).map(took).collect();
    assert!(median(late) < ms(300));

    nodes.set_link("a", "up");
    let peers = async || nodes.get("c", "/debug/cluster").json()["peers"].clone();
    let fresh = |peers: &Value| {
        peers.as_array().is_some_and(|all| all.iter().filter(|it| it["health"] == "fresh").count() == 2)
    };
    eventually(4 * SOON, "a is fresh again", peers, fresh).await;
}

#[tokio::test]
async fn nats_server_that_is_away_costs_no_request() {
    let Some(nodes) = Nodes::start(everywhere()).await else { return };
    let load = load(&nodes).await;
    nodes.kill_server_for(away()).await;
    nodes.get("a", "/invoke/f/pid").ok();
    directory_is_right(&nodes, "nats-server away").await;
    all_are_served(load).await;
}

#[tokio::test]
async fn killed_nats_servers_cost_no_request() {
    let Some(nodes) = Nodes::start(everywhere()).await else { return };
    let load = load(&nodes).await;
    for _ in 0..KILLS {
        nodes.kill_server().await;
        nodes.get("a", "/invoke/f/pid").ok();
        sleep(ms(100)).await;
    }
    directory_is_right(&nodes, &format!("nats-server killed {KILLS} times")).await;
    all_are_served(load).await;
}

/// Waits until c hears heartbeats again, and prints for how long.
#[allow(clippy::print_stdout, reason = "figures")]
async fn directory_is_right(nodes: &Nodes, what: &str) {
    let back = Instant::now();
    let is_frozen = async || nodes.get("c", "/debug/cluster").json()["is_frozen"].clone();
    eventually(SOON, "the directory is alive", is_frozen, |frozen| *frozen == false).await;
    println!("{what}: the directory is right after {:?}", back.elapsed());
}

async fn all_are_served(load: Load) {
    let answers = load.stop().await;
    let failed: Vec<_> = answers.iter().filter(|answer| !has_answered(answer)).collect();
    assert!(answers.len() > 50 && failed.is_empty(), "{failed:?}");
}
