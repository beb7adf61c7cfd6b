//! Limits of containers, and what happens at them.

use integration::{SOON, abuse::check_cause, contained, eventually, processes};

use crate::{container, shared};

#[tokio::test]
async fn memory_limit_ends_serving_container() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("hungry", &[], "", "memory = 64")).await;
    let first = container(&daemon, "hungry").await;
    daemon.get("/invoke/hungry/allocate?mib=16").await.ok();
    let problem = daemon.get("/invoke/hungry/allocate?mib=500").await.problem(502, "instance_failed");
    check_cause(&problem.to_string(), "out of memory (limit 64 MiB)");
    let instance = daemon.ended_instance(problem["instance"].as_str().unwrap()).await;
    assert_eq!(instance["exit"], "out of memory (limit 64 MiB)");
    assert_ne!(container(&daemon, "hungry").await, first);
}

#[tokio::test]
async fn memory_limit_is_reported_for_booting_container() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("greedy", &["--allocate", "500"], "", "memory = 64")).await;
    let problem = daemon.get("/invoke/greedy/").await.problem(502, "boot_failed").to_string();
    assert!(problem.contains("out of memory (limit 64 MiB)"), "{problem}");
    engine.none_left("greedy").await;
}

#[tokio::test]
async fn container_has_labels_and_configured_limits() {
    let Some(engine) = shared() else { return };
    let keys = "memory = 100\ncpus = 0.5\npids-limit = 99\nlog-size = 2";
    let daemon = engine.daemon(contained("bounded", &[], "", keys)).await;
    let id = container(&daemon, "bounded").await;
    let found = engine.docker().await.inspect_container(&id, None).await.unwrap();
    let labels = found.config.unwrap().labels.unwrap();
    assert_eq!(labels["unifaas.function"], "bounded");
    assert_eq!(labels["unifaas.instance"], daemon.instances("bounded").await[0]["id"].as_str().unwrap());
    assert_eq!(labels["unifaas.daemon"].len(), 16);
    let host = found.host_config.unwrap();
    assert_eq!((host.memory, host.nano_cpus, host.pids_limit), (Some(100 << 20), Some(500_000_000), Some(99)));
    assert_eq!((host.privileged, host.readonly_rootfs), (Some(false), Some(false)));
    assert_eq!(host.log_config.unwrap().config.unwrap()["max-size"], "2m");
}

/// Returns a line of `/proc/<pid>/status` of the process with a token.
fn status_of(token: &str, field: &str) -> String {
    let [pid] = processes::with_token(token)[..] else { panic!("not one process with {token}") };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("no {field}: {status}"));
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn container_has_configured_capabilities() {
    let Some(engine) = shared() else { return };
    let relaxed = "capabilities = [\"NET_RAW\"]\nno-new-privileges = false";
    let daemon = engine
        .setup()
        .function(contained("strict", &["--token", "token-of-strict"], "", ""))
        .function(contained("relaxed", &["--token", "token-of-relaxed"], "", relaxed))
        .start()
        .await;
    // Bits 0, 5, 6, 7 and 10 are CHOWN, KILL, SETGID, SETUID and NET_BIND_SERVICE; bit 13 is NET_RAW.
    for (function, capabilities, confined) in
        [("strict", "00000000000004e1", "1"), ("relaxed", "00000000000024e1", "0")]
    {
        container(&daemon, function).await;
        let token = format!("token-of-{function}");
        assert_eq!(status_of(&token, "CapBnd:"), capabilities);
        assert_eq!(status_of(&token, "NoNewPrivs:"), confined);
    }
}

#[tokio::test]
async fn container_has_configured_user_and_read_only_root() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("unprivileged", &[], "", "user = \"1234:5678\"\nread-only = true")).await;
    assert_eq!(daemon.get("/invoke/unprivileged/uid").await.ok().text(), "1234");
    let id = container(&daemon, "unprivileged").await;
    let found = engine.docker().await.inspect_container(&id, None).await.unwrap();
    assert_eq!(found.host_config.unwrap().readonly_rootfs, Some(true));
}

#[tokio::test]
async fn container_output_is_bounded() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("talks", &["--say", "good morning"], "", "")).await;
    for n in 0..200 {
        daemon.get(&format!("/invoke/talks/say?line={n}-{}", "y".repeat(1000))).await.ok();
    }
    let output = async || daemon.instances("talks").await[0]["output"].to_string();
    let is_whole = |output: &String| output.contains("199-yyy");
    let output = eventually(SOON, "the newest line is kept", output, is_whole).await;
    assert!(output.len() < 256 << 10, "{} bytes of output are kept", output.len());
}

#[tokio::test]
async fn container_secrets_are_not_logged() {
    let Some(engine) = shared() else { return };
    let function = contained("secretive", &[], "env = { PASSWORD = \"hunter2\" }", "");
    let daemon = engine.setup().option("--log-level", "trace").function(function).start().await;
    assert_eq!(daemon.get("/invoke/secretive/env?name=PASSWORD").await.ok().text(), "hunter2");
    let url = daemon.get("/invoke/secretive/callback").await.ok().text();
    let token = url.rsplit('/').next().unwrap();
    let log = daemon.logged("container started").await;
    assert!(!log.contains("hunter2") && !log.contains(token), "{log}");
}
