//! Warm requests: the cost of the path to a ready instance, beside nginx, HAProxy and no proxy.
//!
//! All contestants reach the same process, an instance that UniFaaS has started. wrk loads them in turn. HTTP/2 is in
//! `http2.rs`.

use integration::{Daemon, Function, Home, Setup};

use crate::{
    child::WITH_PARENT,
    figures::Figure,
    http2,
    machine::is_installed,
    options::{Options, SectionName},
    progress, public_directory,
    report::{Section, Table},
    rivals::{Protocol, haproxy, nginx},
    stats::{added, median, ratio, spread},
    wrk::{self, Load, Outcome},
};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Connections for long bodies: enough to keep every contestant busy.
const TRANSFERS: usize = 16;
const ROUNDS: usize = 5;

const DIRECT: &str = "direct";
pub const NGINX: &str = "nginx";
pub const HAPROXY: &str = "HAProxy";
pub const UNIFAAS: &str = "UniFaaS";
pub const BASELINE: &str = "UniFaaS, baseline";

/// A path to the function.
struct Contestant {
    name: &'static str,
    /// URL of the function's `/`, without the slash.
    url: String,
    outcomes: Vec<Outcome>,
}

/// Runs the section.
pub async fn run(options: &Options) -> Section {
    let mut section = Section::new(SectionName::Warm.word());
    if !is_installed("wrk") {
        section.miss("everything", "wrk is not installed");
        return section;
    }
    let directory = public_directory();
    let (daemon, home) = daemon(|setup| setup).await;
    let upstream = daemon.instances("lean").await[0]["address"].as_str().unwrap().parse().unwrap();
    let mut contestants = vec![Contestant::new(DIRECT, format!("http://{upstream}"))];
    let nginx = nginx(&directory, Protocol::Http1, &[("/".to_owned(), upstream)]);
    let haproxy = haproxy(&directory, Protocol::Http1, upstream);
    for (name, proxy) in [(NGINX, &nginx), (HAPROXY, &haproxy)] {
        match proxy {
            Ok(proxy) => contestants.push(Contestant::new(name, format!("http://{}", proxy.address))),
            Err(why) => section.miss(name, why),
        }
    }
    contestants.push(Contestant::new(UNIFAAS, format!("http://{}/invoke/lean", daemon.listen)));
    let baseline = match &options.baseline {
        Some(binary) => Some(self::daemon(|setup| setup.binary(binary)).await),
        None => None,
    };
    if let Some((daemon, _)) = &baseline {
        contestants.push(Contestant::new(BASELINE, format!("http://{}/invoke/lean", daemon.listen)));
    }

    for connections in CONNECTIONS {
        let load = Load { connections, seconds: options.seconds(), script: None };
        rounds(&mut contestants, &load, "/", options);
        small(&mut section, &contestants, connections);
    }
    let script = wrk::script(&directory, "post.lua", wrk::POST_MIB);
    for (what, path, script, figure) in
        [("answers", "/mib", None, Figure::Answers), ("POSTs", "/", Some(script), Figure::Posts)]
    {
        let load = Load { connections: TRANSFERS, seconds: options.seconds(), script };
        rounds(&mut contestants, &load, path, options);
        large(&mut section, &contestants, what, figure);
    }
    let other = baseline.as_ref().map(|(daemon, _)| daemon.listen);
    http2::run(&mut section, upstream, daemon.listen, other, options);
    drop((daemon, home, baseline));
    section
}

/// Starts a daemon with one ready instance.
async fn daemon(how: impl FnOnce(Setup) -> Setup) -> (Daemon, std::sync::Arc<Home>) {
    let home = Home::new();
    let function = Function::new("lean").program("lean").set("concurrent-requests", 1000).set("keepalive", 3600);
    let daemon = how(Setup::at(&home).run_by(WITH_PARENT).function(function.process("memory", 512))).start().await;
    daemon.get("/invoke/lean/").await.ok();
    (daemon, home)
}

/// Loads all contestants in turn. The first round is not counted.
fn rounds(contestants: &mut [Contestant], load: &Load, path: &str, options: &Options) {
    let rounds = options.rounds(ROUNDS);
    for contestant in contestants.iter_mut() {
        contestant.outcomes.clear();
        wrk::run(&Load { seconds: 1, ..load.clone() }, &(contestant.url.clone() + path));
    }
    for round in 1..=rounds {
        progress(&format!("warm: {path} with {} connections, round {round} of {rounds}", load.connections));
        for contestant in contestants.iter_mut() {
            let outcome = wrk::run(load, &(contestant.url.clone() + path));
            contestant.outcomes.push(outcome);
        }
        // Rotated, so that each contestant follows every other.
        contestants.rotate_left(1);
    }
    contestants.rotate_right(rounds % contestants.len());
}

impl Contestant {
    fn new(name: &'static str, url: String) -> Self {
        Self { name, url, outcomes: Vec::new() }
    }

    fn samples(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }

    fn median(&self, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
        median(&self.samples(of))
    }
}

/// Returns a contestant's median, if it takes part.
fn of(contestants: &[Contestant], name: &str, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
    contestants.iter().find(|contestant| contestant.name == name)?.median(of)
}

fn small(section: &mut Section, contestants: &[Contestant], connections: usize) {
    let title = format!(
        "12-byte answers, keep-alive, {connections} connection(s): medians of {}",
        contestants[0].outcomes.len()
    );
    let columns = [
        ("requests/s", 0),
        ("spread %", 0),
        ("to nginx", 2),
        ("to HAProxy", 2),
        ("p50 µs", 0),
        ("p99 µs", 0),
        ("added p50 µs", 0),
        ("to nginx's", 2),
    ];
    let (rate, p50) = (|outcome: &Outcome| outcome.rate, |outcome: &Outcome| outcome.p50);
    let of_rate = |name| of(contestants, name, rate);
    let direct = of(contestants, DIRECT, p50);
    let extra = |name| added(of(contestants, name, p50), direct);
    let mut table = Table::new(title, "contestant", &columns);
    for contestant in contestants {
        let (name, here) = (contestant.name, of_rate(contestant.name));
        let more = extra(name).filter(|_| name != DIRECT);
        let values = [
            here,
            spread(&contestant.samples(rate)),
            ratio(here, of_rate(NGINX)),
            ratio(here, of_rate(HAPROXY)),
            of(contestants, name, p50),
            contestant.median(|outcome| outcome.p99),
            more,
            ratio(more, extra(NGINX)),
        ];
        table.row(name, &values);
    }
    section.tables.push(table);
    if connections == 64 {
        section.figure(Figure::RateAgainstNginx, ratio(of_rate(UNIFAAS), of_rate(NGINX)));
        section.figure(Figure::RateAgainstHaproxy, ratio(of_rate(UNIFAAS), of_rate(HAPROXY)));
    }
    if connections == 1 {
        section.figure(Figure::AddedLatency, ratio(extra(UNIFAAS), extra(NGINX)));
    }
}

fn large(section: &mut Section, contestants: &[Contestant], what: &str, figure: Figure) {
    let title = format!("1 MiB {what}, {TRANSFERS} connections: medians of {}", contestants[0].outcomes.len());
    // Bodies of 1,000,000 bytes.
    let megabytes = |outcome: &Outcome| outcome.rate * f64::from(1 << 20) / 1e6;
    let of = |name| of(contestants, name, megabytes);
    let columns = [("MB/s", 0), ("spread %", 0), ("to nginx", 2), ("to HAProxy", 2)];
    let mut table = Table::new(title, "contestant", &columns);
    for contestant in contestants {
        let here = of(contestant.name);
        let spread = spread(&contestant.samples(megabytes));
        table.row(contestant.name, &[here, spread, ratio(here, of(NGINX)), ratio(here, of(HAPROXY))]);
    }
    section.tables.push(table);
    section.figure(figure, ratio(of(UNIFAAS), of(NGINX)));
}
