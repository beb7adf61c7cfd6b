//! The ready callback: accepted once, from the instance itself, and harmless otherwise.

mod noise;

use std::net::SocketAddr;

use integration::{Daemon, End, Function, Raw, Setup, callback_url, empty, ms, number, request};
use tokio::net::TcpSocket;

/// Asks a booting function, at its own port, for its callback URL and returns the path.
async fn callback_path(daemon: &Daemon, function: &str) -> String {
    let booting = daemon.until(function, "booting", 1).await;
    let address: SocketAddr = booting["instances"][0]["address"].as_str().expect("an address").parse().unwrap();
    let url = callback_url(address).await;
    url.strip_prefix(&format!("http://{}", daemon.callback)).expect("a callback at the daemon").to_owned()
}

/// Calls back from a loopback address and returns the status.
async fn call_from(source: &str, to: SocketAddr, method: &str, path: &str) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    let stream = socket.connect(to).await.unwrap();
    let mut raw = Raw::over(stream);
    let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    raw.send(head).await.unwrap();
    raw.expect_head().await.status
}

#[tokio::test]
async fn get_and_post_are_accepted() {
    for method in ["GET", "POST"] {
        let daemon = Daemon::with(Function::new("f").flag("--callback-method").flag(method)).await;
        daemon.get("/invoke/f/pid").await.ok();
        assert!(daemon.instances("f").await[0]["output"].to_string().contains("callback answered 200"));
        assert_eq!(daemon.function("f").await["callbacks_refused"], 0);
    }
}

#[tokio::test]
async fn unknown_token_is_404_and_counted() {
    let daemon = Daemon::with(Function::new("f").flag("--callbacks").flag("0")).await;
    let mut waiter = daemon.connect().await;
    let waits = tokio::spawn(async move { waiter.send(request("GET", "/invoke/f/pid", empty())).await });
    let right = callback_path(&daemon, "f").await;
    let id = daemon.instances("f").await[0]["id"].as_str().expect("an id").to_owned();
    let wrong = [
        "/ready/".to_owned(),
        "/ready/1".to_owned(),
        format!("/ready/{}", "0".repeat(32)),
        format!("/ready/{id}"),
        right.to_uppercase().replace("/READY/", "/ready/"),
        format!("{right}/"),
        format!("{right}0"),
        "/ready/..%2f..".to_owned(),
        format!("/ready/{}", "a".repeat(5000)),
    ];
    for path in &wrong {
        if *path == right {
            continue;
        }
        assert_eq!(call_from("127.0.0.1", daemon.callback, "GET", path).await, 404, "{path}");
    }
    assert!(number(&daemon.debug().await["daemon"], "callbacks_refused") >= 7);
    daemon.until("f", "booting", 1).await;
    assert_eq!(call_from("127.0.0.1", daemon.callback, "GET", &right).await, 200);
    waits.await.unwrap().unwrap().ok();
}

#[tokio::test]
async fn callback_from_foreign_address_is_403() {
    let daemon = Daemon::with(Function::new("f").flag("--callbacks").flag("0")).await;
    let mut waiter = daemon.connect().await;
    let waits = tokio::spawn(async move { waiter.send(request("GET", "/invoke/f/pid", empty())).await });
    let path = callback_path(&daemon, "f").await;
    for method in ["GET", "POST"] {
        assert_eq!(call_from("127.0.0.2", daemon.callback, method, &path).await, 403);
    }
    let function = daemon.until("f", "booting", 1).await;
    assert_eq!(number(&function, "callbacks_refused"), 2);
    assert_eq!(number(&daemon.debug().await["daemon"], "callbacks_refused"), 2);
    assert_eq!(call_from("127.0.0.1", daemon.callback, "POST", &path).await, 200);
    waits.await.unwrap().unwrap().ok();
}

#[tokio::test]
async fn callback_listener_invokes_no_function() {
    let daemon = Setup::default()
        .function(Function::new("f"))
        .function(Function::new("late").flag("--callbacks").flag("0"))
        .option("--admin-listen", "127.0.0.1:0")
        .start()
        .await;
    daemon.get("/invoke/f/pid").await.ok();
    let served = number(&daemon.function("f").await["counters"], "requests");
    for to in [daemon.callback, daemon.admin.expect("an admin listener")] {
        for fields in ["", "Expect: 100-continue\r\n", "Expect: 100-continue\r\nContent-Length: 3\r\n"] {
            let head = format!("POST /invoke/f/pid HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            let mut raw = Raw::request(to, head).await;
            let mut head = raw.expect_head().await;
            if head.status == 100 {
                raw.send("abc").await.unwrap();
                head = raw.expect_head().await;
            }
            assert_eq!(head.status, 404, "{fields}");
        }
    }
    assert_eq!(number(&daemon.function("f").await["counters"], "requests"), served);
    let mut waiter = daemon.connect().await;
    let waits = tokio::spawn(async move { waiter.send(request("GET", "/invoke/late/pid", empty())).await });
    let path = callback_path(&daemon, "late").await;
    let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let mut raw = Raw::request(daemon.callback, head).await;
    assert_eq!(raw.expect_head().await.status, 100);
    raw.send("abc").await.unwrap();
    assert_eq!(raw.expect_head().await.status, 200);
    waits.await.unwrap().unwrap().ok();
}

#[tokio::test]
async fn second_callback_is_409() {
    let daemon = Daemon::with(Function::new("f").flag("--callbacks").flag("2")).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    for _ in 0..3 {
        assert_eq!(daemon.get("/invoke/f/callback/again").await.ok().text(), "409");
    }
    assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
    let function = daemon.function("f").await;
    assert_eq!(number(&function, "callbacks_refused"), 4);
    assert_eq!(number(&function, "instances_started"), 1);
    assert!(function["instances"][0]["output"].to_string().contains("callback answered 409"));
}

#[tokio::test]
async fn callback_after_end_is_404() {
    let daemon = Daemon::with(Function::new("f").ends_after(0.1)).await;
    let url = daemon.get("/invoke/f/callback").await.ok().text();
    let path = url.strip_prefix(&format!("http://{}", daemon.callback)).expect("a callback at the daemon").to_owned();
    daemon.settled("f", "no instance", |function| function["instances"] == serde_json::json!([])).await;
    assert_eq!(call_from("127.0.0.1", daemon.callback, "GET", &path).await, 404);
}

#[tokio::test]
async fn callback_listener_serves_nothing_else() {
    let daemon = Daemon::with(Function::new("f").flag("--callbacks").flag("0").set("boot-timeout", 3)).await;
    for path in ["/invoke/f/pid", "/debug", "/metrics", "/healthz", "/"] {
        let status = call_from("127.0.0.1", daemon.callback, "GET", path).await;
        assert_eq!(status, 404, "{path} at the callback listener");
    }
    let mut waiter = daemon.connect().await;
    let waits = tokio::spawn(async move { waiter.send(request("GET", "/invoke/f/pid", empty())).await });
    let path = callback_path(&daemon, "f").await;
    for method in ["PUT", "DELETE", "OPTIONS"] {
        let status = call_from("127.0.0.1", daemon.callback, method, &path).await;
        assert!(status == 404 || status == 405, "{method}: {status}");
    }
    let status = call_from("127.0.0.1", daemon.listen, "GET", &path).await;
    assert_eq!(status, 404, "callbacks have a listener of their own");
    tokio::time::sleep(ms(100)).await;
    assert_eq!(daemon.instances("f").await[0]["state"], "booting");
    assert_eq!(call_from("127.0.0.1", daemon.callback, "GET", &path).await, 200);
    waits.await.unwrap().unwrap().ok();
}

#[tokio::test]
async fn unknown_callback_paths_and_methods_get_empty_responses() {
    let daemon = Daemon::with(Function::new("f")).await;
    let token = "0".repeat(32);
    let ready = format!("/ready/{token}");
    let unknown = ["/", "/ready", "/readyx", "/invoke/f/pid", "/debug", "/healthz", "/ready%2f"];
    let methods = ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"];
    let cases = unknown.map(|path| ("GET", path, 404)).into_iter();
    for (method, path, status) in cases.chain(methods.map(|method| (method, ready.as_str(), 405))) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let mut raw = Raw::request(daemon.callback, head).await;
        let answer = raw.expect_head().await;
        assert_eq!(answer.status, status, "{method} {path}");
        if status == 405 {
            let allow = answer.text("allow").unwrap_or_default();
            assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
        }
        let (body, end) = raw.rest(ms(2000)).await;
        assert_eq!((body, end), (Vec::new(), End::Closed), "{method} {path}");
    }
    assert_eq!(number(&daemon.debug().await["daemon"], "callbacks_refused"), 0, "none of these was a callback");
}

#[tokio::test]
async fn callback_token_is_not_disclosed() {
    let daemon = Setup::default().option("--log-level", "trace").function(Function::new("f")).start().await;
    let url = daemon.get("/invoke/f/callback").await.ok().text();
    let (_, secret) = url.rsplit_once('/').expect("a path");
    assert!(secret.len() >= 22, "{secret} can be guessed");
    assert!(!daemon.debug().await.to_string().contains(secret));
    assert!(!daemon.log().contains(secret));
}
