//! One or a thousand living instances: their memory in the daemon, and the cost of warm requests beside them. nginx in front
//! of the same processes shows the machine's share of it.

use std::{net::SocketAddr, path::PathBuf};

use futures::{StreamExt, stream};
use integration::{Daemon, Setup};
use tokio::time::sleep;

use super::{SETTLE_TIME, registry, resident_mib};
use crate::{
    child::WITH_PARENT,
    figures::Figure,
    options::Options,
    progress, public_directory,
    report::{Section, Table},
    rivals::{Protocol, nginx},
    stats::{median, ratio, spread},
    wrk::{self, Load, Outcome},
};

const ROUNDS: usize = 7;
/// Instances that are started and inspected concurrently.
const PARALLEL: usize = 8;
/// Connections for latencies, without queueing.
const ONE: usize = 1;
/// Connections for rates.
const SOME: usize = 16;

/// A target under a load.
struct Case {
    name: String,
    url: String,
    load: Load,
    /// Index of the case that its rate is compared with.
    beside: usize,
    outcomes: Vec<Outcome>,
}

impl Case {
    fn new(name: String, url: String, connections: usize, options: &Options) -> Self {
        let load = Load { connections, seconds: options.seconds(), script: None };
        Self { name, url, load, beside: 0, outcomes: Vec::new() }
    }

    fn median(&self, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
        median(&self.samples(of))
    }

    fn samples(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }
}

/// Runs this part of the section.
pub async fn run(section: &mut Section, options: &Options) {
    let count = options.instances as usize;
    // Side by side: a daemon with one instance, and one with many functions of one instance each.
    let (home_of_one, home_of_many) = (registry(1), registry(count));
    let few = "UniFaaS, 1 instance alive";
    let many = &format!("UniFaaS, {count} instances alive");
    let asked =
        |name: String, daemon: &Daemon| Case::new(name, format!("http://{}/invoke/f0/", daemon.listen), ONE, options);

    let alone = Setup::at(&home_of_one).run_by(WITH_PARENT).start().await;
    start_all(&alone, 1).await;
    let mut before = [asked(format!("{few}, no others on the machine"), &alone)];
    alternate(&mut before, "latency without many instances", options);

    let busy = Setup::at(&home_of_many).run_by(WITH_PARENT).start().await;
    sleep(SETTLE_TIME).await;
    let without = resident_mib(busy.pid);
    progress(&format!("scale: starting {count} instances"));
    start_all(&busy, count).await;
    sleep(SETTLE_TIME).await;
    memory(section, count, without, resident_mib(busy.pid));

    let mut cases = [asked(few.to_owned(), &alone), asked(many.clone(), &busy)];
    alternate(&mut cases, "latency among many instances", options);
    latency(section, &before[0], &cases);

    let directory = public_directory();
    let nginx = nginx(&directory, Protocol::Http1, &routes(&busy, count).await);
    // A script slows wrk down, so every case has one.
    let first = wrk::script(&directory, "first.lua", &wrk::in_turn(1));
    let all = wrk::script(&directory, "all.lua", &wrk::in_turn(count));
    let mut cases = Vec::new();
    let mut add = |name: String, server: SocketAddr, script: &PathBuf, beside| {
        let case = Case::new(name, format!("http://{server}/"), SOME, options);
        cases.push(Case { load: Load { script: Some(script.clone()), ..case.load }, beside, ..case });
    };
    add(format!("{few}, one function"), alone.listen, &first, 0);
    add(format!("{many}, one function"), busy.listen, &first, 1);
    add(format!("{many}, {count} functions in turn"), busy.listen, &all, 1);
    match &nginx {
        Ok(nginx) => {
            add("nginx, one function".to_owned(), nginx.address, &first, 3);
            add(format!("nginx, {count} functions in turn"), nginx.address, &all, 3);
        }
        Err(why) => section.miss("nginx in front of the same instances", why),
    }
    alternate(&mut cases, "rates among many instances", options);
    rates(section, &cases);
}

fn memory(section: &mut Section, count: usize, before: f64, after: f64) {
    let title = format!("Memory of the daemon with {count} idle instances");
    let mut table = Table::new(title, "instances", &[("before MiB", 1), ("after MiB", 1), ("each KiB", 1)]);
    let each = (after - before) * 1024.0 / count as f64;
    table.row(count.to_string(), &[Some(before), Some(after), Some(each)]);
    section.tables.push(table);
}

/// `before` was measured alone; the two `cases` in turn.
fn latency(section: &mut Section, before: &Case, cases: &[Case; 2]) {
    let columns = [("p50 µs", 0), ("p99 µs", 0), ("spread %", 0), ("p99 to 1 beside", 2)];
    let title = format!("A warm request, {ONE} connection: medians of {}", before.outcomes.len());
    let mut table = Table::new(title, "instances", &columns);
    let p99 = |case: &Case| case.median(|outcome| outcome.p99);
    let [one, many] = cases;
    for case in [before, one, many] {
        let spread = spread(&case.samples(|outcome| outcome.p99));
        table.row(&case.name, &[case.median(|outcome| outcome.p50), p99(case), spread, ratio(p99(case), p99(one))]);
    }
    section.figure(Figure::LatencyAmongMany, ratio(p99(many), p99(one)));
    section.tables.push(table);
}

fn rates(section: &mut Section, cases: &[Case]) {
    let columns = [("requests/s", 0), ("spread %", 0), ("to one function", 2), ("p50 µs", 0), ("p99 µs", 0)];
    let title = format!("Warm requests to many instances, {SOME} connections: medians of {}", cases[0].outcomes.len());
    let mut table = Table::new(title, "load", &columns);
    let rate = |outcome: &Outcome| outcome.rate;
    for case in cases {
        let values = [
            case.median(rate),
            spread(&case.samples(rate)),
            ratio(case.median(rate), cases[case.beside].median(rate)),
            case.median(|outcome| outcome.p50),
            case.median(|outcome| outcome.p99),
        ];
        table.row(&case.name, &values);
    }
    section.tables.push(table);
}

/// Loads all cases in turn. The first round is not counted, because connections are not open yet.
fn alternate(cases: &mut [Case], what: &str, options: &Options) {
    let rounds = options.rounds(ROUNDS);
    for round in 0..=rounds {
        progress(&format!("scale: {what}, round {round} of {rounds}"));
        for case in &mut *cases {
            let outcome = wrk::run(&case.load, &case.url);
            if round > 0 {
                case.outcomes.push(outcome);
            }
        }
    }
}

/// Starts one instance of each function.
async fn start_all(daemon: &Daemon, count: usize) {
    let start = async |number| daemon.get(&format!("/invoke/f{number}/")).await.ok();
    let started = stream::iter(0..count).map(start).buffer_unordered(PARALLEL);
    assert_eq!(started.count().await, count);
}

/// Returns the routes of a proxy: path and process address.
async fn routes(daemon: &Daemon, count: usize) -> Vec<(String, SocketAddr)> {
    let route = async |number| {
        let instances = daemon.instances(&format!("f{number}")).await;
        let address = instances[0]["address"].as_str().expect("a process has an address");
        (format!("/invoke/f{number}/"), address.parse().expect("an address"))
    };
    stream::iter(0..count).map(route).buffer_unordered(PARALLEL).collect().await
}
