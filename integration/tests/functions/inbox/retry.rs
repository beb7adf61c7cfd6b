//! What is tried again, and what ends as a dead letter.

use integration::{Daemon, Function, Setup, eventually, ms};
use serde_json::json;

#[tokio::test]
async fn failures_are_tried_again_until_the_attempts_are_used_up() {
    let daemon = Daemon::with(Function::new("f").asynchronous("backoff", 0.05).asynchronous("attempts", 3)).await;
    let id = daemon.accepted("/f/status/503", "", &[]).await;
    let ended = daemon.ended_invocation(&id).await;
    assert_eq!(
        (&ended["state"], &ended["reason"], &ended["status"], &ended["attempts"]),
        (&json!("dead"), &json!("attempts_exhausted"), &json!(503), &json!(3))
    );
    assert_eq!(daemon.counter("f", "ok").await, 3, "the function has answered each attempt");
    assert_eq!(daemon.get(&format!("/invocations/{id}/response")).await.status, 503, "its last answer is kept");
}

#[tokio::test]
async fn a_function_that_rejects_a_request_gets_it_once() {
    let daemon = Daemon::with(Function::new("f")).await;
    let id = daemon.accepted("/f/status/404", "", &[]).await;
    let ended = daemon.ended_invocation(&id).await;
    assert_eq!((&ended["reason"], &ended["attempts"]), (&json!("rejected"), &json!(1)));
}

#[tokio::test]
async fn an_instance_that_ends_counts_as_a_failed_attempt() {
    let daemon = Daemon::with(Function::new("f").asynchronous("backoff", 0).asynchronous("attempts", 2)).await;
    let id = daemon.accepted("/f/exit", "", &[]).await;
    let ended = daemon.ended_invocation(&id).await;
    assert_eq!((&ended["reason"], &ended["status"]), (&json!("attempts_exhausted"), &json!(null)));
    assert_eq!(ended["attempts"], 2);
}

#[tokio::test]
async fn work_of_a_function_that_is_not_there_waits_for_it_or_expires() {
    let daemon = Setup::default().function(Function::new("f")).function(Function::new("gone")).start().await;
    let soon = [("x-unifaas-delay", "2")];
    let waits = daemon.accepted("/f/pid", "", &soon).await;
    let expires = daemon.accepted("/gone/pid", "", &[("x-unifaas-delay", "1.5"), ("x-unifaas-max-age", "3")]).await;
    daemon.home.remove("f");
    daemon.home.remove("gone");
    daemon.answers("/invoke/f/pid", 404).await;
    let ended = daemon.ended_invocation(&expires).await;
    assert_eq!((&ended["reason"], &ended["attempts"]), (&json!("expired"), &json!(0)));
    assert_eq!(daemon.invocation(&waits).await["state"], "queued");
    daemon.home.put(&Function::new("f"));
    assert_eq!(daemon.ended_invocation(&waits).await["state"], "done");
}

#[tokio::test]
async fn asynchronous_work_leaves_slots_to_callers_who_wait() {
    let function = Function::new("f").set("max-instances", 1).set("concurrent-requests", 3);
    let daemon = Daemon::with(function.asynchronous("concurrency", 2)).await;
    for _ in 0..6 {
        daemon.accepted("/f/sleep?ms=2000", "", &[]).await;
    }
    let running = async || daemon.debug().await["daemon"]["inbox"]["running"].clone();
    eventually(ms(20_000), "two run", running, |running| *running == 2).await;
    daemon.get("/invoke/f/pid").await.ok();
    let inbox = daemon.debug().await["daemon"]["inbox"].clone();
    assert!(inbox["running"].as_u64() <= Some(2), "{inbox}");
    let most = daemon.get("/invoke/f/in-flight-max").await.ok().text();
    assert!(most.parse::<u64>().unwrap() <= 3, "{most}");
}
