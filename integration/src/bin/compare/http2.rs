//! HTTP/2 in clear, as a part of the section `warm`: one connection with 64 streams to an instance that is ready, through
//! UniFaaS, nginx and HAProxy, which all pass requests on as HTTP/1.1.

use std::net::SocketAddr;

use crate::{
    figures::Figure,
    h2load::{self, Outcome, STREAMS},
    machine::is_installed,
    options::Options,
    progress, public_directory,
    report::{Section, Table},
    rivals::{Protocol, haproxy, nginx},
    stats::{median, ratio, spread},
    warm::{BASELINE, HAPROXY, NGINX, UNIFAAS},
};

const ROUNDS: usize = 5;

struct Contestant {
    name: &'static str,
    url: String,
    outcomes: Vec<Outcome>,
}

impl Contestant {
    fn median(&self, of: impl Fn(&Outcome) -> f64) -> Option<f64> {
        median(&self.samples(of))
    }

    fn samples(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }
}

/// Adds its table to the section. `upstream` is the instance, and `baseline` another build of the daemon, if there is one.
pub fn run(
    section: &mut Section,
    upstream: SocketAddr,
    unifaas: SocketAddr,
    baseline: Option<SocketAddr>,
    options: &Options,
) {
    if !is_installed("h2load") {
        section.miss("HTTP/2", "h2load is not installed");
        return;
    }
    let directory = public_directory();
    let nginx = nginx(&directory, Protocol::Http2, &[("/".to_owned(), upstream)]);
    let haproxy = haproxy(&directory, Protocol::Http2, upstream);
    let mut all = Vec::new();
    for (name, proxy) in [(NGINX, &nginx), (HAPROXY, &haproxy)] {
        match proxy {
            Ok(proxy) => all.push((name, format!("http://{}/", proxy.address))),
            Err(why) => section.miss(&format!("HTTP/2, {name}"), why),
        }
    }
    all.push((UNIFAAS, format!("http://{unifaas}/invoke/lean/")));
    all.extend(baseline.map(|daemon| (BASELINE, format!("http://{daemon}/invoke/lean/"))));

    let mut contestants = Vec::new();
    for (name, url) in all {
        // The first run is not counted. A build without HTTP/2 answers none of it.
        match h2load::run(1, &url) {
            Ok(_) => contestants.push(Contestant { name, url, outcomes: Vec::new() }),
            Err(why) => section.miss(&format!("HTTP/2, {name}"), &why),
        }
    }
    let rounds = options.rounds(ROUNDS);
    for round in 1..=rounds {
        progress(&format!("warm: HTTP/2, {STREAMS} streams, round {round} of {rounds}"));
        for contestant in &mut contestants {
            let outcome = h2load::run(options.seconds(), &contestant.url);
            contestant.outcomes.push(outcome.unwrap_or_else(|why| panic!("{why}")));
        }
    }
    table(section, &contestants, rounds);
}

fn table(section: &mut Section, contestants: &[Contestant], rounds: usize) {
    let rate = |outcome: &Outcome| outcome.rate;
    let of = |name: &str| contestants.iter().find(|contestant| contestant.name == name)?.median(rate);
    let title = format!("12-byte answers, HTTP/2 in clear, 1 connection with {STREAMS} streams: medians of {rounds}");
    let columns = [("requests/s", 0), ("spread %", 0), ("to nginx", 2), ("to HAProxy", 2), ("mean µs", 0)];
    let mut table = Table::new(title, "contestant", &columns);
    for contestant in contestants {
        let here = of(contestant.name);
        let values = [
            here,
            spread(&contestant.samples(rate)),
            ratio(here, of(NGINX)),
            ratio(here, of(HAPROXY)),
            contestant.median(|outcome| outcome.mean),
        ];
        table.row(contestant.name, &values);
    }
    section.tables.push(table);
    section.figure(Figure::Http2, ratio(of(UNIFAAS), of(NGINX)));
}
