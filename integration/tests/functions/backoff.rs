//! Functions whose starts keep failing.

use std::{fs, time::Duration};

use futures::future::join_all;
use integration::{Daemon, Function, Home, Setup, ms, number};
use serde_json::Value;
use tokio::time::Instant;

fn dies() -> Function {
    Function::new("f").flag("--exit-at-boot").flag("42").flag("--say").flag("no configuration")
}

/// Fails the function three times in a row.
async fn failing(daemon: &Daemon) {
    for _ in 0..3 {
        daemon.get("/invoke/f/").await.problem(502, "boot_failed");
    }
}

#[tokio::test]
async fn third_failure_makes_requests_fail_at_once() {
    let daemon = Daemon::with(dies()).await;
    for _ in 0..2 {
        let reply = daemon.get("/invoke/f/").await;
        reply.problem(502, "boot_failed");
        assert_eq!(reply.header("retry-after"), None);
    }
    assert_eq!(daemon.function("f").await["state"], "serving");
    let third = daemon.get("/invoke/f/").await;
    third.problem(502, "boot_failed");
    assert_eq!(third.retry_after(), 1);

    let reply = daemon.get("/invoke/f/").await;
    let problem = reply.problem(502, "boot_failed");
    assert!(reply.took < ms(900) && reply.retry_after() == 1, "{:?}", reply.took);
    assert!(problem["detail"].as_str().unwrap().contains("42"), "{problem}");
    assert!(problem["output"].to_string().contains("no configuration"), "{problem}");
    assert!(problem["instance"].is_string(), "{problem}");

    let function = daemon.function("f").await;
    assert_eq!((&function["state"], number(&function, "instances_started")), (&Value::from("failing"), 3));
    let failing = &function["failing"];
    assert_eq!((number(failing, "failures"), failing["code"].as_str()), (3, Some("boot_failed")));
    assert!(failing["error"].as_str().unwrap().contains("42"), "{failing}");
    assert!((0.0..=1.0).contains(&failing["retry_seconds"].as_f64().unwrap()), "{failing}");
    let message = "function keeps failing to start";
    assert_eq!(daemon.logged(message).await.matches(message).count(), 1);
}

#[tokio::test]
async fn pauses_double_and_end_with_one_start() {
    let daemon = Daemon::with(dies()).await;
    failing(&daemon).await;
    let since = Instant::now();
    // The pauses of one and two seconds end in that time, the next one does not.
    while since.elapsed() < ms(4500) {
        for reply in join_all((0..4).map(|_| daemon.get("/invoke/f/"))).await {
            reply.problem(502, "boot_failed");
            assert!((1..=4).contains(&reply.retry_after()));
        }
        tokio::time::sleep(ms(20)).await;
    }
    assert_eq!(number(&daemon.function("f").await, "instances_started"), 5);
    assert_eq!(number(&daemon.function("f").await["failing"], "failures"), 5);
}

#[tokio::test]
async fn changed_file_ends_backoff() {
    let daemon = Daemon::with(dies()).await;
    failing(&daemon).await;
    daemon.home.put(&Function::new("f"));
    daemon.settled("f", "it serves again", |f| f["state"] == "serving").await;
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn function_recovers_after_successful_start() {
    let home = Home::new();
    let program = home.testfn();
    let script = format!("test -e well || exit 7; exec {} $CALLBACK_URL --token {}", program.display(), home.token());
    let text = format!("[process]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    let daemon = Setup::at(&home).function(Function::verbatim("f", &text)).start().await;
    failing(&daemon).await;
    fs::write(home.registry().join("f/well"), "").unwrap();
    let reply = daemon.get("/invoke/f/pid").await;
    reply.problem(502, "boot_failed");
    tokio::time::sleep(Duration::from_secs(reply.retry_after())).await;
    for reply in join_all((0..10).map(|_| daemon.get("/invoke/f/pid"))).await {
        reply.ok();
    }
    let function = daemon.function("f").await;
    assert_eq!((&function["state"], &function["failing"]), (&Value::from("serving"), &Value::Null));
    assert_eq!(daemon.logged("function has recovered").await.matches("function has recovered").count(), 1);
}

#[tokio::test]
async fn boot_timeouts_count_as_failures() {
    let daemon = Daemon::with(Function::new("f").set("boot-timeout", 0.3).flag("--callbacks").flag("0")).await;
    for _ in 0..3 {
        daemon.get("/invoke/f/").await.problem(504, "boot_timed_out");
    }
    let reply = daemon.get("/invoke/f/").await;
    reply.problem(504, "boot_timed_out");
    assert!(reply.took < ms(900) && reply.retry_after() == 1, "{:?}", reply.took);
}
