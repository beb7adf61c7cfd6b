//! Processes that are not where they are expected: at another address or port, silent, or ready and gone. Containers are in
//! `containers/reach.rs`, virtual machines in `vm/reach.rs`.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use integration::{AT_ONCE, Daemon, Function, Home, Reply, SOON, Setup, eventually, ms, number, tools::public_program};
use serde_json::Value;

/// Returns a port at which nothing listens.
fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn detail(problem: &Value) -> String {
    problem["detail"].as_str().unwrap().to_owned()
}

/// Checks that `f` has had so many starts, and returns its state.
async fn state_after(daemon: &Daemon, starts: u64) -> String {
    let function = daemon.function("f").await;
    assert_eq!(number(&function, "instances_started"), starts);
    function["state"].as_str().unwrap().to_owned()
}

/// Returns the detail of the boot timeout of `f`.
async fn timed_out(function: Function) -> String {
    let daemon = Daemon::with(function.set("boot-timeout", 1)).await;
    let reply = daemon.get("/invoke/f/").await;
    assert!(reply.took > ms(950) && reply.took < ms(1000) + AT_ONCE, "{:?}", reply.took);
    let said = detail(&reply.problem(504, "boot_timed_out"));
    said.strip_prefix("the instance was not ready within 1.000 s: it ").unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[tokio::test]
async fn process_on_ipv6_loopback_is_reached() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: there is no IPv6");
        return;
    }
    for readiness in ["\"callback\"", "\"tcp\"", "{ http = \"/status/200\" }"] {
        let daemon = Daemon::with(Function::new("f").set("readiness", readiness).env("HOST", "[::1]")).await;
        for _ in 0..3 {
            daemon.get("/invoke/f/pid").await.ok();
        }
        assert_eq!(state_after(&daemon, 1).await, "serving");
        let instances = daemon.instances("f").await;
        let address: SocketAddr = instances[0]["address"].as_str().unwrap().parse().unwrap();
        assert!(address.is_ipv6(), "{address}");
    }
}

#[tokio::test]
async fn port_of_another_server_on_ipv6_is_not_leased() {
    // An instance that does not listen yet must not be answered for by that server.
    let daemon = Daemon::with(Function::new("f").set("single-use", true)).await;
    let port = |reply: Reply| reply.ok().text().parse::<u16>().unwrap();
    let first = port(daemon.get("/invoke/f/env?name=PORT").await);
    let range: Vec<_> = (first..first + 40).filter_map(|port| TcpListener::bind(("::1", port)).ok()).collect();
    let taken: Vec<u16> = range.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    for _ in 0..20 {
        let leased = port(daemon.get("/invoke/f/env?name=PORT").await);
        assert!(!taken.contains(&leased), "{leased} is taken on ::1");
    }
}

#[tokio::test]
async fn callback_without_listener_at_its_port_is_one_failed_start() {
    let port = unused_port();
    let daemon =
        Daemon::with(Function::new("f").env("PORT", &port.to_string()).flag("--say").flag("at your service")).await;
    for start in 1..=3 {
        let reply = daemon.get("/invoke/f/").await;
        let problem = reply.problem(502, "boot_failed");
        let said = detail(&problem);
        assert!(said.starts_with("the instance called back, but refused connections to 127.0.0.1:"), "{said}");
        assert!(said.contains(&format!("it listens on 127.0.0.1:{port}, not on 127.0.0.1:")), "{said}");
        assert!(said.contains("`PORT`, `%ip`, `%port`"), "{said}");
        assert!(problem["output"].to_string().contains("at your service"), "{problem}");
        assert!(reply.took > ms(950) && reply.took < ms(1000) + AT_ONCE, "{:?}", reply.took);
        let expected = if start < 3 { "serving" } else { "failing" };
        assert_eq!(state_after(&daemon, start).await, expected);
        // The next instance listens there as well.
        let is_free = async || TcpListener::bind(("127.0.0.1", port)).is_ok();
        eventually(SOON, "the instance is gone from its port", is_free, |is_free| *is_free).await;
    }
    let reply = daemon.get("/invoke/f/").await;
    reply.problem(502, "boot_failed");
    assert!(reply.took < AT_ONCE && reply.retry_after() == 1, "{:?}", reply.took);
    assert_eq!(state_after(&daemon, 3).await, "failing");
}

#[tokio::test]
async fn callback_long_before_listening_is_a_failed_start() {
    let daemon = Daemon::with(Function::new("f").flag("--listen-delay").flag("60000")).await;
    let said = detail(&daemon.get("/invoke/f/").await.problem(502, "boot_failed"));
    assert!(said.contains("it has to listen on port"), "{said}");
    assert_eq!(state_after(&daemon, 1).await, "serving");
}

#[tokio::test]
async fn boot_timeout_without_callback_names_what_would_do() {
    let silent = || Function::new("f").flag("--callbacks").flag("0");
    let advice = "if it needs no callback, set `readiness = \"tcp\"`";
    let said = timed_out(silent().flag("--boot-delay").flag("60000")).await;
    assert_eq!(said, format!("never called back; {advice}"));
    let said = timed_out(silent()).await;
    assert!(said.starts_with("never called back, but it accepts connections to 127.0.0.1:"), "{said}");
    assert!(said.ends_with(advice), "{said}");
}

#[tokio::test]
async fn boot_timeout_says_what_the_probe_saw() {
    let port = unused_port();
    let elsewhere = || Function::new("f").env("PORT", &port.to_string());
    let said = timed_out(elsewhere().flag("--callbacks").flag("0").set("readiness", "\"tcp\"")).await;
    assert!(said.starts_with("refused connections to 127.0.0.1:"), "{said}");
    assert!(said.contains(&format!("it listens on 127.0.0.1:{port}")), "{said}");

    let healthz = |path: &str| {
        let function = Function::new("f").flag("--callbacks").flag("0");
        timed_out(function.set("readiness", format!("{{ http = \"{path}\" }}")))
    };
    let said = healthz("/status/400").await;
    assert!(said.starts_with("answered GET /status/400 at 127.0.0.1:") && said.ends_with("with status 400"), "{said}");
    let said = healthz("/garbage").await;
    assert!(said.starts_with("did not answer GET /garbage at") && said.ends_with("in HTTP"), "{said}");
    let said = healthz("/mute").await;
    assert!(said.starts_with("closed connections to") && said.ends_with("without a response"), "{said}");
}

#[tokio::test]
async fn minimum_that_ends_as_soon_as_it_is_ready_is_a_failing_function() {
    let function = Function::new("f").set("min-instances", 1).flag("--exit-after-callback").flag("7");
    let daemon = Daemon::with(function).await;
    daemon.settled("f", "it is failing", |function| function["state"] == "failing").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let function = daemon.function("f").await;
    assert!(number(&function, "instances_started") <= 5, "{function}");
    // Between the callback and the exit of another start the function counts as recovered.
    let names_exit = |function: &Value| function["failing"]["error"].to_string().contains("exited with status 7");
    daemon.settled("f", "its error names the exit", names_exit).await;
}

/// A server that accepts one connection, answers its requests, and prints without flushing.
const ONE_CONNECTION: &str = r#"
import os, socket, sys, urllib.request
listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
if len(sys.argv) > 1:
    urllib.request.urlopen(sys.argv[1]).close()
print("waiting for a connection")
connection, _ = listener.accept()
listener.close()
while connection.recv(65536):
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none")
"#;

/// Starts a daemon with that server, called with these arguments.
async fn one_connection(home: &Arc<Home>, argument: &str, keys: &str) -> Option<Daemon> {
    let python = public_program("python3")?;
    let script = home.path("one.py");
    fs::write(&script, ONE_CONNECTION).unwrap();
    let mut words = vec![python.display().to_string(), script.display().to_string()];
    words.extend(Some(argument.to_owned()).filter(|word| !word.is_empty()));
    let function = Function::verbatim("f", &format!("{keys}\n[process]\ncommand = {words:?}\n"));
    Some(Setup::at(home).function(function).start().await)
}

#[tokio::test]
async fn instance_gets_no_connection_but_that_of_its_first_request() {
    for (argument, keys) in [("%callback", ""), ("", "readiness = \"tcp\"")] {
        let home = Home::new();
        let Some(daemon) = one_connection(&home, argument, keys).await else { return };
        for _ in 0..3 {
            assert_eq!(daemon.get("/invoke/f/").await.ok().text(), "one");
        }
        assert_eq!(state_after(&daemon, 1).await, "serving");
    }
}

/// Returns whether the instance of `f` has printed that it waits.
async fn is_print_seen(daemon: &Daemon) -> bool {
    daemon.get("/invoke/f/").await.ok();
    daemon.instances("f").await[0]["output"].to_string().contains("waiting for a connection")
}

#[tokio::test]
async fn print_of_python_is_seen_at_once() {
    let home = Home::new();
    let Some(daemon) = one_connection(&home, "%callback", "").await else { return };
    assert!(is_print_seen(&daemon).await);
    let home = Home::new();
    let Some(daemon) = one_connection(&home, "%callback", "env = { PYTHONUNBUFFERED = \"\" }").await else { return };
    assert!(!is_print_seen(&daemon).await, "`[env]` does not win");
}
