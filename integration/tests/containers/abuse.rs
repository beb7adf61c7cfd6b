//! Misbehaving containers: limits hold, other functions are not affected, and nothing is left.
//!
//! Memory limits are in `limits.rs`, ignored signals in `shutdown.rs`.

use std::fs;

use integration::{
    Daemon, Engine, Function, SOON,
    abuse::{check_cause, check_malformed_responses, close_listener, without_side_effects},
    contained, eventually, ms, number, within,
};

use crate::shared;

/// Starts a daemon with `bad`, and with a process that a client uses meanwhile.
async fn with(engine: &Engine, bad: Function) -> Daemon {
    engine.setup().function(bad).function(Function::new("good")).start().await
}

/// Reads a control file of the container's cgroup, by container id.
fn control(id: &str, file: &str) -> Option<u64> {
    fn find(directory: std::path::PathBuf, id: &str, file: &str, depth: u32) -> Option<std::path::PathBuf> {
        let entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
        let here = entries.iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(id)));
        let here = here.map(|path| path.join(file)).filter(|path| path.is_file());
        let below = || entries.iter().filter(|path| path.is_dir() && depth > 0);
        here.or_else(|| below().find_map(|path| find(path.clone(), id, file, depth - 1)))
    }
    let file = find("/sys/fs/cgroup".into(), id, file, 3)?;
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[tokio::test]
async fn pids_limit_stops_fork_bomb() {
    let Some(engine) = shared() else { return };
    let daemon = with(engine, contained("bad", &[], "keepalive = 2\nkeep-paused = 0", "pids-limit = 40")).await;
    daemon.get("/invoke/bad/pid").await.ok();
    let id = daemon.instances("bad").await[0]["engine_id"].as_str().unwrap().to_owned();
    assert_eq!(control(&id, "pids.max"), Some(40), "the limit is not in force, and the bomb would be");
    without_side_effects(&daemon, "good", async {
        daemon.get("/invoke/bad/bomb?ms=1500").await.ok();
        let current = async || control(&id, "pids.current");
        eventually(SOON, "it has gone off", current, |count| *count >= Some(40)).await;
        for _ in 0..10 {
            daemon.get("/invoke/bad/pid").await.ok();
            assert!(control(&id, "pids.current") <= Some(40));
        }
        engine.none_left("bad").await;
        eventually(SOON, "its cgroup is gone", async || control(&id, "pids.max"), Option::is_none).await;
    })
    .await;
}

#[tokio::test]
async fn file_limits_hold() {
    let Some(engine) = shared() else { return };
    let daemon = engine
        .setup()
        .function(contained("fills", &[], "", "file-size = 2"))
        .function(contained("may-not", &[], "", "read-only = true"))
        .start()
        .await;
    let fill = |function: &str| format!("/invoke/{function}/fill?path=/grows&mib=100");
    // Process 1 of a container does not get the signal that ends others.
    assert_eq!(daemon.get(&fill("fills")).await.ok().text(), "FileTooLarge");
    assert_eq!(daemon.get(&fill("may-not")).await.ok().text(), "ReadOnlyFilesystem");
}

#[tokio::test]
async fn endless_output_is_bounded() {
    let Some(engine) = shared() else { return };
    let daemon = with(engine, contained("loud", &[], "keepalive = 1\nkeep-paused = 0", "")).await;
    without_side_effects(&daemon, "good", async {
        daemon.get("/invoke/loud/flood?ms=2000").await.ok();
        for _ in 0..20 {
            for instance in daemon.instances("loud").await {
                let output = instance["output"].to_string();
                assert!(output.len() < 64 << 10, "{} bytes of output are kept", output.len());
            }
            tokio::time::sleep(ms(50)).await;
        }
        engine.none_left("loud").await;
    })
    .await;
}

#[tokio::test]
async fn malformed_responses_have_documented_status() {
    let Some(engine) = shared() else { return };
    let daemon = with(engine, contained("odd", &[], "timeout = 2", "")).await;
    without_side_effects(&daemon, "good", check_malformed_responses(&daemon, "odd", |_| true)).await;
    engine.none_left("odd-nothing").await;
}

#[tokio::test]
async fn instance_without_listener_is_replaced_without_failed_request() {
    let Some(engine) = shared() else { return };
    let daemon = with(engine, contained("deaf", &[], "", "")).await;
    without_side_effects(&daemon, "good", async {
        close_listener(&daemon, "deaf").await;
        for _ in 0..8 {
            daemon.get("/invoke/deaf/pid").await.ok();
        }
        assert_eq!(daemon.counter("deaf", "instance_failed").await, 0);
    })
    .await;
}

#[tokio::test]
async fn exit_after_callback_fails_waiting_requests() {
    let Some(engine) = shared() else { return };
    let daemon = with(engine, contained("dies", &["--exit-after-callback", "7"], "", "")).await;
    let reply = within(SOON, "an answer", daemon.get("/invoke/dies/pid")).await;
    // It may have accepted a connection before it ended.
    let (status, code, text) = (reply.status, reply.header("x-unifaas-error"), reply.text());
    assert!(status == 502 && matches!(code.as_deref(), Some("instance_failed" | "boot_failed")), "{text}");
    check_cause(&text, "status 7");
    engine.none_left("dies").await;
}

#[tokio::test]
async fn waits_for_late_listener() {
    let Some(engine) = shared() else { return };
    let daemon = with(engine, contained("late", &["--listen-delay", "600"], "", "")).await;
    let reply = within(SOON, "an answer", daemon.get("/invoke/late/pid")).await.ok();
    assert!(reply.took > ms(600), "{:?}", reply.took);
    assert_eq!(number(&daemon.function("late").await, "instances_started"), 1);
}
