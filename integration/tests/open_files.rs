//! The limit on open files: raised, told when it is low, and survived when it is reached.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{fs, process::Command, time::Duration};

use futures::future::join_all;
use integration::{Connection, Daemon, Function, Setup, empty, eventually, ms, request};
use nix::unistd::geteuid;
use tokio::time::timeout;

/// The limits on open files of a process, soft and hard.
fn limits(pid: u32) -> (u64, u64) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process is there");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is listed");
    let mut words = line.split_whitespace().skip(3).map(|word| word.parse().expect("a number"));
    words.next().zip(words.next()).expect("two of them")
}

fn soft_limit(pid: u32) -> u64 {
    limits(pid).0
}

/// Fewer than the daemon holds from its start to its end: it cannot open a single one more.
const NO_MORE: u64 = 8;

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}

/// Changes the soft limit of a running process.
fn set_limit(pid: u32, limit: u64) {
    let pid = format!("--pid={pid}");
    let done = Command::new("prlimit").arg(pid).arg(format!("--nofile={limit}:")).status();
    assert!(done.is_ok_and(|status| status.success()), "prlimit");
}

/// Processor time that a process has used.
fn used(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..=12].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    ms(ticks * 10)
}

#[tokio::test]
async fn the_daemon_may_open_many_files_and_its_functions_as_many_as_ever() {
    let daemon = Daemon::with(Function::new("f")).await;
    let (soft, hard) = limits(std::process::id());
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let raised = limits(daemon.pid);
    // Whoever may raise the hard limit does.
    assert!(raised == (hard, hard) || raised == (65_536, 65_536), "from {soft}, {hard} to {raised:?}");
    assert_eq!(limits(pid), (soft, hard));
    assert_eq!(daemon.log().contains("few files"), raised.0 < 8_192, "{}", daemon.log());
}

#[tokio::test]
async fn a_low_limit_that_cannot_be_raised_is_told() {
    let setup = Setup::default();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=512:512");
    if geteuid().is_root() {
        command.args(["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]);
    }
    let plain = setup.command();
    let plain = plain.as_std();
    command.arg(plain.get_program()).args(plain.get_args());
    let daemon = setup.start_as(command.into()).await;
    assert_eq!(soft_limit(daemon.pid), 512);
    eventually(ms(2000), "the warning", async || daemon.log().contains("few files may be open").then_some(())).await;
    assert!(daemon.log().contains(r#""requests_at_once":256"#), "{}", daemon.log());
}

#[tokio::test]
async fn a_start_without_files_is_a_503_and_leaves_nothing_behind() {
    let daemon = Setup::default().function(Function::new("warm")).function(Function::new("cold")).start().await;
    let limit = soft_limit(daemon.pid);
    let mut connection = daemon.connect().await;
    let mut get = async |path: &str| connection.send(request("GET", path, empty())).await.expect("an answer");
    let warm = get("/invoke/warm/pid").await.ok().pid();
    set_limit(daemon.pid, NO_MORE);
    for _ in 0..10 {
        let reply = get("/invoke/cold/pid").await;
        let problem = reply.problem(503, "host_saturated");
        assert!(problem["detail"].as_str().unwrap().contains("files"), "{problem}");
        assert!(reply.retry_after() >= 1);
    }
    assert_eq!(get("/invoke/warm/pid").await.ok().pid(), warm, "what runs goes on");
    assert_eq!(daemon.home.processes().len(), 1);
    let before = open_files(daemon.pid);
    for _ in 0..10 {
        get("/invoke/cold/pid").await.problem(503, "host_saturated");
    }
    assert!(open_files(daemon.pid) <= before, "files are left open");
    set_limit(daemon.pid, limit);
    get("/invoke/cold/pid").await.ok();
    assert_eq!(daemon.function("cold").await["state"], "serving");
}

#[tokio::test]
async fn connections_that_cannot_be_accepted_wait_and_the_daemon_does_not_spin() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 5)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let limit = soft_limit(daemon.pid);
    set_limit(daemon.pid, NO_MORE);
    let address = daemon.listen;
    let clients = (0..5).map(|_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await.expect("the system takes it");
            connection.send(request("GET", "/invoke/f/pid", empty())).await.expect("an answer")
        })
    });
    let mut clients = Box::pin(join_all(clients.collect::<Vec<_>>()));
    let before = used(daemon.pid);
    assert!(timeout(ms(1500), &mut clients).await.is_err(), "there was no file left to accept with");
    let spent = used(daemon.pid) - before;
    assert!(spent < ms(300), "{spent:?} of processor time in 1.5 s");
    set_limit(daemon.pid, limit);
    for reply in timeout(Duration::from_secs(5), clients).await.expect("they are accepted after all") {
        reply.unwrap().ok();
    }
}

#[tokio::test]
async fn an_instance_that_cannot_be_connected_to_for_want_of_files_is_not_to_blame() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 4)).await;
    let limit = soft_limit(daemon.pid);
    let mut first = daemon.connect().await;
    let mut second = daemon.connect().await;
    let pid = first.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok().pid();
    set_limit(daemon.pid, NO_MORE);
    // The one connection to the instance is in use: a second one would be needed.
    let busy = first.send(request("GET", "/invoke/f/sleep?ms=800", empty()));
    let refused = async {
        let mut get = async |path: &str| second.send(request("GET", path, empty())).await.unwrap();
        eventually(ms(2000), "the first is served", async || {
            (get("/debug/functions/f").await.json()["instances"][0]["state"] == "busy").then_some(())
        })
        .await;
        get("/invoke/f/pid").await
    };
    let (busy, refused) = futures::join!(busy, refused);
    refused.problem(503, "host_saturated");
    busy.unwrap().ok();
    set_limit(daemon.pid, limit);
    assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid, "it was not ended for it");
}
