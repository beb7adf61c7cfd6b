//! The limit on open files: raised at start, reported when low, survived when reached.

use std::{fs, process::Command, time::Duration};

use futures::future::join_all;
use integration::{Connection, Daemon, Function, SOON, Setup, empty, ms, refusal, request, within};
use nix::unistd::geteuid;
use tokio::time::timeout;

/// A limit with which no further file can be opened, because the daemon keeps the lowest descriptors.
const NO_MORE: u64 = 4;

/// Returns the soft and hard limits on open files of a process.
fn limits(pid: u32) -> (u64, u64) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process is there");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is listed");
    let mut words = line.split_whitespace().skip(3).map(|word| word.parse().expect("a number"));
    words.next().zip(words.next()).expect("two of them")
}

fn soft_limit(pid: u32) -> u64 {
    limits(pid).0
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}

/// Returns the number of the next descriptor.
fn next_file(pid: u32) -> u64 {
    let open: Vec<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process is there")
        .filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    (0..).find(|number| !open.contains(number)).expect("a number")
}

/// Returns whether this process, and so the daemon, may exceed a hard limit. Not every root may.
fn may_raise() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").expect("our own status");
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it is listed");
    u64::from_str_radix(mask.trim(), 16).expect("a mask") & (1 << CAP_SYS_RESOURCE) != 0
}

/// Sets the soft limit of a running process.
fn set_limit(pid: u32, limit: u64) {
    let pid = format!("--pid={pid}");
    let done = Command::new("prlimit").arg(pid).arg(format!("--nofile={limit}:")).status();
    assert!(done.is_ok_and(|status| status.success()), "prlimit");
}

/// Returns the processor time of a process.
fn used(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..=12].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    ms(ticks * 10)
}

#[tokio::test]
async fn daemon_raises_its_limit_but_not_that_of_functions() {
    let daemon = Daemon::with(Function::new("f")).await;
    let (soft, hard) = limits(std::process::id());
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let raised = if may_raise() { hard.max(65_536) } else { hard };
    assert_eq!(limits(daemon.pid), (raised, raised));
    assert_eq!(limits(pid), (soft, hard));
    assert_eq!(daemon.log().contains("few files"), raised < 8_192, "{}", daemon.log());
}

/// Returns a command that starts the daemon with a limit of `most` open files.
fn limited(setup: &Setup, most: u32) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={most}:{most}"));
    if geteuid().is_root() {
        command.args(["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]);
    }
    let plain = setup.command();
    let plain = plain.as_std();
    command.arg(plain.get_program()).args(plain.get_args());
    command
}

#[tokio::test]
async fn refuses_too_low_limit() {
    for most in [20, 40, 60] {
        // With a function, because a registry without one is a warning.
        let setup = Setup::default().function(Function::new("f"));
        let refused = refusal(limited(&setup, most).into()).await;
        assert!(refused.contains(&format!("only {most} files")) && refused.contains("LimitNOFILE"), "{refused}");
    }
}

#[tokio::test]
async fn warns_about_low_limit() {
    let setup = Setup::default();
    let command = limited(&setup, 512);
    let daemon = setup.start_as(command.into()).await;
    assert_eq!(soft_limit(daemon.pid), 512);
    let log = daemon.logged("few files may be open").await;
    assert!(log.contains(r#""requests_at_once":256"#), "{log}");
}

#[tokio::test]
async fn start_without_files_is_503() {
    let daemon = Setup::default().function(Function::new("warm")).function(Function::new("cold")).start().await;
    let limit = soft_limit(daemon.pid);
    let mut connection = daemon.connect().await;
    let mut get = async |path: &str| connection.send(request("GET", path, empty())).await.expect("an answer");
    let warm = get("/invoke/warm/pid").await.ok().pid();
    set_limit(daemon.pid, NO_MORE);
    get("/invoke/cold/pid").await.problem(503, "host_saturated");
    let before = open_files(daemon.pid);
    // From none to half of what a start needs: everything opened must be closed again.
    for room in 0..4 {
        set_limit(daemon.pid, next_file(daemon.pid) + room);
        let reply = get("/invoke/cold/pid").await;
        let problem = reply.problem(503, "host_saturated");
        assert!(problem["detail"].as_str().unwrap().contains("files"), "{problem}");
        assert!(reply.retry_after() >= 1);
    }
    assert_eq!(get("/invoke/warm/pid").await.ok().pid(), warm, "running instances continue");
    assert_eq!(daemon.home.processes().len(), 1);
    assert!(open_files(daemon.pid) <= before, "files are left open");
    set_limit(daemon.pid, limit);
    get("/invoke/cold/pid").await.ok();
    assert_eq!(daemon.function("cold").await["state"], "serving");
}

#[tokio::test]
async fn unacceptable_connections_wait_without_busy_loop() {
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
    for reply in within(SOON, "all connections are accepted after all", clients).await {
        reply.unwrap().ok();
    }
}

#[tokio::test]
async fn instance_survives_connection_failure_for_lack_of_files() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 4)).await;
    let limit = soft_limit(daemon.pid);
    let mut first = daemon.connect().await;
    let mut second = daemon.connect().await;
    let pid = first.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok().pid();
    let busy = first.send(request("GET", "/invoke/f/sleep?ms=1500", empty()));
    let refused = async {
        daemon.until("f", "busy", 1).await;
        // The only connection to the instance is in use, so a second one is needed.
        set_limit(daemon.pid, NO_MORE);
        second.send(request("GET", "/invoke/f/pid", empty())).await.unwrap()
    };
    let (busy, refused) = futures::join!(busy, refused);
    refused.problem(503, "host_saturated");
    busy.unwrap().ok();
    set_limit(daemon.pid, limit);
    assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid, "the instance must survive");
}
