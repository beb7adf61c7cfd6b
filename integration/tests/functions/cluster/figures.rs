//! Bounds of what other nodes cost, wide enough for a busy machine. `docs/performance.md` has the figures of a quiet one:
//! `UNIFAAS_FIGURES=1 UNIFAAS_EXE=$PWD/target/release/unifaas cargo test -p integration --test functions cluster::figures --
//! --nocapture --test-threads=1`.

use std::{env, time::Duration};

use futures::future::join_all;
use integration::{Connection, Daemon, Function, brokers::NatsClient, empty, median, processes, request};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep};

use super::{cluster, knows, secured_node, server};

/// Requests of one client to each node, and of each of many.
const PAIRS: usize = 100;
const EACH: usize = 10;
const CLIENTS: usize = 64;
/// Other nodes, and for how long they are watched.
const PEERS: u64 = 50;
const SPAN: Duration = Duration::from_secs(2);

fn times() -> u32 {
    if env::var_os("UNIFAAS_FIGURES").is_some() { 20 } else { 1 }
}

async fn ask(connection: &mut Connection, path: &str) {
    connection.send(request("GET", path, empty())).await.expect("an answer").ok();
}

/// Returns the requests a second of many clients.
async fn throughput(daemon: &Daemon, path: &str, each: usize) -> f64 {
    let client = async || {
        let mut connection = daemon.connect().await;
        for _ in 0..each {
            ask(&mut connection, path).await;
        }
    };
    let began = Instant::now();
    join_all((0..CLIENTS).map(|_| client())).await;
    (CLIENTS * each) as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "figures")]
async fn another_node_adds_a_round_trip_to_a_warm_request() {
    let times = times() as usize;
    for security in ["none", "tls"] {
        let Some((_home, server)) = server().await else { return };
        let warm = |name| {
            let function = Function::new(name).set("min-instances", 1).set("max-instances", 1);
            function.set("concurrent-requests", CLIENTS as u64)
        };
        let a = secured_node(&server, "a", security, [warm("far")]).await;
        let b = secured_node(&server, "b", security, [warm("near")]).await;
        knows(&b, 1, 1).await;
        let mut connection = b.connect().await;
        let paths = ["/invoke/near/pid", "/invoke/far/pid"];
        let mut taken = [Vec::new(), Vec::new()];
        for _ in 0..PAIRS * times {
            for (path, taken) in paths.into_iter().zip(&mut taken) {
                let began = Instant::now();
                ask(&mut connection, path).await;
                taken.push(began.elapsed());
            }
        }
        let [near, far] = taken.map(median);
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..times {
            for (path, rates) in paths.into_iter().zip(&mut rates) {
                rates.push(throughput(&b, path, EACH).await);
            }
        }
        let [near_rate, far_rate] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        println!(
            "{security}: here {near:?}, other node {far:?}, more by {:?}; {CLIENTS} clients: {near_rate:.0}/s, {far_rate:.0}/s",
            far.saturating_sub(near)
        );
        assert!(far < near + Duration::from_millis(100), "{near:?} {far:?}");
        assert!(far_rate > near_rate * 0.1, "{near_rate} {far_rate}");
        let counts = &cluster(&b).await["functions"]["far"];
        assert!(counts["forward_refused"] == 0 && counts["forward_failed"] == 0, "{counts}");
        drop(a);
    }
}

/// Sends the heartbeats of nodes that are not there.
async fn beat(mut nats: NatsClient, own: Value) {
    let (mut tick, mut sequence) = (interval(Duration::from_secs(1) / PEERS as u32), 0);
    loop {
        tick.tick().await;
        sequence += 1;
        let node = format!("{:016x}", sequence % PEERS + 1);
        let mut beat = own.clone();
        for (field, value) in [
            ("node", json!(node)),
            ("name", json!(format!("peer-{}", sequence % PEERS))),
            ("sequence", json!(sequence)),
            ("loads", json!({ "f": { "free": 3, "capacity": 4, "waiting": 0, "service_us": 500 } })),
        ] {
            beat[field] = value;
        }
        nats.send(&format!("uf.default.node.{node}.beat"), &beat.to_string()).await.expect("the server is there");
    }
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "figures")]
async fn fifty_other_nodes_cost_little_memory_and_time() {
    let Some((_home, server)) = server().await else { return };
    let node = secured_node(&server, "b", "none", [Function::new("f")]).await;
    knows(&node, 0, 0).await;
    let span = SPAN * times();
    let usage = async || {
        let began = processes::cpu_time(&[node.pid]);
        sleep(span).await;
        let spent = processes::cpu_time(&[node.pid]).saturating_sub(began);
        (spent.as_secs_f64() / span.as_secs_f64() * 100.0, processes::resident_kib(node.pid))
    };
    let (time_alone, memory_alone) = usage().await;
    let own = cluster(&node).await["beat"].clone();
    let nats = NatsClient::connect(server.address).await.expect("the server is there");
    let beats = tokio::spawn(beat(nats, own));
    knows(&node, PEERS as usize, 0).await;
    let (time, memory) = usage().await;
    beats.abort();
    let more = memory.saturating_sub(memory_alone);
    println!("{PEERS} other nodes: {time_alone:.2} % of a processor without, {time:.2} % with; {more} KiB more memory");
    assert!(more < 16 << 10, "{more} KiB");
    assert!(time < time_alone + 10.0, "{time} % of a processor");
}
