//! `throughput`: requests as fast as they are answered, over more and more connections, directly and through the daemon.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use rand::seq::SliceRandom as _;
use tokio::time::sleep;

use super::{
    Prepared, Session, Turn,
    contestants::Enrolment,
    warm::{DAEMON, DIRECT},
};
use crate::{
    client::{Window, closed},
    clock,
    error::BenchError,
    host::{Usage, own_cpu_ns, with_descendants},
    options::Experiment,
    registry::DerivedRegistry,
    sample::Sample,
    stats::{generator, quantile, sorted},
};

/// Share of a window before it in which the connections warm up.
const WARMUP: f64 = 0.35;
/// Requests that the instance may have at once, and requests that may wait.
const SLOTS: u32 = 1024;
const QUEUE: i64 = 10_000;
/// The quantities: answers, their latencies, and processors of client, daemon and instance.
pub const RATE: &str = "answers-per-s";
pub const LATENCIES: [(&str, f64); 2] = [("latency-p50-ms", 0.5), ("latency-p99-ms", 0.99)];
pub const PROCESSORS: [&str; 3] = ["client-cpus", "daemon-cpus", "instance-cpus"];

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    Ok((session.enrol(Experiment::Throughput, registries, enrolment(SLOTS), |_| true)?, &[]))
}

/// Returns how functions take part in loops of many connections, with an instance that may have so many requests at once.
pub fn enrolment(slots: u32) -> Enrolment {
    let mut enrolment = Enrolment::single_instance("");
    enrolment.keys.push(("concurrent-requests", Some(toml::Value::Integer(slots.into()))));
    enrolment.keys.push(("queue", Some(toml::Value::Integer(QUEUE))));
    // Servers with a thread for each connection.
    enrolment.pids = Some(4096);
    enrolment
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let samples = match turn.start().await {
        Ok(()) => measure(turn).await?,
        Err(failed) => vec![failed],
    };
    turn.end().await?;
    Ok(samples)
}

async fn measure(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let path = &turn.contestant.path;
    let mut ways = vec![(DAEMON, turn.target(path))];
    ways.extend(turn.daemon().is_own().then(|| (DIRECT, path.clone())));
    let connections = &turn.session.plan.connections;
    let mut cases: Vec<_> = ways.iter().flat_map(|way| connections.iter().map(move |count| (way, *count))).collect();
    let purpose = format!("connections of {} {}", turn.contestant.function, turn.round);
    cases.shuffle(&mut generator(turn.session.plan.seed, &purpose));
    let mut samples = Vec::new();
    for ((way, target), connections) in cases {
        turn.session.interrupt.check()?;
        let mut address = Ok(turn.daemon().front);
        if *way == DIRECT {
            // The daemon ends an instance that refuses connections. A request makes sure that there is another one.
            let started = turn.start().await;
            address = match (started, turn.direct().await) {
                (Ok(()), Some(direct)) => direct,
                (Err(failed), _) => Err(failed.error.unwrap_or_default()),
                (Ok(()), None) => continue,
            };
        }
        let model = Sample { variant: (*way).to_owned(), n: connections, ..turn.sample() };
        match address {
            Ok(address) => samples.extend(window(turn, &model, address, target).await?),
            Err(error) => samples.push(Sample { error: Some(error), ..model }),
        }
    }
    Ok(samples)
}

/// Measures one number of connections.
async fn window(turn: &Turn<'_>, model: &Sample, server: SocketAddr, target: &str) -> Result<Vec<Sample>, BenchError> {
    let seconds = turn.session.plan.windows.0;
    let (now, length) = (clock::now(), (seconds * 1e9) as u64);
    let begin = now + (seconds * WARMUP * 1e9) as u64;
    let end = begin + length;
    let used = processors(turn, begin, end);
    let (window, used) = tokio::join!(closed(server, target, model.n, (begin, end)), used);
    let Window { latencies, failures, .. } = &window;
    let requests = latencies.len() as u64 + failures.count();
    let mut samples = model.of_loop(RATE, window.rate(), requests, failures);
    let sorted = sorted(latencies.clone());
    let latency = |(name, q): (&str, f64)| quantile(&sorted, q).map(|value| model.quantity(name, value));
    let used = PROCESSORS.into_iter().zip(used?).map(|(name, value)| model.quantity(name, value));
    samples.extend(LATENCIES.into_iter().filter_map(latency).chain(used));
    Ok(samples)
}

/// Returns how many processors the client, the daemon and the instances use in a window. Those of containers are not below
/// the daemon.
async fn processors(turn: &Turn<'_>, begin: u64, end: u64) -> Result<Vec<f64>, BenchError> {
    let Some(daemon) = turn.daemon().pid() else { return Ok(Vec::new()) };
    let instances: Vec<u32> = pids(turn).await?;
    let (inside, mut outside) = (with_descendants(&instances), with_descendants(&[daemon]));
    outside = &outside - &inside;
    let look = || (own_cpu_ns(), Usage::of(&outside).cpu_ns, Usage::of(&inside).cpu_ns, clock::now());
    sleep(Duration::from_nanos(begin.saturating_sub(clock::now()))).await;
    let before = look();
    sleep(Duration::from_nanos(end.saturating_sub(clock::now()))).await;
    let after = look();
    let wall = after.3.saturating_sub(before.3).max(1) as f64;
    let share = |before: u64, after: u64| after.saturating_sub(before) as f64 / wall;
    Ok(vec![share(before.0, after.0), share(before.1, after.1), share(before.2, after.2)])
}

/// Returns the first process of each instance.
pub async fn pids(turn: &Turn<'_>) -> Result<Vec<u32>, BenchError> {
    let instances = turn.daemon().instances(&turn.contestant.registered).await?;
    let pids: BTreeSet<u32> =
        instances.iter().filter_map(|instance| instance["pid"].as_u64()?.try_into().ok()).collect();
    Ok(pids.into_iter().collect())
}
