//! Containers that are not where they are expected: without an address, at another address or port.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
};

use futures::{future::join_all, join};
use integration::{AT_ONCE, Daemon, contained, ms, number};
use serde_json::Value;
use tempfile::TempDir;

use crate::{BOOT_TIMEOUT, shared};

/// Serves `200 OK` on a port of the host, on loopback and on all other addresses.
fn serve_on_host() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).read(&mut [0; 4096]);
            let _ = (&stream)
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\na private answer");
        }
    });
    port
}

#[tokio::test]
async fn service_of_the_host_never_answers_for_an_exited_container() {
    let Some(engine) = shared() else { return };
    let port = serve_on_host();
    let daemon = engine
        .setup()
        .function(contained(
            "gone",
            &["--exit-at-boot", "7"],
            &format!("readiness = \"tcp\"\nport = {port}\nsingle-use = true"),
            "",
        ))
        .start()
        .await;
    for reply in join_all((0..12).map(|_| daemon.get("/invoke/gone/"))).await {
        let problem = reply.problem(502, "boot_failed").to_string();
        assert!(problem.contains("exited with status 7"), "{problem}");
    }
    assert_eq!(daemon.counter("gone", "ok").await, 0);
    engine.none_left("gone").await;
}

/// Passes on every connection to an engine, and renames all addresses in its responses.
fn without_addresses(engine: &Path, proxy: &Path) {
    let listener = UnixListener::bind(proxy).unwrap();
    let engine = engine.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = UnixStream::connect(&engine) else { continue };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pass_on(from, to, false));
            thread::spawn(move || pass_on(server, client, true));
        }
    });
}

const ADDRESS: &[u8] = b"\"IPAddress\"";

fn pass_on(mut from: UnixStream, mut to: UnixStream, renames: bool) {
    let (mut chunk, mut pending) = (vec![0; 64 << 10], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        pending.extend_from_slice(&chunk[..count]);
        while let Some(at) = pending.windows(ADDRESS.len()).position(|window| renames && window == ADDRESS) {
            pending[at + 1] = b'X';
        }
        // The rest of a name may be in the next chunk.
        let split = (1..ADDRESS.len()).rev().find(|length| renames && pending.ends_with(&ADDRESS[..*length]));
        let rest = pending.split_off(pending.len() - split.unwrap_or(0));
        if to.write_all(&std::mem::replace(&mut pending, rest)).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[tokio::test]
async fn running_container_without_address_is_a_failed_start() {
    let Some(engine) = shared() else { return };
    let directory = TempDir::new().unwrap();
    let proxy = directory.path().join("proxy.sock");
    without_addresses(&engine.socket(), &proxy);
    let port = serve_on_host();
    let by_port = format!("readiness = \"tcp\"\nport = {port}\nsingle-use = true");
    let daemon = engine
        .setup()
        .variable("DOCKER_HOST", format!("unix://{}", proxy.display()))
        .function(contained("by-port", &[], &by_port, ""))
        .function(contained("by-callback", &[], "", ""))
        .start()
        .await;
    for function in ["by-port", "by-callback"] {
        let path = format!("/invoke/{function}/pid");
        for reply in join_all((0..3).map(|_| daemon.get(&path))).await {
            let problem = reply.problem(502, "start_failed").to_string();
            assert!(problem.contains("the container runs, but its engine reports no address"), "{problem}");
        }
        assert_eq!(daemon.counter(function, "ok").await, 0);
        engine.none_left(function).await;
    }
}

fn detail(problem: &Value) -> String {
    problem["detail"].as_str().unwrap().to_owned()
}

/// Invokes a function that calls back and is not reached. Returns what the failure says of its listeners.
async fn unreached(daemon: &Daemon, function: &str, starts: u64) -> String {
    let reply = daemon.get(&format!("/invoke/{function}/")).await;
    let said = detail(&reply.problem(502, "boot_failed"));
    assert!(reply.took > ms(950) && reply.took < ms(1000) + AT_ONCE, "{:?}", reply.took);
    assert_eq!(number(&daemon.function(function).await, "instances_started"), starts);
    let rest = said.strip_prefix("the instance called back, but refused connections to 172.");
    rest.and_then(|rest| rest.split_once(":8080; ")).unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

#[tokio::test]
async fn callback_without_reachable_listener_is_one_failed_start() {
    let Some(engine) = shared() else { return };
    let function = |name: &str, env: &str| contained(name, &[], &format!("env = {{ {env} }}"), "");
    let daemon = engine
        .setup()
        .function(function("loopback", "HOST = \"127.0.0.1\""))
        .function(function("elsewhere", "PORT = \"9000\""))
        .start()
        .await;
    let only_itself = "which only its own container reaches, not on 0.0.0.0:8080";
    assert_eq!(unreached(&daemon, "loopback", 1).await, format!("it listens on 127.0.0.1:8080, {only_itself}"));
    for start in 1..=3 {
        let said = unreached(&daemon, "elsewhere", start).await;
        assert!(said.starts_with("it listens on 0.0.0.0:9000: set `port = 9000`"), "{said}");
    }
    assert_eq!(daemon.function("elsewhere").await["state"], "failing");
    let reply = daemon.get("/invoke/elsewhere/").await;
    reply.problem(502, "boot_failed");
    assert!(reply.took < AT_ONCE && reply.retry_after() == 1, "{:?}", reply.took);
    assert_eq!(number(&daemon.function("elsewhere").await, "instances_started"), 3);
    for name in ["loopback", "elsewhere"] {
        engine.none_left(name).await;
    }
}

#[tokio::test]
async fn boot_timeout_says_what_was_seen() {
    let Some(engine) = shared() else { return };
    let silent = |name: &str, top: &str| {
        contained(name, &["--callbacks", "0"], &format!("boot-timeout = {BOOT_TIMEOUT}\n{top}"), "")
    };
    let daemon = engine
        .setup()
        .function(silent("open", ""))
        .function(silent("elsewhere", "env = { PORT = \"9000\" }"))
        .function(silent("by-port", "env = { PORT = \"9000\" }\nreadiness = \"tcp\""))
        .function(silent("by-path", "readiness = { http = \"/status/400\" }"))
        .start()
        .await;
    let said = async |name: &str| detail(&daemon.get(&format!("/invoke/{name}/")).await.problem(504, "boot_timed_out"));
    let advice = "if it needs no callback, set `readiness = \"tcp\"`";
    let (open, elsewhere) = (said("open"), said("elsewhere"));
    let (open, elsewhere, by_port, by_path) = join!(open, elsewhere, said("by-port"), said("by-path"));
    assert!(open.contains("it never called back, but it accepts connections to 172."), "{open}");
    assert!(open.ends_with(advice), "{open}");
    assert!(elsewhere.ends_with(&format!("it never called back; {advice} and `port = 9000`")), "{elsewhere}");
    assert!(by_port.contains("it refused connections to 172."), "{by_port}");
    assert!(by_port.ends_with("it listens on 0.0.0.0:9000: set `port = 9000`"), "{by_port}");
    assert!(
        by_path.contains("it answered GET /status/400 at 172.") && by_path.ends_with("with status 400"),
        "{by_path}"
    );
}

#[tokio::test]
async fn gvisor_is_reached_or_named_by_its_address() {
    let Some(engine) = shared() else { return };
    let runsc = "runtime = \"runsc\"";
    let daemon = engine
        .setup()
        .function(contained("works", &[], "", runsc))
        .function(contained("elsewhere", &[], "env = { PORT = \"9000\" }", runsc))
        .start()
        .await;
    daemon.get("/invoke/works/pid").await.ok();
    let said = detail(&daemon.get("/invoke/elsewhere/").await.problem(502, "boot_failed"));
    assert!(said.starts_with("the instance called back, but refused connections to 172."), "{said}");
    assert_eq!(number(&daemon.function("elsewhere").await, "instances_started"), 1);
}

#[tokio::test]
async fn several_requests_share_one_failed_start() {
    let Some(engine) = shared() else { return };
    let top = "env = { HOST = \"127.0.0.1\" }\nconcurrent-requests = 10";
    let daemon = engine.daemon(contained("shared", &[], top, "")).await;
    for reply in join_all((0..5).map(|_| daemon.get("/invoke/shared/"))).await {
        reply.problem(502, "boot_failed");
    }
    assert_eq!(number(&daemon.function("shared").await, "instances_started"), 1);
}
