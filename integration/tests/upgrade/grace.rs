//! The end of `--upgrade-grace`: requests that the old daemon still serves are ended.

use hyper::HeaderMap;
use integration::{Connection, Function, Http2, Setup, UPGRADE_LIMIT, empty, ms, request, within};

use crate::nothing_is_left;

/// Checks the answer to a request whose instance was ended. If it could be repeated, the ending daemon refuses it.
fn is_ended(status: u16, code: Option<String>) {
    let expected = [(502, "instance_failed"), (503, "draining")];
    assert!(expected.contains(&(status, code.as_deref().unwrap_or_default())), "{status} {code:?}");
}

#[tokio::test]
async fn requests_beyond_the_grace_are_ended_and_logged() {
    let function = Function::new("f").set("concurrent-requests", 2).set("max-instances", 1).set("timeout", 0);
    let setup = Setup::default().option("--upgrade-grace", "3").function(function);
    let mut daemon = setup.start().await;
    daemon.get("/invoke/f/pid").await.ok();
    let mut kept = daemon.connect().await;
    let long = tokio::spawn(async move { kept.send(request("GET", "/invoke/f/sleep?ms=60000", empty())).await });
    let streams = Http2::connect(daemon.listen).await;
    let stream = streams.start("GET", "/invoke/f/sleep?ms=60001", &HeaderMap::new(), true).await.unwrap();
    daemon.settled("f", "both are served", |page| page["instances"][0]["in_flight"] == 2).await;
    let mut queued = Connection::open(daemon.listen).await.unwrap();
    let queued = tokio::spawn(async move { queued.send(request("GET", "/invoke/f/pid", empty())).await });
    daemon.settled("f", "one waits", |page| page["waiting"] == 1).await;

    let new = daemon.upgrade().await;
    let reply = within(UPGRADE_LIMIT, "the end of the grace", long).await.unwrap().unwrap();
    is_ended(reply.status, reply.header("x-unifaas-error"));
    let text = reply.text();
    assert!(reply.status == 503 || text.contains("its time to finish was over"), "{text}");
    assert!(reply.took >= ms(2500), "{:?}", reply.took);
    let (response, _) = stream.response().await.expect("an answer");
    let code = response.headers().get("x-unifaas-error").map(|code| code.to_str().unwrap().to_owned());
    is_ended(response.status().as_u16(), code);
    queued.await.unwrap().unwrap().problem(503, "draining");
    let ending = daemon.ended_within(UPGRADE_LIMIT).await;
    assert_eq!(ending.status.code(), Some(0));
    let line = daemon.logged("the grace is over").await;
    let line = line.lines().find(|line| line.contains("the grace is over")).unwrap();
    assert!(line.contains("\"requests\":2") && line.contains("\"warning\""), "{line}");
    daemon.get("/invoke/f/pid").await.ok();
    drop(new);
    nothing_is_left(&daemon.home).await;
}
