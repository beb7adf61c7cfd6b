//! `--metrics-listen`: metrics for every client that can connect, and nothing else.

use std::net::SocketAddr;

use integration::{Connection, Daemon, Function, Reply, Setup, empty, request};

/// Sends a request to the listener for metrics.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&'static str, &'static str)]) -> Reply {
    let mut request = request(method, path, empty());
    for &(name, value) in headers {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    Connection::open(address).await.expect("it listens").send(request).await.expect("an answer")
}

/// Returns where a daemon serves metrics.
async fn metrics_listener(daemon: &Daemon) -> SocketAddr {
    let listen = daemon.debug().await["daemon"]["settings"]["metrics_listen"].take();
    listen.as_str().expect("an address").parse().unwrap()
}

#[tokio::test]
async fn metrics_have_a_listener_for_everyone() {
    let setup = Setup::default().function(Function::new("f")).option("--metrics-listen", "127.0.0.1:0");
    let daemon = setup.option("--admin-listen", "127.0.0.1:0").start().await;
    let at = metrics_listener(&daemon).await;
    daemon.get("/invoke/f/").await.ok();
    // Neither a proxy nor another name of the host matters.
    for headers in [&[][..], &[("x-forwarded-for", "192.0.2.1")], &[("host", "metrics.example")]] {
        let metrics = ask(at, "GET", "/metrics", headers).await.ok();
        assert!(metrics.text().contains(r#"unifaas_requests_total{function="f",outcome="ok"} 1"#), "{headers:?}");
        assert!(metrics.text().contains(r#"unifaas_connections{listener="metrics"} 1"#), "{headers:?}");
    }
    assert_eq!(ask(at, "GET", "/healthz", &[]).await.ok().text(), "ok\n");
    for path in ["/invoke/f/", "/debug", "/debug/summary", "/debug/logs", "/ui/", "/", "/ready/x"] {
        ask(at, "GET", path, &[]).await.problem(404, "no_such_page");
    }
    ask(at, "POST", "/metrics", &[("expect", "100-continue")]).await.problem(404, "no_such_page");
    assert_eq!(daemon.get("/metrics").await.status, 404, "the front shows no admin pages");
}

#[tokio::test]
async fn taken_port_of_metrics_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Setup::default().option("--metrics-listen", &address);
    let error = integration::refusal(setup.command()).await;
    assert!(error.contains(&address) && error.contains("--metrics-listen"), "{error}");
}
