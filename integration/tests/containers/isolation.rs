//! Isolation of containers: they reach their callback, and nothing else of the daemon.

use std::process::Command;

use integration::{Connection, Daemon, callback_url, contained, empty, request};

use crate::shared;

/// Returns the response that a container gets from an address.
async fn answer_at(daemon: &Daemon, function: &str, address: &str, path: &str) -> String {
    let ask = format!("/invoke/{function}/ask?addr={address}&host=localhost&path={path}");
    daemon.get(&ask).await.ok().text()
}

/// Returns whether there was no response at all.
fn is_no_answer(answer: &str) -> bool {
    ["nothing", "ConnectionReset", "ConnectionRefused", "timeout", "HostUnreachable", "NetworkUnreachable"]
        .contains(&answer)
}

async fn address_of(daemon: &Daemon, function: &str) -> String {
    let instances = daemon.instances(function).await;
    instances[0]["address"].as_str().expect("an address").split(':').next().unwrap().to_owned()
}

#[tokio::test]
async fn container_reaches_only_its_callback() {
    let Some(engine) = shared() else { return };
    // Another address of this host.
    let added = Command::new("ip").args(["addr", "add", "192.0.2.7/32", "dev", "lo"]).status();
    assert!(added.is_ok_and(|status| status.success()));
    let setup = engine.setup().option("--listen", "0.0.0.0:0").option("--admin-listen", "0.0.0.0:0");
    let daemon = setup.function(contained("inside", &[], "", "")).start().await;
    let (front, admin, callback) = (daemon.listen.port(), daemon.admin.unwrap().port(), daemon.callback.port());
    let url = daemon.get("/invoke/inside/callback").await.ok().text();
    let gateway = url.strip_prefix("http://").unwrap().split(':').next().unwrap().to_owned();
    let answer = answer_at(&daemon, "inside", &format!("{gateway}:{callback}"), "/ready/x").await;
    assert_eq!(answer, "HTTP/1.1 404 Not Found", "the positive control failed");
    for host in [gateway.as_str(), "192.0.2.7"] {
        for (port, path) in [(front, "/healthz"), (front, "/invoke/inside/pid"), (front, "/debug"), (admin, "/debug")] {
            let answer = answer_at(&daemon, "inside", &format!("{host}:{port}"), path).await;
            assert!(is_no_answer(&answer), "{answer:?} at {host}:{port}{path}");
        }
        assert_eq!(
            answer_at(&daemon, "inside", &format!("{host}:{callback}"), "/debug").await,
            "HTTP/1.1 404 Not Found"
        );
    }
    daemon.logged("the listener does not serve its address").await;
    // Local clients are served at the same addresses.
    let mut other = Connection::open(format!("192.0.2.7:{front}").parse().unwrap()).await.unwrap();
    other.send(request("GET", "/healthz", empty())).await.unwrap().ok();
    let removed = Command::new("ip").args(["addr", "del", "192.0.2.7/32", "dev", "lo"]).status();
    assert!(removed.is_ok_and(|status| status.success()));
}

#[tokio::test]
async fn callback_of_another_container_is_rejected() {
    let Some(engine) = shared() else { return };
    let daemon = engine
        .setup()
        .function(contained("waits", &["--callbacks", "0"], "", ""))
        .function(contained("meddles", &[], "", ""))
        .start()
        .await;
    let mut waiter = daemon.connect().await;
    let waits = tokio::spawn(async move { waiter.send(request("GET", "/invoke/waits/pid", empty())).await });
    daemon.until("waits", "booting", 1).await;
    let address = format!("{}:8080", address_of(&daemon, "waits").await);
    let url = callback_url(address.parse().unwrap()).await;
    let other = daemon.get(&format!("/invoke/meddles/callback/other?url={url}")).await.ok();
    assert_eq!(other.text(), "403");
    assert_eq!(daemon.until("waits", "booting", 1).await["callbacks_refused"], 1);
    let mut itself = Connection::open(address.parse().unwrap()).await.unwrap();
    let own = itself.send(request("GET", &format!("/callback/other?url={url}"), empty())).await.unwrap();
    assert_eq!(own.text(), "200");
    waits.await.unwrap().unwrap().ok();
}
