//! Idle instances that are paused, by each way that this host has, and resumed by the next request.

use std::{fs, time::Duration};

use integration::{
    Daemon, Function, Home, SOON, Setup, cgroups_are_usable, eventually, ms, number, processes,
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

/// Returns the processor time of a process so far, in nanoseconds.
fn cpu_time(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).unwrap();
    tasks.map(|task| of_task(task.unwrap()).split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Returns the process id of the only instance, once it is paused.
async fn paused(daemon: &Daemon) -> u32 {
    let page = daemon.until("f", "paused", 1).await;
    u32::try_from(number(&page["instances"][0], "pid")).unwrap()
}

/// Checks that the only instance, which declares 128 MiB, is charged less while it is paused.
async fn is_charged_less(daemon: &Daemon) {
    let charged = number(&daemon.function("f").await["instances"][0], "memory_charged");
    let taken = number(&daemon.get("/debug").await.ok().json()["daemon"], "memory_taken");
    assert!((1..100).contains(&charged) && taken == charged, "{charged} of {taken} MiB");
}

async fn uses_no_processor(pid: u32) {
    let before = cpu_time(pid);
    sleep(OBSERVED).await;
    assert_eq!(cpu_time(pid), before, "{}", processes::describe(pid));
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
    is_charged_less(daemon).await;
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
async fn killed_paused_instance_is_replaced() {
    let daemon = Daemon::with(function(0.1)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let pid = paused(&daemon).await;
    // Under version 1 of cgroups, the signal waits until the next request resumes the process.
    processes::signal(pid, Signal::SIGKILL);
    assert_ne!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
    processes::gone(pid).await;
}

#[tokio::test]
async fn paused_instances_end_with_the_daemon_in_order() {
    let graceful = function(0.1).set("stop-grace", 5);
    let mut daemon = Daemon::with(graceful).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    paused(&daemon).await;
    let ending = daemon.end().await;
    assert!(ending.status.success() && ending.took < ms(4_000), "SIGTERM did not reach it: {ending:?}");
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

/// Returns how often the instances of a function were paused, by the changes of state of those that exist.
fn pauses_of(page: &Value) -> u64 {
    let instances = page["instances"].as_array().into_iter().flatten();
    // To be ready takes two changes, each pause with its end four.
    instances.map(|instance| number(instance, "epoch").saturating_sub(3) / 4).sum()
}

#[tokio::test]
async fn a_thousand_pauses_under_load_fail_no_request() {
    let daemon = Daemon::with(function(0.001).set("max-instances", 3)).await;
    let clients = (0..3).map(async |client: u64| {
        let mut connection = daemon.connect().await;
        let mut count = 0_u64;
        while count < 30_000 {
            let request = if count.is_multiple_of(2) {
                integration::request("GET", "/invoke/f/pid", integration::empty())
            } else {
                integration::request("POST", "/invoke/f/pid", integration::body_of("x".to_owned()))
            };
            let reply = connection.send(request).await.expect("an answer");
            assert_eq!(reply.status, 200, "{}", reply.text());
            count += 1;
            if count.is_multiple_of(50) && pauses_of(&daemon.function("f").await) >= 1_000 {
                break;
            }
            // About as long as the keepalive, so that requests meet each state.
            sleep(Duration::from_micros(1_000 + (count * 37 + client * 211) % 2_500)).await;
        }
    });
    futures::future::join_all(clients).await;
    let page = daemon.function("f").await;
    assert!(pauses_of(&page) >= 1_000 && number(&page, "instances_started") <= 3, "{page}");
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
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let (mut warm, mut resumed) = (Vec::new(), Vec::new());
    for _ in 0..21 {
        paused(&daemon).await;
        let mut connection = daemon.connect().await;
        for times in [&mut resumed, &mut warm] {
            let since = Instant::now();
            let request = integration::request("GET", "/invoke/f/pid", integration::empty());
            assert_eq!(connection.send(request).await.unwrap().ok().pid(), pid);
            times.push(since.elapsed());
        }
    }
    warm.sort_unstable();
    resumed.sort_unstable();
    eprintln!("medians: warm {:?}, resumed {:?}", warm[10], resumed[10]);
    // On an idle machine a resumption adds less than one millisecond; here other tests run.
    assert!(resumed[10] < warm[10] + ms(20), "warm {warm:?}, resumed {resumed:?}");
}
