//! Single-use functions of every kind, and ones that are paused, over a long time: the daemon's resources must not grow.
//!
//! `integration/soak` runs for a quarter of an hour (`UNIFAAS_SOAK`, in seconds); otherwise the test is short. It samples
//! every second and prints the medians of each quarter. The last quarter is compared with the third, when one-time
//! allocations are done.

use std::{env, time::Duration};

use integration::{
    Census, Engine, Function, Load, Workload, contained, ms, tally,
    vm::{self, Kind, Vm},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

const TESTFN: &str = env!("CARGO_BIN_EXE_testfn");
/// Seconds without `UNIFAAS_SOAK`.
const SHORT: u64 = 24;
/// Duration from which growth can be distinguished from noise.
const LONG: u64 = 600;
/// Descriptors and threads that come and go with the number of instances. A leak has one per instance, of which there are
/// thousands.
const SPARE: u64 = 8;
/// Allowed growth from the third to the last quarter.
const GROWTH: f64 = 0.02;
/// The same for a short run, in which buffers and pools still grow.
const GROWTH_AT_FIRST: f64 = 0.25;

const WORKLOADS: [Workload; 10] = [
    workload("/invoke/once/pid", 2, 60),
    workload("/invoke/descendants/pid", 1, 150),
    workload("/invoke/lasting/bytes?mib=1", 2, 50),
    workload("/invoke/boxed-once/pid", 1, 100),
    workload("/invoke/machine-once/", 1, 100),
    workload("/invoke/disk-once/", 1, 200),
    workload("/invoke/pausing/pid", 1, 150),
    workload("/invoke/boxed-pausing/pid", 1, 150),
    workload("/invoke/guarded-pausing/pid", 1, 150),
    workload("/invoke/machine-pausing/", 1, 150),
];

const fn workload(path: &'static str, clients: usize, pause: u64) -> Workload {
    Workload { method: "GET", path, clients, pause: ms(pause) }
}

async fn soak(seconds: u64) {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let setup = vm::prepared(engine.setup());
    let daemon = setup.start().await;
    let image = daemon.home.path("disk.img");
    std::fs::write(&image, vec![7; 4 << 20]).unwrap();
    let image = format!("{image:?}");
    let token = ["--token", daemon.home.token()];
    // Paused between two requests.
    let pausing = "keepalive = 0.05\nkeep-paused = 600";
    let boxed_pausing = |name, runtime: &str| contained(name, &token, pausing, &format!("runtime = {runtime:?}"));
    let functions = [
        Function::new("once").set("single-use", true),
        Function::new("descendants").set("single-use", true).flag("--descendant").flag("own-session"),
        Function::new("lasting").set("concurrent-requests", 4),
        contained("boxed-once", &token, "single-use = true", ""),
        Vm::new("machine-once", Kind::Microvm).set("single-use", true).into(),
        Vm::new("disk-once", Kind::Firecracker).vm("image", &image).set("single-use", true).into(),
        Function::new("pausing").set("keepalive", 0.05).set("keep-paused", 600),
        boxed_pausing("boxed-pausing", "runc"),
        boxed_pausing("guarded-pausing", "runsc"),
        Vm::new("machine-pausing", Kind::Microvm).set("keepalive", 0.05).set("keep-paused", 600).into(),
    ];
    functions.iter().for_each(|function| daemon.home.put(function));
    for workload in WORKLOADS {
        daemon.settled(workload.function(), "it is there", |_| true).await;
    }

    let load = Load::on(daemon.listen, &WORKLOADS);
    let started = Instant::now();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Vec::new();
    while started.elapsed() < Duration::from_secs(seconds) {
        ticks.tick().await;
        samples.push(Census::of(daemon.pid));
    }
    let answers = load.stop().await;
    for ((function, label), count) in tally(&answers) {
        println!("{count:7} {function}: {label}");
    }
    println!("{} requests in {} s", answers.len(), started.elapsed().as_secs());
    let quarter = samples.len() / 4;
    let quarters: Vec<Census> = samples.chunks_exact(quarter).take(4).map(median).collect();
    for (number, census) in quarters.iter().enumerate() {
        println!("median of quarter {}: {census}", number + 1);
    }

    let strange: Vec<_> = answers.iter().filter(|answer| answer.label() != "200 by the function").collect();
    assert!(strange.is_empty(), "{} answers are none of the function, as {:?}", strange.len(), strange[0]);
    let served = |workload: &Workload| answers.iter().any(|answer| answer.function == workload.function());
    assert!(WORKLOADS.iter().all(served), "one function was never asked");
    let limit = if seconds < LONG { GROWTH_AT_FIRST } else { GROWTH };
    is_flat("resident memory", quarters[2].memory, quarters[3].memory, limit);
    is_flat("descriptors", quarters[2].descriptors + SPARE, quarters[3].descriptors, limit);
    is_flat("threads", quarters[2].threads + SPARE, quarters[3].threads, limit);
}

fn median(samples: &[Census]) -> Census {
    let of = |count: fn(&Census) -> u64| {
        let mut counts: Vec<_> = samples.iter().map(count).collect();
        counts.sort_unstable();
        counts[counts.len() / 2]
    };
    Census {
        memory: of(|census| census.memory),
        descriptors: of(|census| census.descriptors),
        threads: of(|census| census.threads),
        children: of(|census| census.children),
    }
}

#[track_caller]
fn is_flat(what: &str, before: u64, after: u64, limit: f64) {
    let growth = after as f64 / before as f64 - 1.0;
    println!("{what}: {:+.2} %", growth * 100.0);
    assert!(growth < limit, "{what} grew from {before} to {after}");
}

#[test]
fn resources_do_not_grow() {
    if let Some(missing) = vm::obstacle() {
        return vm::skip(&missing);
    }
    let seconds =
        env::var("UNIFAAS_SOAK").map_or(SHORT, |text| text.parse().expect("UNIFAAS_SOAK is a number of seconds"));
    // On its own thread, because it enters another network.
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(soak(seconds));
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
