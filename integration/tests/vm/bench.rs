//! `unifaas bench` over virtual machines on taps: nothing of a run is left in the network, however it ended.

use std::{fs, process::Stdio, time::Duration};

use integration::{
    Home, cli, eventually, eventually_blocking, processes,
    vm::{Kind, Vm, isolated, taps, traces},
};
use nix::sys::signal::Signal;

/// A run of a debug build on a busy machine takes minutes.
const TIMEOUT: Duration = Duration::from_secs(300);

#[test]
fn nothing_is_left_of_a_run_that_a_signal_ends() {
    isolated(async || {
        for (signal, status) in [(Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
            let home = Home::new();
            home.put(&Vm::new("f", Kind::Microvm).into());
            let mut command = cli::bare(&["bench", "cold", "--rounds", "100000", "--settle", "0", "--seed", "1"]);
            command.arg("--registry").arg(home.registry()).arg("--out").arg(home.path("results"));
            command.arg("--state-dir").arg(home.path("state")).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let count = async || {
                let text = fs::read_to_string(home.path("results/samples/cold.csv")).unwrap_or_default();
                text.lines().count()
            };
            eventually(TIMEOUT, "samples", count, |lines| *lines > 4).await;
            assert!(!taps().is_empty(), "the machines are on taps");
            processes::signal(child.id(), signal);
            let wait = move || eventually_blocking(TIMEOUT, "the exit", || child.try_wait().unwrap(), Option::is_some);
            let ended = tokio::task::spawn_blocking(wait).await.unwrap();
            assert_eq!(ended.and_then(|ended| ended.code()), status, "{signal}");
            eventually(TIMEOUT, "nothing is left", async || traces(), Vec::is_empty).await;
        }
    });
}
