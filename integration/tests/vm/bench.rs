//! `unifaas bench` over virtual machines on taps: nothing of a run is left in the network, however it ended.

use integration::{
    Home,
    bench::{TIMEOUT, ended_by, sampling},
    cli, eventually,
    vm::{Kind, Vm, isolated, taps, traces},
};
use nix::sys::signal::Signal;

#[test]
fn nothing_is_left_of_a_run_that_a_signal_ends() {
    isolated(async || {
        for (signal, status) in [(Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
            let home = Home::new();
            home.put(&Vm::new("f", Kind::Microvm).into());
            let mut command = cli::bare(&["bench", "cold", "--rounds", "100000", "--settle", "0", "--seed", "1"]);
            command.arg("--registry").arg(home.registry()).arg("--out").arg(home.path("results"));
            command.arg("--state-dir").arg(home.path("state"));
            let child = sampling(command, &home).await;
            assert!(!taps().is_empty(), "the machines are on taps");
            assert_eq!(ended_by(signal, child).await, status, "{signal}");
            eventually(TIMEOUT, "nothing is left", async || traces(), Vec::is_empty).await;
        }
    });
}
