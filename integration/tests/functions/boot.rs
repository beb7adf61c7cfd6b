//! From the start of an instance to its readiness: shared boots, failing boots, endless boots.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use integration::{AT_ONCE, Daemon, Function, Setup, ms, number};

#[tokio::test]
async fn cold_requests_share_instances() {
    let function = Function::new("f").set("concurrent-requests", 10).flag("--boot-delay").flag("300");
    let daemon = Daemon::with(function).await;
    let replies = join_all((0..100).map(|_| daemon.get("/invoke/f/sleep?ms=50"))).await;
    for reply in replies {
        let text = reply.ok().text();
        let in_flight: u64 = text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number");
        assert!(in_flight <= 10, "{in_flight} requests at once in one instance");
    }
    let function = daemon.function("f").await;
    let started = number(&function, "instances_started");
    assert!((1..=10).contains(&started), "{started} instances were started");
    assert_eq!(number(&function["counters"], "ok"), 100);
    assert_eq!(number(&function["boot_seconds"], "count"), started);
}

#[tokio::test]
async fn max_instances_bounds_living_instances() {
    let function = Function::new("f").set("max-instances", 3).set("single-use", true);
    let daemon = Daemon::with(function).await;
    let load = join_all((0..30).map(|_| daemon.get("/invoke/f/sleep?ms=30")));
    let watch = async {
        let mut most = 0;
        for _ in 0..20 {
            most = most.max(daemon.home.processes().len());
            tokio::time::sleep(ms(10)).await;
        }
        most
    };
    let (replies, most) = futures::join!(load, watch);
    for reply in replies {
        reply.ok();
    }
    assert!((1..=3).contains(&most), "{most} processes at once");
}

#[tokio::test]
async fn exit_while_booting_is_502_with_last_output() {
    let function = Function::new("f").flag("--exit-at-boot").flag("42").flag("--boot-delay").flag("100");
    let function = function.flag("--say").flag("cannot find the configuration").flag("--say").flag("giving up");
    let daemon = Daemon::with(function).await;
    daemon.get("/healthz").await.ok();
    let reply = daemon.get("/invoke/f/").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();

    let problem = reply.problem(502, "boot_failed");
    let said = problem.to_string();
    assert!(said.contains("42"), "no exit status: {said}");
    assert!(said.contains("cannot find the configuration") && said.contains("giving up"), "no last lines: {said}");
    let (_, exited) = said.split_once("exiting at ").expect("the very last line, too");
    let exited: u64 = exited.split(' ').next().and_then(|word| word.parse().ok()).expect("a time");
    let after = now - Duration::from_micros(exited);
    assert!(after < AT_ONCE, "the answer came {after:?} after the exit");
    assert_eq!(problem["function"], "f");
    assert!(problem["instance"].is_string(), "{problem}");
    assert_eq!(daemon.counter("f", "boot_failed").await, 1);
}

#[tokio::test]
async fn failing_boots_fail_all_waiters_without_busy_restarts() {
    let function = Function::new("f").flag("--exit-at-boot").flag("1").flag("--boot-delay").flag("100");
    let daemon = Daemon::with(function.set("min-instances", 1)).await;
    let replies = join_all((0..20).map(|_| daemon.get("/invoke/f/"))).await;
    for reply in replies {
        reply.problem(502, "boot_failed");
    }
    let before = number(&daemon.function("f").await, "instances_started");
    tokio::time::sleep(ms(1500)).await;
    let more = number(&daemon.function("f").await, "instances_started") - before;
    assert!(more <= 8, "{more} instances were started in 1.5 s without a request");
}

#[tokio::test]
async fn missing_callback_is_504_and_ends_process() {
    let function = Function::new("f").flag("--callbacks").flag("0").flag("--say").flag("waiting for Godot");
    let daemon = Daemon::with(function.set("boot-timeout", 0.6)).await;
    let reply = daemon.get("/invoke/f/").await;
    reply.problem(504, "boot_timed_out");
    assert!(reply.took > ms(550) && reply.took < AT_ONCE, "{:?}", reply.took);
    daemon.home.left(0).await;
    assert_eq!(daemon.counter("f", "boot_timed_out").await, 1);
}

#[tokio::test]
async fn start_failure_states_reason() {
    let daemon = Setup::default()
        .function(Function::verbatim("missing", "[process]\ncommand = [\"no-such-program-of-unifaas\"]\n"))
        .function(Function::verbatim("container", "[container]\nimage = \"no-such-image-of-unifaas:none\"\n"))
        .function(Function::new("good"))
        .start()
        .await;
    let problem = daemon.get("/invoke/missing/").await.problem(502, "start_failed");
    assert!(problem["detail"].as_str().unwrap().contains("no-such-program-of-unifaas"), "{problem}");
    daemon.get("/invoke/container/").await.problem(502, "start_failed");
    daemon.get("/invoke/good/pid").await.ok();
    assert_eq!(daemon.function("missing").await["instances"], serde_json::json!([]));
}

#[tokio::test]
async fn function_larger_than_host_is_503() {
    let daemon = Daemon::with(Function::new("f").process("memory", 16 << 20)).await;
    let reply = daemon.get("/invoke/f/").await;
    reply.problem(503, "host_saturated");
    assert_eq!(reply.header("retry-after"), None, "no wait helps");
}

#[tokio::test]
async fn readiness_tcp_needs_no_callback() {
    let function = Function::new("f").set("readiness", "\"tcp\"").flag("--callbacks").flag("0");
    let daemon = Daemon::with(function.flag("--boot-delay").flag("300")).await;
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.took > ms(300) && reply.took < AT_ONCE, "{:?}", reply.took);
}

#[tokio::test]
async fn readiness_http_waits_for_success_status() {
    let ready = Function::new("ready").set("readiness", "{ http = \"/status/200\" }").flag("--callbacks").flag("0");
    let unwell = Function::new("unwell").set("readiness", "{ http = \"/status/503\" }").flag("--callbacks").flag("0");
    let unwell = unwell.set("boot-timeout", 0.7);
    let daemon = Setup::default().function(ready.flag("--boot-delay").flag("200")).function(unwell).start().await;
    daemon.get("/invoke/ready/pid").await.ok();
    daemon.get("/invoke/unwell/pid").await.problem(504, "boot_timed_out");
}

#[tokio::test]
async fn requests_survive_late_listener() {
    let daemon = Daemon::with(Function::new("f").flag("--listen-delay").flag("200")).await;
    let reply = daemon.get("/invoke/f/pid").await;
    if reply.status != 200 {
        reply.problem(502, "instance_failed");
    }
    daemon.answers("/invoke/f/pid", 200).await;
}

#[tokio::test]
async fn large_output_does_not_delay_boot() {
    let mut function = Function::new("f");
    for _ in 0..20 {
        function = function.flag("--say").flag(&"x".repeat(2000));
    }
    let daemon = Daemon::with(function).await;
    daemon.get("/invoke/f/pid").await.ok();
    for n in 0..300 {
        daemon.get(&format!("/invoke/f/say?line={n}-{}", "y".repeat(1000))).await.ok();
    }
    let output = daemon.instances("f").await[0]["output"].clone();
    let bytes = output.to_string().len();
    assert!(output.to_string().contains("299-yyy"), "the newest line is kept");
    assert!(bytes < 256 << 10, "{bytes} bytes of output are kept");
}
