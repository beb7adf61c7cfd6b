//! Everything goes wrong at once, while clients ask: instances are killed, callbacks lost, doubled and forged, the container
//! engine stopped, hung and restarted, the disk filled, taps removed, the clock shifted, files of the registry broken.
//!
//! Only a request that was in flight on a killed instance may fail, and only with what is true: `ledger.rs` knows what was
//! done and which answers that excuses, `faults.rs` does it, `stage.rs` is the daemon with its functions. Afterwards it
//! holds what it held before.
//!
//! `integration/chaos` goes on for minutes (`UNIFAAS_CHAOS`, in seconds), otherwise it is a short while. The seed is printed;
//! `UNIFAAS_SEED` replays the faults, not the timing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and this one talks"
)]

mod faults;
mod ledger;
mod stage;

use std::{env, sync::Mutex, time::Duration};

use integration::{Engine, Load, number as number_of, tally, vm};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use faults::Faults;
use ledger::Ledger;
use stage::{Stage, WORKLOADS};

const TESTFN: &str = env!("CARGO_BIN_EXE_testfn");
/// Seconds without `UNIFAAS_CHAOS`.
const SHORT: u64 = 20;
/// Until whatever is made once has been made.
const WARM_UP: Duration = Duration::from_secs(3);

async fn chaos(engine: Engine, duration: Duration, seed: u64) {
    let stage = Stage::set(engine).await;
    let load = Load::on(stage.daemon.listen, &WORKLOADS);
    sleep(WARM_UP).await;
    let before_anything = load.stop().await;
    let before = stage.calm(None).await;

    let ledger = Mutex::new(Ledger::default());
    let load = Load::on(stage.daemon.listen, &WORKLOADS);
    let faults = Faults { stage: &stage, ledger: &ledger, until: Instant::now() + duration };
    futures::join!(faults.small(StdRng::seed_from_u64(seed)), faults.large(StdRng::seed_from_u64(!seed)));
    let answers = load.stop().await;
    let over = Instant::now();
    let ledger = ledger.into_inner().unwrap();

    for (fault, count) in &ledger.faults {
        println!("{count:6} {fault}");
    }
    let debug = stage.daemon.debug().await;
    let of = |function: &str, member: &str| number_of(&debug["functions"][function], member);
    println!("{:6} callbacks lost", of(stage::LOST, "instances_started"));
    println!("{:6} callbacks doubled, each a second and a third time", of("doubled", "instances_started"));
    println!("{:6} callbacks refused in all", number_of(&debug["daemon"], "callbacks_refused"));
    for ((function, label), count) in tally(&answers) {
        println!("{count:6} {function}: {label}");
    }
    let strange: Vec<_> = before_anything.iter().chain(&answers).filter(|answer| !ledger.excuses(answer)).collect();
    println!("{} requests, {} answers without excuse, seed {seed}", answers.len(), strange.len());
    for answer in strange.iter().take(20) {
        println!("without excuse: {answer:?}");
    }
    println!("before:     {before:?}");
    println!("afterwards: {:?}", stage.held().await);
    let after = stage.calm(Some(&before)).await;
    println!("calm after {:.1?}: {after:?}", over.elapsed());
    assert!(strange.is_empty(), "{} answers without excuse, seed {seed}", strange.len());
    let most = before.daemon.memory + before.daemon.memory / 10 + 2048;
    assert!(after.daemon.memory <= most, "memory grew from {} to {} KiB", before.daemon.memory, after.daemon.memory);
    for workload in WORKLOADS.iter().filter(|workload| workload.function() != stage::LOST) {
        stage.daemon.get(workload.path).await;
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn only_what_was_in_flight_on_a_killed_instance_fails_and_nothing_is_left() {
    if let Some(missing) = vm::obstacle() {
        return vm::skip(&missing);
    }
    let duration = Duration::from_secs(number("UNIFAAS_CHAOS").unwrap_or(SHORT));
    let seed = number("UNIFAAS_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    // On a thread of its own, as it enters another network.
    let run = move || {
        let Some(engine) = Engine::private(TESTFN) else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(chaos(engine, duration, seed));
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
