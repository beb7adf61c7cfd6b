//! One instance alive, or a thousand: what the daemon keeps for each, and what a warm request has of it that there are so
//! many. nginx in front of the same thousand processes shows what of that is the machine's doing.

use std::{net::SocketAddr, path::PathBuf};

use futures::{StreamExt, stream};
use integration::{Daemon, Setup};
use tokio::time::sleep;

use super::{REST, registry, resident_mib};
use crate::{
    child::WITH_PARENT,
    figures::Figure,
    options::Options,
    progress, public_directory,
    report::{Section, Table},
    rivals::nginx,
    stats::{median, ratio, spread},
    wrk::{self, Load, Outcome},
};

const ROUNDS: usize = 7;
/// Instances that are started, and asked about, at the same time.
const PARALLEL: usize = 8;
/// For latencies: requests that wait for each other would tell of nothing else.
const ONE: usize = 1;
/// For rates.
const SOME: usize = 16;

/// Somebody under a certain load.
struct Case {
    name: String,
    url: String,
    load: Load,
    /// Which of the cases its rate is set beside.
    beside: usize,
    outcomes: Vec<Outcome>,
}

impl Case {
    fn median(&self, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
        median(&self.samples(of))
    }

    fn samples(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }
}

/// Its part of the section.
pub async fn run(section: &mut Section, options: &Options) {
    let count = options.instances as usize;
    // Side by side: one daemon with a single instance, one with many, each of a function of its own.
    let (home_of_one, home_of_many) = (registry(1), registry(count));
    let alone = Setup::at(&home_of_one).run_by(WITH_PARENT).start().await;
    let crowd = Setup::at(&home_of_many).run_by(WITH_PARENT).start().await;
    sleep(REST).await;
    let before = resident_mib(crowd.pid);
    progress(&format!("scale: starting {count} instances"));
    start_all(&alone, 1).await;
    start_all(&crowd, count).await;
    sleep(REST).await;
    memory(section, count, before, resident_mib(crowd.pid));

    let directory = public_directory();
    // A script costs wrk something, so every case of rates gets one.
    let first = wrk::script(&directory, "first.lua", &wrk::in_turn(1));
    let all = wrk::script(&directory, "all.lua", &wrk::in_turn(count));
    let case = |name: String, server: SocketAddr, path: &str, connections, script: Option<&PathBuf>, beside| {
        let load = Load { connections, seconds: options.seconds(), script: script.cloned() };
        Case { name, url: format!("http://{server}{path}"), load, beside, outcomes: Vec::new() }
    };
    let few = "UniFaaS, 1 instance alive";
    let many = &format!("UniFaaS, {count} instances alive");

    let mut cases = [(few, &alone), (many, &crowd)]
        .map(|(name, daemon)| case(name.to_owned(), daemon.listen, "/invoke/f0/", ONE, None, 0));
    alternate(&mut cases, "latency", options);
    latency(section, &cases);

    let one_of =
        |name: &str, server, beside| case(format!("{name}, one function"), server, "/", SOME, Some(&first), beside);
    let in_turn = |name: &str, server, beside| {
        case(format!("{name}, {count} functions in turn"), server, "/", SOME, Some(&all), beside)
    };
    let mut cases = vec![one_of(few, alone.listen, 0), one_of(many, crowd.listen, 1), in_turn(many, crowd.listen, 1)];
    let proxy = nginx(&directory, &routes(&crowd, count).await);
    match &proxy {
        Ok(proxy) => cases.extend([one_of("nginx", proxy.address, 3), in_turn("nginx", proxy.address, 3)]),
        Err(why) => section.miss("nginx in front of the same instances", why),
    }
    alternate(&mut cases, "rates", options);
    rates(section, &cases);
}

fn memory(section: &mut Section, count: usize, before: f64, after: f64) {
    let title = format!("Memory of the daemon with {count} idle instances");
    let mut table = Table::new(title, "instances", &[("before MiB", 1), ("after MiB", 1), ("each KiB", 1)]);
    let each = (after - before) * 1024.0 / count as f64;
    table.row(count.to_string(), &[Some(before), Some(after), Some(each)]);
    section.tables.push(table);
}

fn latency(section: &mut Section, cases: &[Case; 2]) {
    let columns = [("p50 µs", 0), ("p99 µs", 0), ("spread %", 0), ("p99 to the first", 2)];
    let title =
        format!("A warm request among many instances, {ONE} connection: medians of {}", cases[0].outcomes.len());
    let mut table = Table::new(title, "instances", &columns);
    let p99 = |case: &Case| case.median(|outcome| outcome.p99);
    for case in cases {
        let spread = spread(&case.samples(|outcome| outcome.p99));
        table.row(
            &case.name,
            &[case.median(|outcome| outcome.p50), p99(case), spread, ratio(p99(case), p99(&cases[0]))],
        );
    }
    section.figure(Figure::LatencyAmongMany, ratio(p99(&cases[1]), p99(&cases[0])));
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

/// Loads all in turn, the first time without counting it: it finds no connection to the instances.
fn alternate(cases: &mut [Case], what: &str, options: &Options) {
    let rounds = options.rounds(ROUNDS);
    for round in 0..=rounds {
        progress(&format!("scale: {what} among many instances, round {round} of {rounds}"));
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

/// For a proxy: which path leads to which process.
async fn routes(daemon: &Daemon, count: usize) -> Vec<(String, SocketAddr)> {
    let route = async |number| {
        let instances = daemon.instances(&format!("f{number}")).await;
        let address = instances[0]["address"].as_str().expect("a process has an address");
        (format!("/invoke/f{number}/"), address.parse().expect("an address"))
    };
    stream::iter(0..count).map(route).buffer_unordered(PARALLEL).collect().await
}
