//! `restart`, `stop`, `rescan`.

use std::{fs, process::Command};

use integration::{Function, cli::run};
use nix::unistd::geteuid;

use super::{daemon, instance};

#[tokio::test]
async fn restart_and_stop_say_how_many_instances() {
    let daemon = daemon().await;
    assert_eq!(daemon.cli(&["restart", "f"]).await.ok(), "f: no instance to replace; the next request starts one\n");
    assert_eq!(daemon.cli(&["stop", "f"]).await.ok(), "f: no instance to stop\n");
    daemon.get("/invoke/f/pid").await.ok();
    let first = instance(&daemon, "f").await;
    let text = daemon.cli(&["restart", "f"]).await.ok();
    assert_eq!(text, "f: 1 instance is replaced; each ends when its requests have\n");
    daemon.ended_instance(&first).await;
    daemon.get("/invoke/f/pid").await.ok();
    let second = instance(&daemon, "f").await;
    assert_ne!(first, second);
    assert_eq!(daemon.cli(&["stop", &second]).await.ok(), format!("{second}: 1 instance is stopped\n"));
    assert_eq!(daemon.ended_instance(&second).await["cause"], "stopped");
    daemon.cli(&["stop", &second]).await.failed(4);
    daemon.get("/invoke/f/pid").await.ok();
    assert_eq!(daemon.cli(&["stop", "f", "--json"]).await.json()["stopped"], 1);
}

#[tokio::test]
async fn rescan_names_what_is_misconfigured() {
    let daemon = daemon().await;
    assert_eq!(daemon.cli(&["rescan"]).await.ok(), "functions: 2\n");
    daemon.home.put(&Function::verbatim("wrong", "keepalive = -1\n"));
    let ran = daemon.cli(&["rescan"]).await;
    assert_eq!((ran.status, ran.out.as_str()), (Some(1), "functions: 3\n"), "{ran:?}");
    assert!(ran.err.contains("wrong/function.toml:1: keepalive") && ran.err.contains("1 of 3"), "{}", ran.err);
    let ran = daemon.cli(&["rescan", "--json"]).await;
    assert!(ran.out.starts_with('{') && ran.status == Some(1), "{ran:?}");
}

#[tokio::test]
async fn users_who_may_not_act_have_status_5() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root may run a command as another user");
        return;
    }
    let daemon = daemon().await;
    fs::copy(integration::unifaas(), daemon.home.path("unifaas")).unwrap();
    for action in [&["restart", "f"][..], &["stop", "f"], &["rescan"]] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=4321", "--clear-groups"]).arg(daemon.home.path("unifaas")).args(action);
        command.env("UNIFAAS_URL", format!("http://{}", daemon.listen)).env("UNIFAAS_CONFIG", "/dev/null");
        let text = run(command).await.failed(5);
        assert!(text.contains("not allowed: user 4321 may not"), "{action:?}: {text}");
    }
}
