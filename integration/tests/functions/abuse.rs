//! Misbehaving processes: limits hold, other functions are not affected, and nothing is left.
//!
//! Containers are in `containers/abuse.rs`, virtual machines in `vm/abuse.rs`, odd but harmless responses in `http/upstream.rs`.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use integration::{
    Daemon, Function, Pieces, SOON, Setup,
    abuse::{check_cause, check_malformed_responses, close_listener, without_side_effects},
    cgroups_are_usable, empty, eventually, ms, number, processes, request, within,
};
use serde_json::json;
use tokio::time::Instant;

/// Starts a daemon with `bad`, and with `good`, which a client uses meanwhile.
async fn with(bad: Function) -> Daemon {
    Setup::default().function(bad).function(Function::new("good")).start().await
}

async fn until_no_instance_is_left(daemon: &Daemon) {
    daemon.settled("bad", "no instance", |function| function["instances"] == json!([])).await;
}

/// Returns the cgroup directory of a process in the hierarchy that limits processes.
fn counted_in(pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of = |controllers: &str| text.lines().find_map(|line| line.split_once(controllers)).map(|(_, path)| path);
    let candidates = [
        of(":pids:").map(|path| format!("/sys/fs/cgroup/pids{path}")),
        of("0::").map(|path| format!("/sys/fs/cgroup{path}")),
    ];
    candidates.into_iter().flatten().map(PathBuf::from).find(|directory| directory.join("pids.max").is_file())
}

/// Returns the quota of processor time of a process, in microseconds of each 100 ms.
fn cpu_quota(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of_cpu = |line: &&str| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == "cpu"));
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let v1 = text.lines().find(of_cpu).and_then(path);
    let v2 = text.lines().find_map(|line| line.strip_prefix("0::"));
    let files = [
        v1.map(|path| format!("/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us")),
        v2.map(|path| format!("/sys/fs/cgroup{path}/cpu.max")),
    ];
    let text = files.into_iter().flatten().find_map(|file| fs::read_to_string(file).ok())?;
    text.split_whitespace().next().map(str::to_owned)
}

fn number_in(file: PathBuf) -> u64 {
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().parse().unwrap_or_else(|_| panic!("{}: {text}", file.display()))
}

#[tokio::test]
async fn pids_limit_stops_fork_bomb() {
    if !cgroups_are_usable().await {
        return;
    }
    let daemon = with(Function::new("bad").process("pids-limit", 40).ends_after(2)).await;
    let pid = daemon.get("/invoke/bad/pid").await.ok().pid();
    let Some(group) = counted_in(pid) else { panic!("the limit is not in force, and the bomb would be") };
    assert_eq!(number_in(group.join("pids.max")), 40, "the limit is not in force, and the bomb would be");
    without_side_effects(&daemon, "good", async {
        daemon.get("/invoke/bad/bomb?ms=1500").await.ok();
        let current = async || number_in(group.join("pids.current"));
        eventually(SOON, "it has gone off", current, |count| *count >= 40).await;
        for _ in 0..10 {
            daemon.get("/invoke/bad/pid").await.ok();
            assert!(number_in(group.join("pids.current")) <= 40);
        }
        until_no_instance_is_left(&daemon).await;
        // It may be kept for the next instance.
        assert!(!group.exists() || number_in(group.join("pids.current")) == 0);
        assert_eq!(daemon.home.processes().len(), 1, "only the other function's process is left");
    })
    .await;
}

#[tokio::test]
async fn process_has_configured_limits() {
    if !cgroups_are_usable().await {
        return;
    }
    let daemon = Setup::default()
        .function(Function::new("given").process("pids-limit", 30).process("file-size", 3).process("cpus", 0.5))
        .function(Function::new("usual"))
        .start()
        .await;
    for (function, pids, bytes) in [("given", 30, "3145728"), ("usual", 512, "unlimited")] {
        let pid = daemon.get(&format!("/invoke/{function}/pid")).await.ok().pid();
        assert_eq!(number_in(counted_in(pid).unwrap().join("pids.max")), pids, "{function}");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
        assert_eq!(line.split_whitespace().nth(3), Some(bytes), "{function}");
    }
    let pid = daemon.get("/invoke/given/pid").await.ok().pid();
    // Without a controller for it, the daemon logs that it is not limited.
    let is_unlimited = daemon.log().contains("processor time of instances is not limited");
    assert!(is_unlimited || cpu_quota(pid).as_deref() == Some("50000"), "{:?}", cpu_quota(pid));
}

#[tokio::test]
async fn file_size_limit_ends_process() {
    let daemon = with(Function::new("bad").process("file-size", 2)).await;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let file = directory.path().join("grows");
    without_side_effects(&daemon, "good", async {
        let reply = daemon.get(&format!("/invoke/bad/fill?mib=200&path={}", file.display())).await;
        let problem = reply.problem(502, "instance_failed").to_string();
        assert!(problem.contains("killed by signal 25 (SIGXFSZ)"), "{problem}");
        assert_eq!(fs::metadata(&file).unwrap().len(), 2 << 20);
        daemon.get("/invoke/bad/pid").await.ok();
    })
    .await;
}

#[tokio::test]
async fn endless_output_is_throttled_and_bounded() {
    let daemon = with(Function::new("bad")).await;
    without_side_effects(&daemon, "good", async {
        daemon.get("/invoke/bad/flood?ms=3000").await.ok();
        let started = Instant::now();
        while started.elapsed() < ms(1000) {
            let output = daemon.instances("bad").await[0]["output"].to_string();
            assert!(output.len() < 64 << 10, "{} bytes of output are kept", output.len());
        }
        let printed: u64 = daemon.get("/invoke/bad/flooded").await.ok().text().parse().unwrap();
        assert!((64 << 10..40 << 20).contains(&printed), "{printed} bytes were taken in a second");
        daemon.get("/invoke/bad/exit?code=3").await.problem(502, "instance_failed");
        until_no_instance_is_left(&daemon).await;
    })
    .await;
}

#[tokio::test]
async fn instance_without_listener_is_replaced_without_failed_request() {
    let daemon = with(Function::new("bad")).await;
    without_side_effects(&daemon, "good", async {
        let first = close_listener(&daemon, "bad").await;
        // A kept connection is still served.
        for _ in 0..8 {
            daemon.get("/invoke/bad/pid").await.ok();
        }
        assert_eq!(daemon.counter("bad", "instance_failed").await, 0);
        processes::gone(first).await;
    })
    .await;
}

#[tokio::test]
async fn malformed_responses_have_documented_status() {
    let daemon = with(Function::new("bad").set("timeout", 1)).await;
    without_side_effects(&daemon, "good", check_malformed_responses(&daemon, "bad", |_| true)).await;
}

#[tokio::test]
async fn endless_response_frees_slot_at_timeout() {
    let daemon = Setup::default()
        .option("--client-timeout", "1")
        .function(Function::new("bad").set("timeout", 1).set("max-instances", 1))
        .function(Function::new("good"))
        .start()
        .await;
    without_side_effects(&daemon, "good", async {
        for path in ["/endless/body", "/bytes?mib=2000"] {
            let path = format!("/invoke/bad{path}");
            // One client never reads beyond the head.
            let (_connection, _response) = daemon.start(request("GET", &path, empty())).await;
            within(SOON, "the only slot is free", daemon.get("/invoke/bad/pid")).await.ok();
            // One client reads more slowly than the function writes, so the daemon always has data to send.
            let (_slow, response) = daemon.start(request("GET", &path, empty())).await;
            let slowly = async {
                let mut pieces = Pieces::of(response);
                while let Some(Ok(_)) = pieces.next().await {
                    tokio::time::sleep(ms(1)).await;
                }
            };
            within(SOON, "it is broken off", slowly).await;
            within(SOON, "the only slot is free", daemon.get("/invoke/bad/pid")).await.ok();
        }
    })
    .await;
}

#[tokio::test]
async fn exit_after_callback_fails_waiting_requests() {
    let daemon = with(Function::new("bad").flag("--exit-after-callback").flag("7")).await;
    without_side_effects(&daemon, "good", async {
        for _ in 0..3 {
            let reply = within(SOON, "an answer", daemon.get("/invoke/bad/pid")).await;
            // It may have accepted a connection before it ended.
            let (status, code, text) = (reply.status, reply.header("x-unifaas-error"), reply.text());
            assert!(status == 502 && matches!(code.as_deref(), Some("instance_failed" | "boot_failed")), "{text}");
            check_cause(&text, "status 7");
        }
        until_no_instance_is_left(&daemon).await;
        // Each request may have tried two instances.
        assert!(number(&daemon.function("bad").await, "instances_started") <= 6);
    })
    .await;
}

#[tokio::test]
async fn memory_limit_ends_process() {
    if !cgroups_are_usable().await {
        return;
    }
    let daemon = with(Function::new("bad").process("memory", 48)).await;
    without_side_effects(&daemon, "good", async {
        for _ in 0..3 {
            let problem = daemon.get("/invoke/bad/allocate?mib=400").await.problem(502, "instance_failed").to_string();
            assert!(problem.contains("out of memory (limit 48 MiB)"), "{problem}");
        }
        daemon.get("/invoke/bad/pid").await.ok();
    })
    .await;
}
