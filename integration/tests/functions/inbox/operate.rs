//! What operators see and do: commands, pages and metrics.

use integration::{Daemon, Function};
use serde_json::json;

#[tokio::test]
async fn dead_letters_are_listed_shown_redriven_and_removed() {
    let daemon = Daemon::with(Function::new("f").asynchronous("attempts", 1)).await;
    assert_eq!(daemon.cli(&["dead"]).await.ok(), "");
    let id = daemon.accepted("/f/status/500?why", "the body", &[("x-own", "1")]).await;
    daemon.ended_invocation(&id).await;
    let list = daemon.cli(&["dead", "list"]).await.ok();
    assert!(list.contains(&id) && list.contains("attempts_exhausted"), "{list}");
    let shown = daemon.cli(&["dead", "show", &id]).await.ok();
    for text in ["POST /status/500?why", "the body", "x-own: 1", "response: 500"] {
        assert!(shown.contains(text), "no {text:?} in {shown}");
    }
    assert_eq!(daemon.cli(&["dead", "redrive", "--function", "f"]).await.ok().trim(), format!("{id}: redriven"));
    let again = daemon.ended_invocation(&id).await;
    assert_eq!((&again["state"], &again["attempts"]), (&json!("dead"), &json!(1)));
    assert_eq!(daemon.counter("f", "ok").await, 2);
    daemon.cli(&["dead", "purge"]).await.failed(2);
    assert_eq!(daemon.cli(&["dead", "purge", "--all"]).await.ok().trim(), format!("{id}: removed"));
    assert_eq!(daemon.cli(&["dead", "--json"]).await.json(), json!([]));
    daemon.get(&format!("/invocations/{id}")).await.problem(404, "no_such_invocation");
}

#[tokio::test]
async fn a_dead_letter_without_an_answer_has_no_status() {
    let daemon = Daemon::with(Function::new("f").asynchronous("attempts", 1)).await;
    let id = daemon.accepted("/f/exit", "", &[]).await;
    daemon.ended_invocation(&id).await;
    let list = daemon.cli(&["dead"]).await.ok();
    assert_eq!(list.lines().last().and_then(|row| row.split_whitespace().nth(3)), Some("-"), "{list}");
}

#[tokio::test]
async fn a_command_stores_a_request_and_waits_for_its_answer() {
    let daemon = Daemon::with(Function::new("f").asynchronous("attempts", 1)).await;
    let id = daemon.cli(&["invoke", "f", "/pid", "--async"]).await.ok().trim().to_owned();
    assert_eq!(daemon.ended_invocation(&id).await["state"], "done");
    let answer = daemon.cli(&["invoke", "f", "/received", "--async", "--wait", "-d", "12345"]).await.ok();
    assert_eq!(answer.trim(), "5");
    let failed = daemon.cli(&["invoke", "f", "/status/503", "--async", "--wait"]).await;
    assert_eq!((failed.status, failed.out.as_str()), (Some(1), "the function's own words"));
    assert!(failed.err.contains("attempts_exhausted"), "{}", failed.err);
}

#[tokio::test]
async fn metrics_count_what_was_accepted_and_how_it_ended() {
    let daemon = Daemon::with(Function::new("f").asynchronous("attempts", 2).asynchronous("backoff", 0)).await;
    for path in ["/f/pid", "/f/status/503"] {
        let id = daemon.accepted(path, "", &[]).await;
        daemon.ended_invocation(&id).await;
    }
    let attempts = |result: &str| format!("unifaas_async_attempts_total{{result=\"{result}\"}}");
    let metrics = daemon
        .measured("the dead letter", |it| it.value("unifaas_async_dead_letters{function=\"f\"}") == Some(1.0))
        .await;
    assert_eq!(metrics.value("unifaas_async_accepted_total"), Some(2.0));
    assert_eq!(["done", "retry", "dead"].map(|it| metrics.value(&attempts(it))), [Some(1.0), Some(1.0), Some(1.0)]);
    assert!(metrics.value("unifaas_inbox_size_bytes") > Some(0.0));
}
