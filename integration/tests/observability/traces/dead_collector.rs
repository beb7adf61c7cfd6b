//! Collectors that do not answer: requests take as long as ever, and memory stays bounded.

use std::time::Duration;

use integration::{Daemon, Function, SOON, Setup, empty, eventually, ms, processes, request};

const REQUESTS: usize = 2_000;
/// Always allowed: a debug build shares the processors with other tests.
const NOISE: Duration = ms(15);
/// Greatest allowed ratio of the 99th percentiles with and without a collector.
const RATIO: f64 = 2.0;

async fn start(endpoint: Option<&str>) -> Daemon {
    let setup = Setup::default().function(Function::new("f")).option("--trace-sample", "1");
    match endpoint {
        Some(endpoint) => setup.option("--otlp-endpoint", endpoint).start().await,
        None => setup.start().await,
    }
}

/// Returns the 99th percentile of sequential requests.
async fn p99(daemon: &Daemon) -> Duration {
    let (mut connection, mut times) = (daemon.connect().await, Vec::new());
    for _ in 0..REQUESTS {
        times.push(connection.send(request("GET", "/invoke/f/pid", empty())).await.expect("an answer").ok().took);
    }
    times.sort_unstable();
    times[REQUESTS * 99 / 100]
}

#[tokio::test]
async fn dead_collector_costs_neither_time_nor_memory() {
    let without = p99(&start(None).await).await;
    // One refuses connections, the other accepts them and never answers.
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [refusing, silent.local_addr().unwrap()] {
        let daemon = start(Some(&format!("http://{address}"))).await;
        let warm = p99(&daemon).await;
        let before = processes::resident_kib(daemon.pid);
        let with = p99(&daemon).await.min(warm);
        let after = processes::resident_kib(daemon.pid);
        println!("p99 without {without:?}, with {with:?}; {before} KiB, then {after} KiB");
        assert!(with <= without.mul_f64(RATIO).max(NOISE), "{without:?} without, {with:?} with {address}");
        assert!(after <= before + 8 * 1024, "{before} KiB before, {after} after");
        let lost = async || daemon.metrics().await.value("unifaas_spans_lost_total");
        eventually(SOON, "spans are lost", lost, |lost| *lost > Some(100.0)).await;
        if address == refusing {
            daemon.logged("the collector has not taken spans").await;
        }
    }
}
