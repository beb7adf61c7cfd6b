//! Functions that together need more memory, processors or files than the host has.

use futures::{future::join_all, join};
use integration::{AT_ONCE, Daemon, Function, SOON, Setup, eventually, ms, number, processes};
use serde_json::Value;
use tokio::time::Instant;

/// An instance takes 64 MiB.
fn small(name: &str) -> Function {
    Function::new(name).process("memory", 64)
}

async fn with_budget(mib: u64, functions: impl IntoIterator<Item = Function>) -> Daemon {
    let setup = Setup::default().option("--memory-budget", mib.to_string());
    functions.into_iter().fold(setup, Setup::function).start().await
}

/// Returns the daemon's part of `/debug`.
async fn host(daemon: &Daemon) -> Value {
    daemon.debug().await["daemon"].take()
}

#[tokio::test]
async fn the_idle_instance_that_is_soonest_back_is_evicted() {
    let slow = small("b").flag("--boot-delay").flag("1000");
    let functions = [small("a"), slow, small("c")].map(|function| function.set("keep-paused", 0));
    let daemon = with_budget(128, functions).await;
    let a = daemon.get("/invoke/a/pid").await.ok().pid();
    let b = daemon.get("/invoke/b/pid").await.ok().pid();
    assert_eq!(number(&host(&daemon).await, "memory_taken"), 128);
    let reply = daemon.get("/invoke/c/pid").await.ok();
    assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    assert!(!processes::exists(a), "its memory was reused before it had exited");
    assert_eq!(daemon.get("/invoke/b/pid").await.ok().pid(), b);
    let [evicted, kept] = [daemon.function("a").await, daemon.function("b").await];
    assert_eq!((number(&evicted, "instances_evicted"), number(&kept, "instances_evicted")), (1, 0));
    daemon.logged(r#""why":"evicted""#).await;
    let host = host(&daemon).await;
    assert_eq!((number(&host, "memory_taken"), number(&host, "memory_free")), (128, 0));
    assert_eq!(number(&host["settings"], "memory_budget"), 128);
}

#[tokio::test]
async fn idle_instances_are_paused_rather_than_evicted() {
    let names = ["a", "b", "c", "d"];
    let daemon = with_budget(128, names.map(small)).await;
    let mut pids = Vec::new();
    for name in names {
        pids.push(daemon.get(&format!("/invoke/{name}/pid")).await.ok().pid());
    }
    for (name, pid) in names.iter().zip(pids) {
        assert_eq!(daemon.get(&format!("/invoke/{name}/pid")).await.ok().pid(), pid);
        let function = daemon.function(name).await;
        assert_eq!((number(&function, "instances_evicted"), number(&function, "instances_started")), (0, 1));
        assert!(number(&function, "early_pauses") > 0, "{function}");
    }
    assert!(number(&host(&daemon).await, "memory_taken") <= 128);
}

#[tokio::test]
async fn request_waits_for_busy_instance_to_become_idle() {
    let daemon = with_budget(64, ["a", "b"].map(small)).await;
    daemon.get("/invoke/a/pid").await.ok();
    let waiting = async {
        daemon.until("a", "busy", 1).await;
        let waiting = daemon.get("/invoke/b/pid");
        let watch = daemon.settled("b", "it waits", |b| number(b, "waiting") == 1);
        (join!(waiting, watch).0, Instant::now())
    };
    let busy = async { (daemon.get("/invoke/a/sleep?ms=1000").await, Instant::now()) };
    let ((busy, freed), (waited, served)) = join!(busy, waiting);
    busy.ok();
    waited.ok();
    assert!(served.duration_since(freed) < AT_ONCE, "it waited for {:?} longer", served - freed);
    daemon.until("a", "idle", 0).await;
    let host = host(&daemon).await;
    assert_eq!((number(&host, "memory_taken"), number(&host, "functions_waiting")), (64, 0));
}

#[tokio::test]
async fn request_without_memory_gets_503_with_retry_after() {
    let daemon = with_budget(64, [small("a"), small("b").set("queue-timeout", 0.5)]).await;
    daemon.get("/invoke/a/pid").await.ok();
    let refused = async {
        daemon.until("a", "busy", 1).await;
        daemon.get("/invoke/b/pid").await
    };
    let (busy, refused) = join!(daemon.get("/invoke/a/sleep?ms=2500"), refused);
    let busy = busy.ok();
    let problem = refused.problem(503, "host_saturated");
    assert!((1..=60).contains(&refused.retry_after()));
    assert!(refused.took > ms(450) && refused.took < busy.took, "{:?} beside {:?}", refused.took, busy.took);
    assert!(problem["detail"].as_str().unwrap().contains("64 MiB"), "{problem}");
    daemon.get("/invoke/b/pid").await.ok();
}

#[tokio::test]
async fn function_larger_than_budget_gets_503_at_once() {
    let daemon = with_budget(64, [Function::new("f").process("memory", 65), small("g")]).await;
    let reply = daemon.get("/invoke/f/pid").await;
    let problem = reply.problem(503, "host_saturated");
    assert!(problem["detail"].as_str().unwrap().contains("65 MiB"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("--memory-budget"), "{problem}");
    assert!(reply.took < AT_ONCE && reply.header("retry-after").is_none(), "{:?}", reply.took);
    daemon.logged("function can never be started on this host").await;
    daemon.get("/invoke/g/pid").await.ok();
}

#[tokio::test]
async fn min_instances_are_not_evicted() {
    let kept = small("kept").set("min-instances", 1);
    let daemon = with_budget(128, [kept, small("a"), small("b").set("queue-timeout", 5)]).await;
    daemon.until("kept", "idle", 1).await;
    daemon.get("/invoke/a/pid").await.ok();
    daemon.get("/invoke/b/pid").await.ok();
    daemon.until("kept", "idle", 1).await;
    assert_eq!(number(&daemon.function("kept").await, "instances_started"), 1);
    assert_eq!(number(&daemon.function("a").await, "instances_evicted"), 1);
}

#[tokio::test]
async fn burst_on_full_host_is_served_completely() {
    let functions: Vec<_> = (0..6).map(|n| small(&format!("f{n}")).set("single-use", n % 2 == 0)).collect();
    let daemon = with_budget(192, functions).await;
    let paths: Vec<_> = (0..60).map(|n| format!("/invoke/f{}/sleep?ms=20", n % 6)).collect();
    let burst = join_all(paths.iter().map(|path| daemon.get(path)));
    let watch = async {
        let mut most = 0;
        for _ in 0..40 {
            most = most.max(daemon.home.processes().len());
            tokio::time::sleep(ms(10)).await;
        }
        most
    };
    let (replies, most) = join!(burst, watch);
    for reply in replies {
        reply.ok();
    }
    assert!((1..=3).contains(&most), "{most} processes at once");
}

#[tokio::test]
async fn max_process_starts_bounds_concurrent_starts() {
    let function = small("f").set("single-use", true).flag("--boot-delay").flag("200");
    let setup = Setup::default().option("--max-process-starts", "2").function(function).function(small("g"));
    let daemon = setup.start().await;
    let burst = join_all((0..6).map(|_| daemon.get("/invoke/f/pid")));
    let watch = async {
        let mut most = 0;
        for _ in 0..20 {
            most = most.max(number(&host(&daemon).await, "starting"));
            tokio::time::sleep(ms(20)).await;
        }
        most
    };
    let (replies, most) = join!(burst, watch);
    let last = replies.into_iter().map(|reply| reply.ok().took).max().unwrap();
    assert_eq!(most, 2);
    assert!(last > ms(550), "three rounds of 200 ms took {last:?}");
    eventually(SOON, "nothing starts", async || host(&daemon).await, |host| host["starting"] == 0).await;
}

#[tokio::test]
async fn memory_budget_accepts_percentage() {
    let mut budgets = Vec::new();
    for share in ["50%", "25%"] {
        let daemon = Setup::default().option("--memory-budget", share).start().await;
        budgets.push(number(&host(&daemon).await["settings"], "memory_budget"));
    }
    assert!(budgets[0] > 64 && budgets[0].abs_diff(2 * budgets[1]) <= 2, "{budgets:?}");
}
