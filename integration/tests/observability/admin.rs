//! Access to the admin pages, and to each listener.
//!
//! Attempts from containers are in `containers/isolation.rs`, those from virtual machines in `vm/isolation.rs`.

use std::net::SocketAddr;

use integration::{
    AT_ONCE, Connection, Daemon, End, Function, Raw, Reply, Setup, empty, eventually, ms, number, request,
    vm::{add_interface, isolated},
};
use nix::unistd::geteuid;
use tokio::net::TcpSocket;

const PAGES: [&str; 4] = ["/debug", "/debug/", "/debug/functions/f", "/metrics"];

/// Requests a page with additional headers.
async fn asked(at: SocketAddr, path: &str, fields: &[(&'static str, &str)]) -> Reply {
    let mut request = request("GET", path, empty());
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    Connection::open(at).await.unwrap().send(request).await.unwrap()
}

/// Connects to `to` from an address of this host.
async fn from(source: &str, to: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    Raw::over(socket.connect(to).await.unwrap())
}

#[tokio::test]
async fn admin_pages_are_hidden_from_proxied_and_rebound_requests() {
    let daemon = Setup::default().function(Function::new("f")).start().await;
    let at = daemon.listen;
    for host in ["localhost", "localhost:8123", "127.0.0.1", "[::1]:1", "LOCALHOST"] {
        assert_eq!(asked(at, "/debug", &[("host", host)]).await.status, 200, "{host}");
    }
    // A foreign name that resolves to this host (DNS rebinding), and each header of a proxy.
    for fields in [
        ("host", "evil.example"),
        ("host", "evil.example:8123"),
        ("host", "127.0.0.1.evil.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("via", "1.1 proxy"),
        ("x-forwarded-host", "localhost"),
    ] {
        for page in PAGES {
            asked(at, page, &[fields]).await.problem(404, "no_such_page");
        }
        assert_eq!(asked(at, "/healthz", &[fields]).await.status, 200, "the health page is public");
        assert_eq!(asked(at, "/invoke/f/pid", &[fields]).await.status, 200, "functions are public");
    }
}

#[tokio::test]
async fn loopback_admin_listener_hides_pages_from_proxied_requests() {
    let daemon = Setup::default().option("--admin-listen", "127.0.0.1:0").function(Function::new("f")).start().await;
    let admin = daemon.admin.unwrap();
    assert_eq!(asked(admin, "/debug", &[]).await.status, 200);
    asked(admin, "/debug", &[("host", "evil.example")]).await.problem(404, "no_such_page");
    asked(admin, "/debug", &[("x-forwarded-for", "127.0.0.1")]).await.problem(404, "no_such_page");
    for page in PAGES {
        asked(daemon.listen, page, &[]).await.problem(404, "no_such_page");
    }
}

#[tokio::test]
async fn admin_pages_are_hidden_from_processes_of_function_users() {
    if !geteuid().is_root() {
        return;
    }
    let daemon = Setup::default().function(Function::new("f")).start().await;
    let ask = |path: &str| format!("/invoke/f/ask?addr={}&host=localhost&path={path}", daemon.listen);
    for page in PAGES {
        assert_eq!(daemon.get(&ask(page)).await.ok().text(), "HTTP/1.1 404 Not Found", "{page}");
    }
    assert_eq!(daemon.get(&ask("/healthz")).await.ok().text(), "HTTP/1.1 200 OK", "or nothing was shown");
    daemon.debug().await;
}

#[test]
fn public_admin_listener_serves_other_hosts() {
    isolated(|| async {
        add_interface("lan", "192.0.2.7/24");
        let open = |setup: Setup| setup.option("--listen", "0.0.0.0:0").function(Function::new("f"));
        let at = |address: SocketAddr| SocketAddr::new("192.0.2.7".parse().unwrap(), address.port());
        let closed = open(Setup::default()).start().await;
        for page in PAGES {
            asked(at(closed.listen), page, &[]).await.problem(404, "no_such_page");
            asked(at(closed.listen), page, &[("x-forwarded-for", "127.0.0.1")]).await.problem(404, "no_such_page");
        }
        asked(at(closed.listen), "/invoke/f/pid", &[]).await.ok();
        let asked_for = open(Setup::default()).option("--admin-listen", "0.0.0.0:0").start().await;
        let admin = at(asked_for.admin.unwrap());
        for fields in [&[][..], &[("host", "box.lan")], &[("x-forwarded-for", "203.0.113.9")]] {
            assert_eq!(asked(admin, "/debug", fields).await.status, 200, "{fields:?}");
        }
    });
}

#[test]
fn callback_listener_closes_foreign_connections() {
    isolated(|| async {
        add_interface("lan", "192.0.2.7/24");
        add_interface("wan", "198.51.100.7/24");
        let setup = Setup::default().option("--callback-listen", "0.0.0.0:0").function(Function::new("f"));
        let daemon = setup.start().await;
        let to = SocketAddr::new("192.0.2.7".parse().unwrap(), daemon.callback.port());
        let head = "GET /ready/00000000000000000000000000000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        for _ in 0..20 {
            let mut stranger = from("198.51.100.7", to).await;
            let _ = stranger.send(head).await;
            let (said, end) = stranger.rest(ms(1000)).await;
            assert_eq!((said, end == End::Open), (Vec::new(), false));
        }
        let mut own = from("192.0.2.7", to).await;
        own.send(head).await.unwrap();
        assert_eq!(own.expect_head().await.status, 404, "a function may be on this host");
        assert_eq!(number(&daemon.debug().await["daemon"], "callbacks_refused"), 21);
        let log = daemon.logged("the listener does not serve its address").await;
        assert_eq!(log.matches("the listener does not serve its address").count(), 1, "{log}");
        daemon.get("/invoke/f/pid").await.ok();
    });
}

#[tokio::test]
async fn forged_callbacks_are_counted_and_logged_rarely() {
    let daemon = Daemon::with(Function::new("f").ends_after(0.1)).await;
    let url = daemon.get("/invoke/f/callback").await.ok().text();
    daemon.settled("f", "no instance", |function| function["instances"] == serde_json::json!([])).await;
    let forged = async |n: u64| {
        let mut raw = Raw::connect(daemon.callback).await;
        let head = format!("POST /ready/{n:032x} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        raw.send(head).await.unwrap();
        let status = raw.expect_head().await.status;
        assert_eq!((status, raw.rest(ms(1000)).await.1), (404, End::Closed), "one callback for a connection");
    };
    for round in 0..50 {
        futures::future::join_all((0..20).map(|n| forged(round * 20 + n))).await;
    }
    let log = daemon.log();
    assert!(log.matches("ready callback for no instance").count() <= 2, "{log}");
    assert_eq!(number(&daemon.debug().await["daemon"], "callbacks_refused"), 1000);
    assert!(!log.contains(url.rsplit('/').next().unwrap()));
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn repeated_callbacks_are_logged_once() {
    let daemon = Daemon::with(Function::new("f").flag("--callbacks").flag("30")).await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon.settled("f", "all of them were counted", |function| function["callbacks_refused"] == 29).await;
    let log = daemon.logged("ready callback was refused").await;
    assert_eq!(log.matches("ready callback was refused").count(), 1, "{log}");
}

#[tokio::test]
async fn silent_and_large_callbacks_do_not_block_others() {
    let daemon = Daemon::with(Function::new("f")).await;
    let silent = futures::future::join_all((0..400).map(|_| Raw::connect(daemon.callback))).await;
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    drop(silent);
    for head in [
        format!("GET /ready/{} HTTP/1.1\r\n", "a".repeat(20_000)),
        format!("GET /ready/a HTTP/1.1\r\nX-Long: {}", "l".repeat(20_000)),
    ] {
        let mut raw = Raw::connect(daemon.callback).await;
        let _ = raw.send(head).await;
        let (said, end) = raw.rest(AT_ONCE).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
        assert_ne!(end, End::Open);
    }
    let open = async || integration::processes::descriptors(daemon.pid);
    eventually(ms(8000), "they are closed", open, |open| *open < 100).await;
}

#[tokio::test]
async fn every_listener_refuses_large_heads() {
    let daemon = Setup::default().option("--admin-listen", "127.0.0.1:0").function(Function::new("f")).start().await;
    for (listener, path) in
        [(daemon.listen, "/invoke/f/pid"), (daemon.callback, "/ready/a"), (daemon.admin.unwrap(), "/debug")]
    {
        let long = "l".repeat(1 << 20);
        let many: String = (0..20_000).map(|n| format!("X-Many-{n}: {}\r\n", "m".repeat(40))).collect();
        for head in [
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Long: {long}\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
            format!("GET {path}?{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ] {
            let mut raw = Raw::connect(listener).await;
            let _ = raw.send(&head).await;
            let (said, end) = raw.rest(ms(8000)).await;
            let said = String::from_utf8_lossy(&said).into_owned();
            let is_refusal = ["HTTP/1.1 431", "HTTP/1.1 414", "HTTP/1.1 400"].iter().any(|line| said.starts_with(line));
            assert!(said.is_empty() || is_refusal, "{path}: {said}");
            assert_ne!(end, End::Open, "{path}: {}", head.len());
        }
    }
    daemon.debug().await;
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn pages_are_read_only() {
    let daemon = Setup::default().function(Function::new("f")).start().await;
    for page in ["/debug", "/debug/functions/f", "/healthz"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let reply = daemon.send(request(method, page, empty())).await.unwrap();
            assert!(matches!(reply.status, 404 | 405), "{method} {page}: {}", reply.status);
        }
        daemon.get(page).await.ok();
    }
}
