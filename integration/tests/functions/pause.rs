//! Idle instances that are paused, by each way that this host has, and resumed by the next request.

use std::time::Duration;

use integration::{
    Daemon, Function, Home, MAX_RESUMPTION, SOON, Setup, answer_times, cgroups_are_usable, eventually, is_charged_less,
    ms, number, pause_under_load, processes,
    vm::{self, KINDS, Vm, isolated, skip, traces},
};
use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long an instance is observed that must use no processor.
const OBSERVED: Duration = Duration::from_millis(300);

fn function(keepalive: f64) -> Function {
    Function::new("f").set("keepalive", keepalive).set("keep-paused", 600)
}

/// Returns the process id of the only instance, once it is paused.
async fn paused(daemon: &Daemon) -> u32 {
    let page = daemon.until("f", "paused", 1).await;
    u32::try_from(number(&page["instances"][0], "pid")).unwrap()
}

async fn uses_no_processor(pid: u32) {
    let before = processes::cpu_time(&[pid]);
    sleep(OBSERVED).await;
    assert_eq!(processes::cpu_time(&[pid]), before, "{}", processes::describe(pid));
}

/// Checks that a busy process is paused and resumed.
async fn pauses(daemon: &Daemon) {
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    for _ in 0..3 {
        assert_eq!(paused(daemon).await, pid);
        uses_no_processor(pid).await;
        assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
    }
    paused(daemon).await;
    is_charged_less(daemon, "f").await;
    let page = daemon.function("f").await;
    assert_eq!((number(&page, "instances_started"), number(&page["instances"][0], "served")), (1, 4));
}

#[tokio::test]
async fn process_is_paused_by_its_cgroup() {
    if !cgroups_are_usable().await {
        return;
    }
    let mut daemon = Daemon::with(function(0.1).flag("--descendant").flag("own-session")).await;
    pauses(&daemon).await;
    let resources = daemon.instances("f").await[0]["resources"].to_string();
    assert!(resources.contains("freezer:") || resources.contains("unified:"), "{resources}");
    for pid in daemon.home.processes() {
        uses_no_processor(pid).await;
    }
    assert_eq!(daemon.home.processes().len(), 2, "it and its descendant");
    assert!(daemon.end().await.took < ms(5_000));
}

#[tokio::test]
async fn process_without_cgroup_is_paused_by_signals() {
    if !geteuid().is_root() {
        return skip("only root can hide the cgroups");
    }
    let daemon = Setup::default().function(function(0.1)).without_cgroups().start().await;
    pauses(&daemon).await;
    assert!(processes::describe(paused(&daemon).await).contains(" T "));
}

#[tokio::test]
async fn paused_instance_ends_in_time() {
    let daemon = Daemon::with(function(0.1).set("keep-paused", 0.5)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    assert_eq!(paused(&daemon).await, pid);
    processes::gone(pid).await;
    daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
}

#[tokio::test]
async fn paused_instance_is_shown() {
    let daemon = Daemon::with(function(0.1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    paused(&daemon).await;
    let summary = daemon.get("/debug/summary").await.ok().json();
    let counts = ["idle", "busy", "paused", "booting"].map(|count| number(&summary["functions"]["f"], count));
    assert_eq!(counts, [0, 0, 1, 0], "{summary}");
    let metrics = daemon.get("/metrics").await.ok().text();
    assert!(metrics.contains(r#"unifaas_instances{function="f",state="paused"} 1"#), "{metrics}");
    let pages = [daemon.get("/ui/").await.ok().text(), daemon.get("/ui/functions/f").await.ok().text()];
    assert!(pages.iter().all(|page| page.contains(" paused · ")), "{pages:?}");
}

#[tokio::test]
async fn origins_of_instances_are_shown() {
    let daemon = Daemon::with(function(0.1)).await;
    let timing = |reply: &integration::Reply| reply.header("server-timing").unwrap_or_default().to_owned();
    let cold = timing(&daemon.get("/invoke/f/pid").await.ok());
    assert!(cold.contains(";desc=\"cold\"") && cold.contains("boot-ready"), "{cold}");
    let page = daemon.until("f", "paused", 1).await;
    assert_eq!(
        (&page["instances"][0]["origin"], &page["starts"]),
        (&json!("cold"), &json!({ "cold": 1, "resumed": 0, "restored": 0 }))
    );
    let resumed = timing(&daemon.get("/invoke/f/pid").await.ok());
    assert!(resumed.contains(";desc=\"resumed\"") && !resumed.contains("boot-ready"), "{resumed}");
    let page = daemon.function("f").await;
    assert_eq!((&page["instances"][0]["origin"], number(&page["starts"], "resumed")), (&json!("resumed"), 1));
    assert_eq!((number(&page["boot_seconds"], "count"), number(&page["resume_seconds"], "count")), (1, 1));
    let boots = daemon.get("/debug/boots").await.ok().json();
    assert_eq!((&boots["boots"][0]["origin"], boots["boots"].as_array().map(Vec::len)), (&json!("cold"), Some(1)));
    let metrics = daemon.get("/metrics").await.ok().text();
    for line in [
        "unifaas_starts_total{function=\"f\",from=\"cold\"} 1",
        "unifaas_starts_total{function=\"f\",from=\"resumed\"} 1",
        "unifaas_start_seconds_count{from=\"cold\"} 1",
        "unifaas_start_seconds_count{from=\"resumed\"} 1",
        "unifaas_cold_requests_total{function=\"f\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing: {metrics}");
    }
    let page = daemon.get("/ui/functions/f").await.ok().text();
    assert!(page.contains("<td>resumed</td>") && page.contains("</b> resumed, "), "{page}");
}

#[tokio::test]
async fn expected_request_finds_an_instance_that_was_started_ahead_of_it() {
    let daemon = Daemon::with(function(0.05).set("keep-paused", 0.1).set("prewarm", true)).await;
    for _ in 0..11 {
        daemon.get("/invoke/f/pid").await.ok();
        daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
    }
    let page = daemon.function("f").await;
    // Ten idle times are over, of less than 10 s each, and another has begun.
    assert_eq!((number(&page["prewarm"], "idle_times"), &page["prewarms"]["used"]), (10, &json!(0)), "{page}");
    let ahead = paused(&daemon).await;
    assert_eq!(
        (number(&daemon.function("f").await, "instances_started"), &daemon.boots("f").await[0]["cause"]),
        (12, &json!("prewarm"))
    );
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.header("server-timing").is_some_and(|timing| timing.contains(";desc=\"resumed\"")), "{reply:?}");
    assert_eq!(reply.pid(), ahead);
    let metrics = daemon.get("/metrics").await.ok().text();
    assert!(metrics.contains("unifaas_prewarms_total{function=\"f\",result=\"used\"} 1"), "{metrics}");
    let described = daemon.cli(&["describe", "f"]).await;
    assert!(described.out.contains("a request is expected") && described.out.contains("1 used"), "{described:?}");
}

#[tokio::test]
async fn killed_paused_instance_is_replaced() {
    let daemon = Daemon::with(function(0.1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    for _ in 0..3 {
        let pid = paused(&daemon).await;
        // Under version 1 of cgroups, the signal waits until the next request resumes the process.
        processes::signal(pid, Signal::SIGKILL);
        // A POST, which is not sent again once an instance may have read it.
        assert_ne!(daemon.post("/invoke/f/pid", "x").await.ok().pid(), pid);
        processes::gone(pid).await;
    }
}

#[tokio::test]
async fn paused_instances_end_with_the_daemon_in_order() {
    let graceful = function(0.1).set("stop-grace", 20);
    let mut daemon = Daemon::with(graceful).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    paused(&daemon).await;
    let ending = daemon.end().await;
    assert!(ending.status.success() && ending.took < ms(15_000), "SIGTERM did not reach it: {ending:?}");
    assert!(!processes::exists(pid));
}

#[tokio::test]
async fn next_daemon_ends_paused_instances_of_a_killed_one() {
    for cgroups in [true, false] {
        if !cgroups && !geteuid().is_root() {
            return skip("only root can hide the cgroups");
        }
        let home = Home::new();
        home.put(&function(0.1).flag("--descendant").flag("own-session"));
        let setup = Setup::at(&home);
        let daemon = if cgroups { setup } else { setup.without_cgroups() }.start().await;
        daemon.get("/invoke/f/pid").await.ok();
        paused(&daemon).await;
        daemon.killed().await;
        let since = Instant::now();
        let setup = Setup::at(&home);
        let next = if cgroups { setup } else { setup.without_cgroups() }.start().await;
        home.left(0).await;
        assert!(since.elapsed() < ms(5_000), "{:?}", since.elapsed());
        next.get("/invoke/f/pid").await.ok();
    }
}

#[tokio::test]
async fn pauses_under_load_fail_no_request() {
    let daemon = Daemon::with(function(0.001).set("max-instances", 3)).await;
    pause_under_load(&daemon, "f", ["/pid"; 2]).await;
}

#[test]
fn pauses_of_vms_under_load_fail_no_request() {
    isolated(async || {
        let vm =
            Vm::new("f", vm::Kind::Microvm).set("keepalive", 0.001).set("keep-paused", 600).set("max-instances", 3);
        pause_under_load(&vm::daemon(vm).await, "f", ["/hello", "/echo"]).await;
    });
}

#[tokio::test]
async fn hundred_paused_instances_use_no_processor() {
    let daemon = Daemon::with(function(0.2)).await;
    futures::future::join_all((0..100).map(async |_| daemon.get("/invoke/f/sleep?ms=1000").await.ok())).await;
    let states = |page: &Value| -> Vec<Value> {
        page["instances"].as_array().unwrap().iter().map(|instance| instance["state"].clone()).collect()
    };
    let are_paused = |page: &Value| states(page).iter().all(|state| state == "paused");
    let count = states(&daemon.settled("f", "all are paused", are_paused).await).len();
    assert!(count >= 50, "only {count} were started");
    let (instances, daemons) = (daemon.home.processes(), processes::family(daemon.pid));
    let daemons: Vec<_> = daemons.into_iter().filter(|pid| !instances.contains(pid)).collect();
    let before = [&instances, &daemons].map(|pids| processes::cpu_time(pids));
    sleep(Duration::from_secs(1)).await;
    let used = processes::cpu_time(&instances).saturating_sub(before[0]);
    println!(
        "{count} instances: {used:?} in 1 s; their daemon: {:?}",
        processes::cpu_time(&daemons).saturating_sub(before[1])
    );
    assert_eq!(used, Duration::ZERO);
}

#[test]
fn vm_is_paused_with_its_monitor() {
    isolated(async || {
        for kind in KINDS {
            let daemon = vm::daemon(Vm::new("f", kind).set("keepalive", 0.2).set("keep-paused", 600)).await;
            let first = daemon.get("/invoke/f/hello").await.ok().text();
            for _ in 0..2 {
                let pid = paused(&daemon).await;
                uses_no_processor(pid).await;
                assert_eq!(daemon.get("/invoke/f/hello").await.ok().text(), first);
            }
            paused(&daemon).await;
            assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
            drop(daemon);
            assert_eq!(traces(), Vec::<String>::new(), "{kind:?} left something behind");
        }
    });
}

#[test]
fn next_daemon_ends_paused_vms_of_a_killed_one() {
    isolated(async || {
        let home = Home::new();
        home.put(&Vm::new("f", vm::Kind::any()).set("keepalive", 0.2).set("keep-paused", 600).into());
        let daemon = vm::prepared(Setup::at(&home)).start().await;
        daemon.get("/invoke/f/hello").await.ok();
        let pid = paused(&daemon).await;
        daemon.killed().await;
        let mut next = vm::prepared(Setup::at(&home)).start().await;
        processes::gone(pid).await;
        next.get("/invoke/f/hello").await.ok();
        next.end().await;
        eventually(SOON, "nothing is left", async || traces(), Vec::is_empty).await;
    });
}

#[tokio::test]
async fn answer_of_a_paused_instance_is_about_as_fast_as_a_warm_one() {
    let daemon = Daemon::with(function(0.05)).await;
    let (resumed, warm) = answer_times(&daemon, "f", "/pid").await;
    assert!(resumed < warm + MAX_RESUMPTION);
}

#[test]
fn answer_of_a_paused_vm_is_about_as_fast_as_a_warm_one() {
    isolated(async || {
        let vm = Vm::new("f", vm::Kind::Microvm).set("keepalive", 0.05).set("keep-paused", 600);
        let (resumed, warm) = answer_times(&vm::daemon(vm).await, "f", "/hello").await;
        assert!(resumed < warm + MAX_RESUMPTION);
    });
}
