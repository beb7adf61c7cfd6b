//! SIGHUP while an upgrade is attempted: the daemon that goes on reads its settings again.

use std::{fs, sync::Arc};

use integration::{Daemon, Function, Home, Reply, Setup, Successor, UPGRADE_LIMIT, eventually, processes};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::{begin_upgrade, nothing_is_left};

/// Starts a daemon without a terminal, whose `drain-grace` is 9 s, and an upgrade of it. The new one waits for its
/// `min-instances`. Returns its process id.
async fn upgrading(home: &Arc<Home>) -> (Daemon, u32, JoinHandle<Option<Reply>>) {
    home.put(&Function::new("f").flag("--boot-delay").flag("4000").set("min-instances", 1));
    set(home, "drain-grace = 9\n");
    let setup = Setup::at(home).variable("UNIFAAS_CONFIG", home.path("unifaas.toml"));
    let daemon = setup.run_by(["setsid", "env", "--default-signal=HUP"]).start().await;
    let (new, asked) = begin_upgrade(&daemon).await;
    (daemon, new, asked)
}

fn set(home: &Home, settings: &str) {
    fs::write(home.path("unifaas.toml"), settings).unwrap();
}

async fn has_grace(daemon: &Daemon, pid: u32, seconds: f64) {
    let seen = async || daemon.debug().await["daemon"].take();
    let is_new = |seen: &serde_json::Value| {
        seen["pid"] == pid && seen["settings"]["drain_grace_seconds"].as_f64() == Some(seconds)
    };
    eventually(UPGRADE_LIMIT, format!("daemon {pid} has the new setting"), seen, is_new).await;
}

#[tokio::test]
async fn new_daemon_reads_again_what_was_changed_during_the_upgrade() {
    let home = Home::new();
    let (daemon, new, asked) = upgrading(&home).await;
    // The new one has read the file already.
    set(&home, "drain-grace = 2\n");
    daemon.signal(Signal::SIGHUP);
    asked.await.unwrap().unwrap().ok();
    let new = Successor { pid: new };
    has_grace(&daemon, new.pid, 2.0).await;
    drop(new);
    nothing_is_left(&home).await;
}

#[tokio::test]
async fn old_daemon_reads_its_settings_when_the_upgrade_has_failed() {
    let home = Home::new();
    let (daemon, new, asked) = upgrading(&home).await;
    set(&home, "drain-grace = 2\n");
    daemon.signal(Signal::SIGHUP);
    processes::signal(new, Signal::SIGKILL);
    asked.await.unwrap().unwrap().problem(500, "upgrade_failed");
    has_grace(&daemon, daemon.pid, 2.0).await;
    daemon.get("/invoke/f/pid").await.ok();
}
