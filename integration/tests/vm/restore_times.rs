//! How long restores take, against cold starts: of one instance in a user-mode network, and of many at once on taps.

use std::time::Duration;

use futures::future::join_all;
use integration::{
    Daemon, linux, median,
    vm::{self, isolated, setup, skip},
};
use tokio::time::Instant;

use super::{
    clone_taps,
    snapshots::{self, count_of, counts, made, stop, until_snapshot},
};

/// Starts of each kind that are timed, unless `UNIFAAS_STARTS` says otherwise.
const STARTS: usize = 5;
/// Starts at once that are timed.
const BURST: usize = 20;

/// Returns the time from a request to its answer, by a start that is cold or restored.
async fn start_time(daemon: &Daemon, path: &str, restored: bool) -> Duration {
    if !restored {
        daemon.cli(&["snapshot", "rm", "f"]).await;
    }
    let since = Instant::now();
    daemon.get(path).await.ok();
    let took = since.elapsed();
    until_snapshot(daemon, "ready").await;
    stop(daemon).await;
    took
}

#[test]
fn a_restore_takes_less_time_than_a_boot() {
    isolated(async || {
        let count = count_of("UNIFAAS_STARTS", STARTS);
        let mut guests = snapshots::KINDS
            .map(|kind| (format!("unikernel in {kind:?}"), snapshots::cloned(kind), "/invoke/f/hello"))
            .to_vec();
        match linux::obstacle() {
            None => {
                let guest = linux::linux("f", &[]).vm("network", "\"user\"").vm("snapshot", "true");
                guests.push(("Linux in Qemu".to_owned(), guest, "/invoke/f/pid"));
            }
            Some(missing) => skip(&missing),
        }
        for (name, guest, path) in guests {
            let daemon = vm::daemon(guest).await;
            let mut times = [const { Vec::new() }; 2];
            for _ in 0..count {
                // In turn, so that other load falls on both.
                times[0].push(start_time(&daemon, path, false).await);
                times[1].push(start_time(&daemon, path, true).await);
            }
            let [cold, restored] = times.map(median);
            let ratio = restored.as_secs_f64() / cold.as_secs_f64();
            eprintln!("{name}: cold {cold:?}, restored {restored:?}, ratio {ratio:.2}");
            let [started, restores, failures] = counts(&daemon.function("f").await);
            assert_eq!([started, restores, failures], [2 * count as u64, count as u64, 0]);
            // On an idle machine it is half of it at most. Here other tests run.
            assert!(restored < cold, "{name}: cold {cold:?}, restored {restored:?}");
        }
    });
}

/// Returns how long it takes until so many new instances have answered.
async fn burst(daemon: &Daemon, count: usize) -> Duration {
    let since = Instant::now();
    let answers = join_all((0..count).map(|_| daemon.get("/invoke/f/hello"))).await;
    let took = since.elapsed();
    answers.into_iter().for_each(|answer| drop(answer.ok()));
    stop(daemon).await;
    took
}

#[test]
fn many_restores_at_once_take_less_time_than_boots() {
    isolated(async || {
        for kind in clone_taps::KINDS {
            let setup = setup().option("--tap-pool", BURST.to_string()).option("--memory-budget", "10000");
            let daemon = setup.function(clone_taps::cloned(kind).set("single-use", true).into()).start().await;
            made(&daemon).await;
            burst(&daemon, BURST).await;
            let restored = burst(&daemon, BURST).await;
            daemon.cli(&["snapshot", "rm", "f"]).await;
            let cold = burst(&daemon, BURST).await;
            let [_, restores, failures] = counts(&daemon.function("f").await);
            let ratio = restored.as_secs_f64() / cold.as_secs_f64();
            eprintln!(
                "{kind:?}: {BURST} cold {cold:?}, restored {restored:?}, ratio {ratio:.2}; {restores} restored, {failures} not"
            );
            assert!(restores > 0, "{kind:?}: {restores} {failures}");
        }
    });
}
