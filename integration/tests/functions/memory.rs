//! Who has the memory, who waits for it and who made room: `/debug/memory`, `/ui/memory`, records of starts, commands.

use std::time::Duration;

use futures::join;
use integration::{Daemon, Function, Setup, cgroups_are_usable, eventually, ms, number};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// An instance takes 64 MiB.
fn small(name: &str) -> Function {
    Function::new(name).process("memory", 64)
}

async fn with_budget(mib: u64, functions: impl IntoIterator<Item = Function>) -> Daemon {
    let setup = Setup::default().option("--memory-budget", mib.to_string());
    functions.into_iter().fold(setup, Setup::function).start().await
}

async fn memory(daemon: &Daemon) -> Value {
    daemon.get("/debug/memory").await.ok().json()
}

async fn only_instance(daemon: &Daemon, function: &str) -> String {
    daemon.until(function, "idle", 1).await["instances"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_start_names_the_instances_that_made_room_for_it() {
    let unpaused = small("b").set("keep-paused", 0);
    let daemon = with_budget(140, [small("a"), unpaused, Function::new("large").process("memory", 100)]).await;
    let mut made_room = Vec::new();
    for (function, to) in [("a", "paused"), ("b", "ended")] {
        daemon.get(&format!("/invoke/{function}/pid")).await.ok();
        made_room.push((function, only_instance(&daemon, function).await, to));
    }
    daemon.get("/invoke/large/pid").await.ok();
    let id = only_instance(&daemon, "large").await;
    let boot = daemon.get(&format!("/debug/instances/{id}")).await.ok().json()["boot"].take();
    let named = |boot: &Value| -> Vec<[String; 3]> {
        let list = boot["evicted"].as_array().cloned().unwrap_or_default();
        let text = |one: &Value| ["function", "instance", "to"].map(|key| one[key].as_str().unwrap().to_owned());
        let mut named: Vec<_> = list.iter().map(text).collect();
        named.sort();
        named
    };
    let expected: Vec<_> = made_room.iter().map(|(function, id, to)| [*function, id, *to].map(str::to_owned)).collect();
    assert_eq!(named(&boot), expected, "{boot}");
    let boots = daemon.get("/debug/boots?function=a").await.ok().json();
    assert!(named(&boots["boots"][0]).is_empty(), "{boots}");

    let page = daemon.get(&format!("/ui/boots/{id}")).await.ok().text();
    let text = daemon.cli(&["boots", "large"]).await.ok();
    let line = text.lines().find(|line| line.contains("made room: ")).unwrap_or_else(|| panic!("{text}"));
    for (function, id, to) in &made_room {
        assert!(page.contains(&format!("/ui/functions/{function}")) && page.contains(&format!("/ui/instances/{id}")));
        assert!(line.contains(&format!("{function}/{id} ({to})")), "{line}");
    }
    let memory = memory(&daemon).await;
    let functions = &memory["functions"];
    assert_eq!(functions.get("b"), None, "it has no instance: {memory}");
    let counts = |name: &str| ["evicted", "early_pauses"].map(|key| number(&functions[name], key));
    assert_eq!((counts("a"), counts("large")), ([0, 1], [0, 0]), "{memory}");
    let bytes = |name: &str| ["charged_bytes", "declared_bytes"].map(|key| number(&functions[name], key) / MIB);
    assert!(bytes("a")[0] < 40 && bytes("a")[1] == 64 && bytes("large") == [100, 100], "{memory}");
    let metrics = daemon.get("/metrics").await.ok().text();
    assert!(metrics.contains("unifaas_early_pauses_total{function=\"a\"} 1"), "{metrics}");
    daemon.logged("idle instance is being paused for another function").await;
}

#[tokio::test]
async fn idle_times_waits_and_what_another_instance_would_find_are_shown() {
    let functions = [small("idle"), small("busy"), Function::new("f").process("memory", 128)];
    let daemon = with_budget(190, functions).await;
    daemon.get("/invoke/idle/pid").await.ok();
    let long_idle = async || memory(&daemon).await["functions"]["idle"].clone();
    let is_long = |idle: &Value| idle["idle_seconds"].as_f64() > Some(0.5);
    let idle = eventually(ms(5000), "its idle time is shown", long_idle, is_long).await;
    assert_eq!((number(&idle, "idle"), number(&idle, "declared_bytes")), (1, 64 * MIB), "{idle}");
    assert_eq!(idle["next"], "fits");

    let now = async {
        daemon.until("busy", "busy", 1).await;
        memory(&daemon).await
    };
    let (reply, now) = join!(daemon.get("/invoke/busy/sleep?ms=1500"), now);
    reply.ok();
    let busy = &now["functions"]["busy"];
    assert_eq!((&busy["idle_seconds"], &busy["next"]), (&Value::Null, &"evicts".into()), "{now}");
    assert_eq!((number(&now, "memory_budget"), number(&now, "memory_taken")), (190, 128));

    // The idle instances make room; a busy one does not.
    let waits = async {
        daemon.until("busy", "busy", 1).await;
        daemon.get("/invoke/f/pid").await
    };
    let waiting = async {
        let waiting = async || memory(&daemon).await["functions"]["f"].clone();
        eventually(ms(5000), "a request waits", waiting, |f| f["waiting"] == 1).await
    };
    let (busy, waited, waiting) = join!(daemon.get("/invoke/busy/sleep?ms=1500"), waits, waiting);
    busy.ok();
    waited.ok();
    assert_eq!((number(&waiting, "instances"), &waiting["next"]), (0, &"waits".into()), "{waiting}");
    let f = memory(&daemon).await["functions"]["f"].clone();
    assert_eq!(number(&f, "waits"), 1, "{f}");
    assert!(f["wait_seconds"].as_f64() > Some(0.1), "{f}");
    assert_eq!(f["next"], "waits", "its own instances make no room: {f}");
    let page = daemon.get("/ui/memory").await.ok().text();
    for head in ["Idle for", "Peak of one", "Waits for the host", "Another one"] {
        assert!(page.contains(head), "{head}: {page}");
    }
    assert!(page.contains("1 × "), "the wait: {page}");
    let text = daemon.cli(&["describe", "f"]).await.ok();
    assert!(
        text.contains("memory        128 MiB declared") && text.contains("1 requests waited for the host"),
        "{text}"
    );
}

#[tokio::test]
async fn the_peak_of_an_instance_is_shown_also_after_its_end() {
    if !cgroups_are_usable().await {
        return;
    }
    let daemon = with_budget(512, [Function::new("f").process("memory", 128).set("max-instances", 1)]).await;
    daemon.get("/invoke/f/allocate?mib=64").await.ok();
    let id = only_instance(&daemon, "f").await;
    let page = daemon.get(&format!("/debug/instances/{id}")).await.ok().json();
    let (used, peak) = (number(&page["memory"], "used"), number(&page["memory"], "peak"));
    assert!((64 * MIB..=128 * MIB).contains(&peak) && used <= peak, "{page}");
    let share = memory(&daemon).await["functions"]["f"].clone();
    assert_eq!((number(&share, "peak_bytes"), number(&share, "limit_bytes")), (peak, 128 * MIB), "{share}");
    let text = daemon.cli(&["describe", &id]).await.ok();
    assert!(text.contains(&format!("of 128 MiB, at most {:.0} MiB", peak as f64 / MIB as f64)), "{text}");

    // Twice, so that another instance has had the same cgroup since.
    for _ in 0..2 {
        daemon.cli(&["stop", "f"]).await.ok();
        daemon.settled("f", "its instance is gone", |page| page["instances"][0].is_null()).await;
        daemon.get("/invoke/f/pid").await.ok();
    }
    let gone = daemon.get(&format!("/debug/instances/{id}")).await.ok().json();
    assert_eq!((number(&gone["memory"], "peak"), gone["memory"].get("used")), (peak, None), "{gone}");
    let other = daemon.get(&format!("/debug/instances/{}", only_instance(&daemon, "f").await)).await.ok().json();
    assert!(number(&other["memory"], "peak") < 64 * MIB, "that of the instance before is not shown: {other}");
    let remembered = async || memory(&daemon).await["functions"]["f"]["peak_bytes"].clone();
    eventually(Duration::from_secs(5), "the peak is remembered", remembered, |bytes| *bytes == peak).await;
    let page = daemon.get(&format!("/ui/instances/{id}")).await.ok().text();
    assert!(page.contains("128 MiB, at most "), "{page}");
}
