//! What is accepted, what is refused, and what is shown.

use integration::{Daemon, Function, Setup, body_of, empty, eventually, ms, request, within};
use serde_json::json;

#[tokio::test]
async fn an_accepted_request_reaches_the_function_as_it_was_sent() {
    let daemon = Daemon::with(Function::new("f")).await;
    let reply = daemon.enqueue("/f/headers?q=1", "hello", &[("x-own", "a"), ("idempotency-key", "k-1")]).await;
    assert_eq!((reply.status, &reply.json()["function"]), (202, &json!("f")));
    let id = reply.header("x-unifaas-invocation").unwrap();
    let ended = daemon.ended_invocation(&id).await;
    assert_eq!((&ended["state"], &ended["status"], &ended["attempts"]), (&json!("done"), &json!(200), &json!(1)));
    let response = daemon.get(&format!("/invocations/{id}/response")).await.ok();
    let seen = response.text().to_lowercase();
    for line in [
        "post /headers?q=1 http/1.1",
        "x-own: a",
        "content-length: 5",
        &format!("x-unifaas-invocation: {id}"),
        "x-unifaas-attempt: 1",
        "idempotency-key: k-1",
    ] {
        assert!(seen.contains(line), "no {line:?} in {seen}");
    }
    assert_eq!(daemon.counter("f", "ok").await, 1, "it is counted like any request");
}

#[tokio::test]
async fn a_client_waits_for_the_end_if_it_prefers_to() {
    let daemon = Daemon::with(Function::new("f")).await;
    let id = daemon.accepted("/f/sleep?ms=700", "", &[]).await;
    daemon.get(&format!("/invocations/{id}/response")).await.problem(409, "not_finished");
    let mut wait = request("GET", &format!("/invocations/{id}"), empty());
    wait.headers_mut().insert("prefer", "wait=30".parse().unwrap());
    let reply = within(ms(30_000), "the end", daemon.send(wait)).await.unwrap().ok();
    assert_eq!(
        (reply.json()["state"].as_str(), reply.header("preference-applied")),
        (Some("done"), Some("wait".into()))
    );
    let mut short = request("GET", "/invocations/00000000000000000000000000000000", empty());
    short.headers_mut().insert("prefer", "wait=30".parse().unwrap());
    daemon.send(short).await.unwrap().problem(404, "no_such_invocation");
}

#[tokio::test]
async fn what_cannot_be_accepted_is_refused_and_nothing_is_stored() {
    let home_of = Setup::default()
        .function(Function::new("f").asynchronous("max-body", 0.001).asynchronous("queue", 1))
        .function(Function::new("off").asynchronous("allow", false))
        .function(Function::verbatim("broken", "nonsense"));
    let daemon = home_of.start().await;
    daemon.enqueue("/nobody/", "", &[]).await.problem(404, "no_such_function");
    daemon.enqueue("/broken/", "", &[]).await.problem(500, "function_misconfigured");
    daemon.enqueue("/off/", "", &[]).await.problem(403, "async_not_allowed");
    daemon.enqueue("/f/", &"x".repeat(2000), &[]).await.problem(413, "body_too_large");
    daemon.enqueue("/f/", "", &[("x-callback-url", "http://a/")]).await.problem(403, "callback_not_allowed");
    for (name, value) in [("x-unifaas-delay", "-1"), ("x-unifaas-max-age", "x"), ("idempotency-key", "a b")] {
        let problem = daemon.enqueue("/f/", "", &[(name, value)]).await.problem(400, "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
    }
    daemon.get("/invocations/x").await.problem(404, "no_such_invocation");
    daemon.get("/invocations/x/y").await.problem(404, "no_such_page");
    let post = request("POST", "/invocations/x", empty());
    daemon.send(post).await.unwrap().problem(405, "method_not_allowed");
    let unknown = "/invocations/0123456789abcdef0123456789abcdef";
    daemon.get(unknown).await.problem(404, "no_such_invocation");
    daemon.get(&format!("{unknown}/response")).await.problem(404, "no_such_invocation");
    let delete = request("DELETE", unknown, empty());
    daemon.send(delete).await.unwrap().problem(404, "no_such_invocation");
    assert!(!daemon.home.path("state").join("inbox.db").exists(), "nothing was stored, so there is no database");
    assert_eq!(daemon.debug().await["daemon"]["inbox"]["is_open"], false);
    daemon.accepted("/f/sleep?ms=20000", "", &[]).await;
    let full = daemon.enqueue("/f/", "", &[]).await;
    full.problem(429, "inbox_full");
    assert!(full.retry_after() >= 1);
    assert_eq!(daemon.debug().await["daemon"]["inbox"]["is_open"], true);
}

#[tokio::test]
async fn the_same_key_gives_the_same_invocation() {
    let daemon = Daemon::with(Function::new("f")).await;
    let key = [("idempotency-key", "order-7")];
    let id = daemon.accepted("/f/pid", "one", &key).await;
    let again = daemon.enqueue("/f/pid", "one", &key).await;
    assert_eq!((again.status, again.header("x-unifaas-invocation")), (202, Some(id.clone())));
    assert_eq!(again.header("x-unifaas-duplicate").as_deref(), Some("1"));
    daemon.enqueue("/f/pid", "two", &key).await.problem(422, "idempotency_key_reused");
    daemon.ended_invocation(&id).await;
    let after = daemon.enqueue("/f/pid", "one", &key).await;
    assert_eq!(after.header("x-unifaas-invocation"), Some(id), "the result is kept with its key");
    assert_eq!(daemon.counter("f", "ok").await, 1);
}

#[tokio::test]
async fn what_has_not_begun_is_cancelled_and_what_has_ended_is_forgotten() {
    let daemon = Daemon::with(Function::new("f")).await;
    let delete = async |id: &str| daemon.send(request("DELETE", &format!("/invocations/{id}"), empty())).await.unwrap();
    let waiting = daemon.accepted("/f/pid", "", &[("x-unifaas-delay", "600")]).await;
    assert_eq!(daemon.invocation(&waiting).await["state"], "queued");
    assert_eq!(delete(&waiting).await.status, 204);
    daemon.get(&format!("/invocations/{waiting}")).await.problem(404, "no_such_invocation");
    let running = daemon.accepted("/f/sleep?ms=1500", "", &[]).await;
    let is_running = async || daemon.invocation(&running).await["state"].clone();
    eventually(ms(20_000), "it runs", is_running, |state| state == "running").await;
    delete(&running).await.problem(409, "not_finished");
    daemon.ended_invocation(&running).await;
    assert_eq!(delete(&running).await.status, 204);
    delete(&running).await.problem(404, "no_such_invocation");
}

#[tokio::test]
async fn a_large_response_is_not_kept_and_its_status_is() {
    let daemon = Daemon::with(Function::new("f").asynchronous("max-response", 0.001)).await;
    let id = daemon.accepted("/f/bytes?n=5000", "", &[]).await;
    assert_eq!(daemon.ended_invocation(&id).await["status"], 200);
    daemon.get(&format!("/invocations/{id}/response")).await.problem(410, "response_gone");
}

#[tokio::test]
async fn a_withheld_body_is_asked_for_once_it_is_wanted() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut expects = request("POST", "/async/f/received", body_of("x".repeat(1000)));
    expects.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let reply = daemon.send(expects).await.unwrap();
    assert_eq!(reply.status, 202, "{}", reply.text());
    let id = reply.header("x-unifaas-invocation").unwrap();
    daemon.ended_invocation(&id).await;
    assert_eq!(daemon.get(&format!("/invocations/{id}/response")).await.ok().text(), "1000");
}
