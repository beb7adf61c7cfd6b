//! Scale: what thousands of registered functions cost before anybody asks for them, and what thousands of instances cost
//! those who ask for one.

use std::{fs, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use integration::{Daemon, Function, Home, Setup};
use tokio::time::{Instant, sleep};

use crate::{
    ask::first_byte,
    child::WITH_PARENT,
    figures::Figure,
    machine::is_installed,
    options::Options,
    progress, public_directory,
    report::{Section, Table},
    stats::{median, ratio, spread},
    wrk::{self, Load, Outcome},
};

const STARTS: usize = 7;
const ROUNDS: usize = 7;
/// After a start, before the memory is read: what is freed late shall not count.
const REST: Duration = Duration::from_millis(500);
/// Instances that are started at the same time.
const PARALLEL: usize = 8;
/// Of the load: enough that requests meet, and not so many that they only wait for each other.
const CONNECTIONS: usize = 16;
/// The sizes of the figures to reach.
const FEW: usize = 10;
const MANY: usize = 10_000;

/// The section.
pub async fn run(options: &Options) -> Section {
    let mut section = Section::new("scale");
    registered(&mut section, options).await;
    if is_installed("wrk") {
        living(&mut section, options).await;
    } else {
        section.miss("living instances", "wrk is not installed");
    }
    section
}

/// The same daemon with more and more functions, of which none runs.
async fn registered(section: &mut Section, options: &Options) {
    let columns = [("start-up s", 3), ("spread %", 0), ("resident MiB", 1), ("spread %", 0)];
    let title = format!("Registered functions, none running: medians of {} starts", options.rounds(STARTS));
    let mut table = Table::new(title, "functions", &columns);
    let mut homes: Vec<_> =
        options.functions.0.iter().map(|count| (*count, registry(*count), vec![], vec![])).collect();
    for round in 0..=options.rounds(STARTS) {
        progress(&format!("scale: start-up, round {round} of {}", options.rounds(STARTS)));
        for (_, home, times, memory) in &mut homes {
            let began = Instant::now();
            let mut daemon = Setup::at(home).run_by(WITH_PARENT).start().await;
            first_byte(daemon.listen, "/healthz");
            let took = began.elapsed();
            sleep(REST).await;
            // The first finds the files cold.
            if round > 0 {
                times.push(took.as_secs_f64());
                memory.push(resident_mib(daemon.pid));
            }
            daemon.end().await;
        }
    }
    for (count, _, times, memory) in &homes {
        let (time, resident) = (median(times), median(memory));
        table.row(count.to_string(), &[time, spread(times), resident, spread(memory)]);
        if *count == FEW {
            section.figure(Figure::MemoryOf10, resident);
        }
        if *count == MANY {
            section.figure(Figure::MemoryOf10000, resident);
            section.figure(Figure::StartUp, time);
        }
    }
    section.tables.push(table);
}

/// Two daemons side by side: one with a single instance, one with many, each of a function of its own.
async fn living(section: &mut Section, options: &Options) {
    let count = options.instances as usize;
    let (alone, crowd) = (registry(1), registry(count));
    let alone = Setup::at(&alone).run_by(WITH_PARENT).start().await;
    let crowd = Setup::at(&crowd).run_by(WITH_PARENT).start().await;
    sleep(REST).await;
    let before = resident_mib(crowd.pid);
    progress(&format!("scale: starting {count} instances"));
    start_all(&alone, 1).await;
    start_all(&crowd, count).await;
    sleep(REST).await;
    let after = resident_mib(crowd.pid);
    let each = (after - before) * 1024.0 / options.instances as f64;
    let title = format!("Memory of the daemon with {count} idle instances");
    let columns = [("before MiB", 1), ("after MiB", 1), ("each KiB", 1)];
    let mut table = Table::new(title, "instances", &columns);
    table.row(count.to_string(), &[Some(before), Some(after), Some(each)]);
    section.tables.push(table);

    let directory = public_directory();
    // A script costs wrk something, so both of a pair get one.
    let one = wrk::script(&directory, "one.lua", &wrk::in_turn(1));
    let all = wrk::script(&directory, "all.lua", &wrk::in_turn(count));
    let load = |script| Load { connections: CONNECTIONS, seconds: options.seconds(), script: Some(script) };
    let contestants = [
        ("one function, 1 instance alive".to_owned(), &alone, load(one.clone())),
        (format!("one function, {count} instances alive"), &crowd, load(one)),
        (format!("{count} functions in turn, {count} instances alive"), &crowd, load(all)),
    ];
    let rounds = options.rounds(ROUNDS);
    let mut outcomes: [Vec<Outcome>; 3] = Default::default();
    for round in 0..=rounds {
        progress(&format!("scale: living instances, round {round} of {rounds}"));
        for ((_, daemon, load), outcomes) in contestants.iter().zip(&mut outcomes) {
            let outcome = wrk::run(load, &format!("http://{}/", daemon.listen));
            // The first finds no connection to the instances.
            if round > 0 {
                outcomes.push(outcome);
            }
        }
    }
    compared(section, &contestants.map(|(name, ..)| name), &outcomes, rounds);
}

fn compared(section: &mut Section, names: &[String; 3], outcomes: &[Vec<Outcome>; 3], rounds: usize) {
    let samples = |of: usize, what: &dyn Fn(&Outcome) -> f64| outcomes[of].iter().map(what).collect::<Vec<f64>>();
    let columns = [
        ("requests/s", 0),
        ("spread %", 0),
        ("to the first", 2),
        ("p50 µs", 0),
        ("to the first", 2),
        ("p99 µs", 0),
        ("to the first", 2),
    ];
    let title = format!("Warm requests among many instances, {CONNECTIONS} connections: medians of {rounds}");
    let mut table = Table::new(title, "load", &columns);
    for (of, name) in names.iter().enumerate() {
        let mut values = Vec::new();
        for what in
            [&|outcome: &Outcome| outcome.rate as _, &|outcome: &Outcome| outcome.p50, &|outcome: &Outcome| outcome.p99]
                as [&dyn Fn(&Outcome) -> f64; 3]
        {
            let here = median(&samples(of, what));
            values.push(here);
            if values.len() == 1 {
                values.push(spread(&samples(of, what)));
            }
            values.push(ratio(here, median(&samples(0, what))));
        }
        table.row(name, &values);
    }
    let p99 = |of| median(&samples(of, &|outcome| outcome.p99));
    section.figure(Figure::LatencyAmongMany, ratio(p99(1), p99(0)));
    section.tables.push(table);
}

/// A registry of functions `f0`, `f1` and so on.
fn registry(count: usize) -> Arc<Home> {
    let home = Home::new();
    for number in 0..count {
        let function = Function::new(&format!("f{number}")).program("lean").set("concurrent-requests", 1000);
        home.put(&function.set("keepalive", 3600).process("memory", 8));
    }
    home
}

/// Starts one instance of each function.
async fn start_all(daemon: &Daemon, count: usize) {
    let start = async |number| daemon.get(&format!("/invoke/f{number}/")).await.ok();
    let started = stream::iter(0..count).map(start).buffer_unordered(PARALLEL);
    assert_eq!(started.count().await, count);
}

/// What a process has in memory now.
fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is known");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib / 1024.0
}
