//! Injects all kinds of faults under load: killed instances, lost, doubled and forged callbacks, a stopped or hanging
//! container engine, killed templates of snapshots, a full disk, removed taps, a shifted clock, broken registry files.
//!
//! A request may fail only if it was in flight on a killed instance, and only with a true error. `ledger.rs` knows the faults
//! and which responses they excuse, `faults.rs` injects them into what `victims.rs` describes, `rig.rs` is the daemon with its functions. At the end, the
//! daemon holds what it held before.
//!
//! `integration/chaos` runs for minutes (`UNIFAAS_CHAOS`, in seconds); otherwise the test is short. It prints its seed;
//! `UNIFAAS_SEED` replays the faults, not their timing.

mod faults;
mod ledger;
mod rig;
mod victims;

use std::{env, sync::Mutex, time::Duration};

use integration::{Engine, Load, Outcome, number as number_of, tally, vm};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use faults::Faults;
use ledger::Ledger;
use rig::{Rig, WORKLOADS};

const TESTFN: &str = env!("CARGO_BIN_EXE_testfn");
/// Seconds without `UNIFAAS_CHAOS`.
const SHORT: u64 = 20;
/// Time for one-time allocations.
const WARM_UP: Duration = Duration::from_secs(3);

async fn chaos(engine: Engine, duration: Duration, seed: u64) {
    let rig = Rig::set(engine).await;
    let load = Load::on(rig.daemon.listen, &WORKLOADS);
    sleep(WARM_UP).await;
    let before_anything = load.stop().await;
    let before = rig.calm(None).await;

    let ledger = Mutex::new(Ledger::default());
    let load = Load::on(rig.daemon.listen, &WORKLOADS);
    let faults = Faults { rig: &rig, ledger: &ledger, until: Instant::now() + duration };
    futures::join!(faults.small(StdRng::seed_from_u64(seed)), faults.large(StdRng::seed_from_u64(!seed)));
    let answers = load.stop().await;
    let over = Instant::now();
    let ledger = ledger.into_inner().unwrap();

    for (fault, count) in &ledger.faults {
        println!("{count:6} {fault}");
    }
    let debug = rig.daemon.debug().await;
    let of = |function: &str, member: &str| number_of(&debug["functions"][function], member);
    println!("{:6} callbacks lost", of(rig::LOST, "instances_started"));
    println!("{:6} callbacks doubled, each a second and a third time", of("doubled", "instances_started"));
    println!("{:6} callbacks refused in all", number_of(&debug["daemon"], "callbacks_refused"));
    let snapshot = &debug["functions"][rig::CLONED]["snapshot"];
    println!("{:6} clones restored, {} not", number_of(snapshot, "restores"), number_of(snapshot, "failures"));
    for ((function, label), count) in tally(&answers) {
        println!("{count:6} {function}: {label}");
    }
    let strange: Vec<_> = before_anything.iter().chain(&answers).filter(|answer| !ledger.excuses(answer)).collect();
    println!("{} requests, {} answers without excuse, seed {seed}", answers.len(), strange.len());
    let log = rig.daemon.log();
    for answer in strange.iter().take(20) {
        println!("without excuse: {answer:?}; {}", ledger.faults_before(answer));
        if let Outcome::Platform { instance: Some(id), .. } = &answer.outcome {
            log.lines().filter(|line| line.contains(id)).for_each(|line| println!("  {line}"));
        }
    }
    println!("before:     {before:?}");
    println!("afterwards: {:?}", rig.held().await);
    let after = rig.calm(Some(&before)).await;
    println!("calm after {:.1?}: {after:?}", over.elapsed());
    assert!(strange.is_empty(), "{} answers without excuse, seed {seed}", strange.len());
    let most = before.daemon.memory + before.daemon.memory / 10 + 2048;
    assert!(after.daemon.memory <= most, "memory grew from {} to {} KiB", before.daemon.memory, after.daemon.memory);
    for workload in WORKLOADS.iter().filter(|workload| workload.function() != rig::LOST) {
        rig.daemon.get(workload.path).await;
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn only_requests_on_killed_instances_fail() {
    if let Some(missing) = vm::obstacle() {
        return vm::skip(&missing);
    }
    let duration = Duration::from_secs(number("UNIFAAS_CHAOS").unwrap_or(SHORT));
    let seed = number("UNIFAAS_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    // On its own thread, because it enters another network.
    let run = move || {
        let Some(engine) = Engine::private(TESTFN) else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(chaos(engine, duration, seed));
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
