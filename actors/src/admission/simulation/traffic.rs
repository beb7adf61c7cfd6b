//! Draws functions of every kind, and their requests.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A kind of function: how long it takes to serve from each rung, and what it takes of memory.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub cold: Duration,
    pub resume: Duration,
    /// In MiB.
    pub declared: u64,
    /// In MiB, while it is paused.
    pub footprint: u64,
}

const fn kind(cold_ms: u64, resume_us: u64, declared: u64, footprint: u64) -> Kind {
    let (cold, resume) = (Duration::from_millis(cold_ms), Duration::from_micros(resume_us));
    Kind { cold, resume, declared, footprint }
}

/// A process, containers (runc, runsc), unikernels (QEMU, Firecracker) and a Linux guest.
const KINDS: [Kind; 6] = [
    kind(10, 600, 64, 10),
    kind(265, 700, 128, 16),
    kind(730, 1_400, 128, 50),
    kind(39, 750, 64, 40),
    kind(48, 10_000, 64, 34),
    kind(2_440, 2_100, 160, 150),
];

#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// From the beginning.
    pub at: Duration,
    pub function: usize,
    pub takes: Duration,
}

#[derive(Debug)]
pub struct Traffic {
    pub functions: Vec<Kind>,
    /// In the order of arrival.
    pub requests: Vec<Request>,
    pub span: Duration,
}

impl Traffic {
    pub fn draw(seed: u64, functions: usize, span: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut requests = Vec::new();
        let kinds = (0..functions).map(|function| {
            let mean = logarithmic(&mut random, 10.0, 10_000.0);
            let arrivals = match function % 3 {
                0 => timer(&mut random, mean, span),
                1 => poisson(&mut random, mean, span),
                _ => bursts(&mut random, mean, span),
            };
            let usual = logarithmic(&mut random, 0.01, 1.0);
            for at in arrivals {
                let takes = seconds(exponential(&mut random, usual));
                requests.push(Request { at: seconds(at), function, takes });
            }
            KINDS[(function / 3) % KINDS.len()]
        });
        let functions = kinds.collect();
        requests.sort_by_key(|request| (request.at, request.function));
        Self { functions, requests, span }
    }

    /// Draws functions that are called at regular times, with periods of so many seconds.
    pub fn of_timers(seed: u64, functions: usize, (shortest, longest): (f64, f64), span: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut requests = Vec::new();
        for function in 0..functions {
            let period = logarithmic(&mut random, shortest, longest);
            let arrivals = timer(&mut random, period, span).into_iter();
            requests.extend(arrivals.map(|at| Request { at: seconds(at), function, takes: seconds(0.05) }));
        }
        requests.sort_by_key(|request| (request.at, request.function));
        let functions = (0..functions).map(|function| KINDS[function % KINDS.len()]).collect();
        Self { functions, requests, span }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn logarithmic(random: &mut StdRng, from: f64, to: f64) -> f64 {
    from * (to / from).powf(random.random_range(0.0..1.0))
}

fn exponential(random: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - random.random_range(0.0..1.0_f64)).ln()
}

/// One request each period, a little early or late.
fn timer(random: &mut StdRng, period: f64, span: Duration) -> Vec<f64> {
    let (first, count) = (random.random_range(0.0..period), (span.as_secs_f64() / period) as usize);
    (0..count).map(|number| first + period * (number as f64 + random.random_range(0.0..0.02))).collect()
}

fn poisson(random: &mut StdRng, mean: f64, span: Duration) -> Vec<f64> {
    let (mut arrivals, mut at) = (Vec::new(), exponential(random, mean));
    while at < span.as_secs_f64() {
        arrivals.push(at);
        at += exponential(random, mean);
    }
    arrivals
}

/// Some requests within seconds, and then a long pause: about as many as the other patterns have.
fn bursts(random: &mut StdRng, mean: f64, span: Duration) -> Vec<f64> {
    let (mut arrivals, mut at) = (Vec::new(), exponential(random, mean * 5.0));
    while at < span.as_secs_f64() {
        let within = random.random_range(2.0..20.0);
        for _ in 0..random.random_range(1..10) {
            arrivals.push((at + random.random_range(0.0..within)).min(span.as_secs_f64()));
        }
        at += exponential(random, mean * 5.0);
    }
    arrivals
}
