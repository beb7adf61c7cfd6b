//! Bounds of the time that accepting takes, wide enough for a busy machine. `docs/performance.md` has the figures of a
//! quiet one: `UNIFAAS_FIGURES=1 UNIFAAS_EXE=$PWD/target/release/unifaas cargo test --release -p integration --test
//! functions inbox::figures -- --nocapture --test-threads=1`.

use std::{
    env,
    time::{Duration, SystemTime},
};

use futures::future::join_all;
use integration::{Daemon, Function, body_of, request};
use tokio::time::Instant;

/// Requests of one client, and of each of many.
const ONE: usize = 200;
const EACH: usize = 30;
const CLIENTS: usize = 64;
/// Invocations whose start is measured.
const STARTS: usize = 20;

/// Accepts so many requests over one connection, and returns the times in order.
async fn accept(daemon: &Daemon, count: usize) -> Vec<Duration> {
    let mut connection = daemon.connect().await;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        // Not due before the test is over.
        let mut request = request("POST", "/async/f/pid", body_of("x".repeat(1024)));
        request.headers_mut().insert("x-unifaas-delay", "3600".parse().unwrap());
        let began = Instant::now();
        let reply = connection.send(request).await.unwrap();
        assert_eq!(reply.status, 202, "{}", reply.text());
        times.push(began.elapsed());
    }
    times.sort();
    times
}

#[tokio::test]
async fn accepting_takes_about_as_long_as_syncing_a_disk() {
    let times = if env::var_os("UNIFAAS_FIGURES").is_some() { 20 } else { 1 };
    let daemon = Daemon::with(Function::new("f").asynchronous("queue", 1_000_000)).await;
    accept(&daemon, 20).await;
    let one = accept(&daemon, ONE * times).await;
    let (p50, p99) = (one[one.len() / 2], one[one.len() * 99 / 100]);
    let began = Instant::now();
    join_all((0..CLIENTS).map(|_| accept(&daemon, EACH * times))).await;
    let rate = (CLIENTS * EACH * times) as f64 / began.elapsed().as_secs_f64();
    let inbox = daemon.debug().await["daemon"]["inbox"].clone();
    println!("1 client: p50 {p50:?}, p99 {p99:?}; {CLIENTS} clients: {rate:.0}/s; {inbox}");
    assert!(p50 < Duration::from_millis(200), "{p50:?}");
    assert!(rate > 50.0, "{rate}");
    let (commands, groups) = (inbox["commands"].as_u64().unwrap(), inbox["groups"].as_u64().unwrap());
    assert!(groups < commands, "requests of several clients share a commit: {inbox}");
}

#[tokio::test]
async fn a_warm_function_starts_soon_after_its_request_is_accepted() {
    let times = if env::var_os("UNIFAAS_FIGURES").is_some() { 10 } else { 1 };
    let daemon = Daemon::with(Function::new("f").set("min-instances", 1)).await;
    let mut waits = Vec::new();
    for _ in 0..STARTS * times {
        let id = daemon.accepted("/f/now", "", &[]).await;
        let accepted = SystemTime::now();
        daemon.ended_invocation(&id).await;
        let now = daemon.get(&format!("/invocations/{id}/response")).await.ok().text().parse().unwrap();
        let started = SystemTime::UNIX_EPOCH + Duration::from_micros(now);
        // It may start before the client has read its answer.
        waits.push(started.duration_since(accepted).unwrap_or_default());
    }
    waits.sort();
    let p50 = waits[waits.len() / 2];
    println!("from 202 to the start of a warm function: p50 {p50:?}, p99 {:?}", waits[waits.len() * 99 / 100]);
    assert!(p50 < Duration::from_secs(1), "{waits:?}");
}

/// The memory that invocations may add which wait, and what the database caches.
const QUEUED_MEMORY: f64 = 16.0 * 1048576.0;

#[tokio::test]
async fn invocations_that_wait_take_little_memory() {
    let count = if env::var_os("UNIFAAS_FIGURES").is_some() { 100_000 } else { 10_000 };
    let daemon = Daemon::with(Function::new("f").asynchronous("queue", 1_000_000)).await;
    // Opens the database, and has each of the connections once.
    join_all((0..CLIENTS).map(|_| accept(&daemon, 2))).await;
    let resident = async || daemon.metrics().await.value("process_resident_memory_bytes").unwrap();
    let before = resident().await;
    join_all((0..CLIENTS).map(|_| accept(&daemon, count / CLIENTS))).await;
    let queued = daemon.debug().await["daemon"]["inbox"]["queued"].clone();
    let more = resident().await - before;
    println!("{queued} queued: {:.1} MiB more than before", more / 1048576.0);
    assert!(more <= QUEUED_MEMORY, "{more}");
}
