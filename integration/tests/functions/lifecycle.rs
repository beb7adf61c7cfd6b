//! The life cycle of process instances: keep-alive, single use, kills, descendants.

use futures::future::join_all;
use integration::{
    AT_ONCE, Daemon, Function, Pieces, cgroups_are_usable, empty, ms, number, processes, request, within,
};
use nix::sys::signal::Signal;
use tokio::time::Instant;

#[tokio::test]
async fn single_use_processes_end_after_one_request() {
    let daemon = Daemon::with(Function::new("once").set("single-use", true)).await;
    let mut pids = Vec::new();
    let mut endings = Vec::new();
    for _ in 0..200 {
        let pid = daemon.get("/invoke/once/pid").await.ok().pid();
        pids.push(pid);
        endings.push(tokio::spawn(processes::gone(pid)));
    }
    for ending in join_all(endings).await {
        let took = ending.unwrap();
        assert!(took < AT_ONCE, "a process lived on for {took:?}");
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 200);
    assert_eq!(daemon.counter("once", "ok").await, 200);
    assert!(processes::zombies_of(daemon.pid).is_empty());
}

#[tokio::test]
async fn single_use_instance_completes_its_response() {
    let daemon = Daemon::with(Function::new("once").set("single-use", true).set("keepalive", 0)).await;
    let (_connection, response) = daemon.start(request("GET", "/invoke/once/stream?n=10&ms=100", empty())).await;
    let mut pieces = Pieces::of(response);
    let mut text = Vec::new();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.expect("the whole stream"));
    }
    assert_eq!(String::from_utf8_lossy(&text).lines().count(), 10);
    assert_eq!(daemon.function("once").await["instances_started"], 1);
}

#[tokio::test]
async fn sequential_requests_share_instance() {
    let daemon = Daemon::with(Function::new("f")).await;
    let first = daemon.get("/invoke/f/pid").await.ok().pid();
    for _ in 0..20 {
        assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), first);
    }
    let function = daemon.function("f").await;
    assert_eq!(function["instances_started"], 1);
    assert_eq!(number(&function["instances"][0], "served"), 21);
    assert_eq!(number(&function["instances"][0], "pid"), u64::from(first));
}

#[tokio::test]
async fn idle_instance_ends_after_keepalive() {
    let daemon = Daemon::with(Function::new("f").ends_after(0.7)).await;
    let since = Instant::now();
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let rest = processes::gone(pid).await;
    assert!(since.elapsed() > ms(700) && rest < AT_ONCE, "it lived on for {rest:?}");
    daemon.settled("f", "no instance", |function| function["instances"] == serde_json::json!([])).await;
}

#[tokio::test]
async fn request_restarts_keepalive() {
    let daemon = Daemon::with(Function::new("f").ends_after(1.2)).await;
    let first = daemon.get("/invoke/f/pid").await.ok().pid();
    let mut last = Instant::now();
    for _ in 0..4 {
        last = Instant::now();
        assert_eq!(daemon.get("/invoke/f/sleep?ms=900").await.ok().pid(), first);
    }
    let rest = processes::gone(first).await;
    assert!(last.elapsed() > ms(900 + 1200), "it was gone {rest:?} after its last request");
}

#[tokio::test]
async fn killed_idle_instance_is_replaced_at_once() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let pid = daemon.get("/invoke/f/pid").await.ok().pid();
        // Immediately, before the kernel or the daemon can have noticed.
        assert!(processes::signal(pid, Signal::SIGKILL), "there is no process {pid}");
        let reply = daemon.get("/invoke/f/pid").await.ok();
        assert_ne!(reply.pid(), pid);
        times.push(reply.took);
    }
    times.sort_unstable();
    // A connection attempt is repeated for a second.
    assert!(times[10] < ms(500), "{times:?}");
    assert!(processes::zombies_of(daemon.pid).is_empty());
}

#[tokio::test]
async fn killed_instance_fails_only_its_request() {
    let daemon = Daemon::with(Function::new("f").set("min-instances", 2)).await;
    daemon.until("f", "idle", 2).await;
    let request = || daemon.get("/invoke/f/sleep?ms=2500");
    let kill = async {
        let function = daemon.until("f", "busy", 2).await;
        // Both requests are in progress, so neither is retried.
        tokio::time::sleep(ms(200)).await;
        let victim = u32::try_from(number(&function["instances"][0], "pid")).unwrap();
        processes::signal(victim, Signal::SIGKILL);
    };
    let (first, second, ()) = futures::join!(request(), request(), kill);
    let mut replies = [first, second];
    replies.sort_by_key(|reply| reply.status);
    let [lives, fails] = replies;
    fails.problem(502, "instance_failed");
    assert!(fails.took < lives.ok().took, "it failed only after {:?}", fails.took);
    daemon.until("f", "idle", 2).await;
}

#[tokio::test]
async fn killed_instance_breaks_its_response() {
    let daemon = Daemon::with(Function::new("f")).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let (_connection, response) = daemon.start(request("GET", "/invoke/f/stream?n=200&ms=100", empty())).await;
    assert_eq!(response.status(), 200);
    let mut pieces = Pieces::of(response);
    pieces.next().await.expect("a piece").expect("a good one");
    processes::signal(pid, Signal::SIGKILL);
    let broken = within(AT_ONCE, "the break", async {
        loop {
            match pieces.next().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    assert!(matches!(broken.await, Some(Err(_))), "a truncated response must not look whole");
    daemon.get("/invoke/f/pid").await.ok();
    assert_eq!(daemon.counter("f", "instance_failed").await, 1);
}

#[tokio::test]
async fn exit_while_serving_is_502() {
    let daemon = Daemon::with(Function::new("f")).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    daemon.get("/invoke/f/exit?code=3").await.problem(502, "instance_failed");
    assert_ne!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
}

#[tokio::test]
async fn min_instances_are_kept_ready() {
    let daemon = Daemon::with(Function::new("f").set("min-instances", 2).set("keepalive", 0.2)).await;
    let function = daemon.until("f", "idle", 2).await;
    let pids: Vec<_> = (0..2).map(|n| u32::try_from(number(&function["instances"][n], "pid")).unwrap()).collect();
    tokio::time::sleep(ms(700)).await;
    assert!(pids.iter().all(|pid| processes::exists(*pid)), "keepalive ended instances that are to be kept");
    processes::signal(pids[0], Signal::SIGKILL);
    daemon.settled("f", "three were started", |function| number(function, "instances_started") == 3).await;
    daemon.until("f", "idle", 2).await;
    daemon.get("/invoke/f/pid").await.ok();
    assert_eq!(daemon.function("f").await["instances_started"], 3);
}

#[tokio::test]
async fn single_use_with_min_instances_has_next_instance_ready() {
    let daemon = Daemon::with(Function::new("f").set("min-instances", 1).set("single-use", true)).await;
    let mut pids = Vec::new();
    for _ in 0..5 {
        daemon.until("f", "idle", 1).await;
        pids.push(daemon.get("/invoke/f/pid").await.ok().pid());
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 5);
}

#[tokio::test]
async fn instance_that_ignores_sigterm_is_killed_after_grace() {
    let function = Function::new("f").flag("--ignore-sigterm").ends_after(0.1).set("stop-grace", 0.5);
    let daemon = Daemon::with(function).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let took = processes::gone(pid).await;
    assert!(took > ms(500) && took < AT_ONCE, "{took:?}");
}

/// Invokes an instance with a second process, and checks that both end.
async fn descendant_ends(placement: &str) {
    let function = Function::new("f").flag("--descendant").flag(placement).set("single-use", true);
    let daemon = Daemon::with(function.set("stop-grace", 0.3)).await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon.home.left(0).await;
}

#[tokio::test]
async fn descendants_end_with_instance() {
    descendant_ends("same-group").await;
}

#[tokio::test]
async fn descendants_in_own_session_end_with_cgroup() {
    if cgroups_are_usable().await {
        descendant_ends("own-session").await;
    }
}

#[tokio::test]
async fn instance_has_environment_and_few_rights() {
    let function = Function::new("f").env("GREETING", "good morning, \"you\"");
    let daemon = Daemon::with(function.flag("--say").flag("%ip:%port 100%")).await;
    assert_eq!(daemon.get("/invoke/f/env?name=GREETING").await.ok().text(), "good morning, \"you\"");
    let port: u16 = daemon.get("/invoke/f/env?name=PORT").await.ok().text().parse().expect("a port");
    let instance = &daemon.instances("f").await[0];
    assert_eq!(instance["address"], format!("127.0.0.1:{port}"));
    assert_eq!(instance["output"][0]["text"], format!("127.0.0.1:{port} 100%"));
    let pid = number(instance, "pid");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert_ne!(daemon.get("/invoke/f/uid").await.ok().text(), "0", "root must be configured explicitly");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets: Vec<_> = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
    let daemons = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid)).unwrap();
    let daemons: Vec<_> = daemons.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
    let sockets = |links: &[std::path::PathBuf]| -> Vec<_> {
        links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).cloned().collect()
    };
    for socket in sockets(&targets) {
        assert!(!sockets(&daemons).contains(&socket), "the function holds a socket of the daemon: {targets:?}");
    }
}

#[tokio::test]
async fn process_runs_as_configured_user() {
    // Only root can choose.
    let me = nix::unistd::geteuid();
    let other = if me.is_root() { "4711".to_owned() } else { me.to_string() };
    let daemon = Daemon::with(Function::new("f").process("user", format!("\"{other}\""))).await;
    assert_eq!(daemon.get("/invoke/f/uid").await.ok().text(), other);
}

#[tokio::test]
async fn memory_limit_ends_instance() {
    let daemon = Daemon::with(Function::new("f").process("memory", 64)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let limited = daemon.instances("f").await[0]["resources"].to_string().contains("cgroup");
    let reply = daemon.get("/invoke/f/allocate?mib=256").await;
    if limited {
        reply.problem(502, "instance_failed");
        assert_ne!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
    } else {
        reply.ok();
        // A missing limit.
        daemon.logged("memory").await;
    }
}
