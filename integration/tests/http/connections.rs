//! Connections to instances: when they are kept, when they are stale, and how many there are.
//!
//! Malformed responses are in `malformed.rs`.

use std::{fs, time::Duration};

use futures::future::join_all;
use integration::{
    AT_ONCE, Daemon, Function, Home, Reply, SOON, Setup, body_of, empty, eventually, ms, number, python, request,
    tools::public_program, verbatim,
};
use serde_json::Value;

/// Rounds of each test: the faults came in 21 to 60 of 60.
const ROUNDS: usize = 60;

/// Asserts that `f` had one instance only, and that so many requests failed because of it.
async fn one_instance_failed(daemon: &Daemon, failed: u64) {
    let function = daemon.function("f").await;
    let seen = (number(&function, "instances_started"), number(&function["counters"], "instance_failed"));
    assert_eq!(seen, (1, failed), "instances started, and requests failed because of one: {function}");
    assert!(function["instances"][0]["pid"].is_u64(), "it is still there: {function}");
}

/// Asserts that `f` had one instance only, and that no request failed because of it.
async fn only_one_instance(daemon: &Daemon) {
    one_instance_failed(daemon, 0).await;
}

/// Sends requests to `odd`, each followed by a request to `/pid` over a new connection, which must succeed.
async fn next_clients_are_served(daemon: &Daemon, method: &str, odd: &str, status: u16, rounds: usize) {
    let pid = daemon.get("/invoke/f/pid").await.ok().text();
    let mut wrong = Vec::new();
    for round in 0..rounds {
        let reply = daemon.send(request(method, odd, empty())).await;
        match reply.map(|reply| (reply.status, reply.text())) {
            Ok((found, text)) if found == status && text.is_empty() => {}
            other => wrong.push(format!("round {round}, {method} {odd}: {other:?}")),
        }
        let next = daemon.send(request("GET", "/invoke/f/pid", empty())).await;
        match next.map(|reply| (reply.status, reply.text())) {
            Ok((200, text)) if text == pid => {}
            other => wrong.push(format!("round {round}, the next client: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), 2 * rounds, wrong.join("\n"));
}

#[tokio::test]
async fn body_after_head_from_python_does_not_reach_next_client() {
    let Some(interpreter) = public_program("python3") else { return };
    let home = Home::new();
    let methods = "def do_GET(self):\n    self.answer(b'answer to ' + self.path.encode())\ndo_HEAD = do_GET\n";
    let function = python(&interpreter, &home, "f", "ThreadingHTTPServer", methods, "max-instances = 1\n");
    let daemon = Setup::at(&home).function(function).start().await;
    let mut wrong = Vec::new();
    for round in 0..ROUNDS {
        let head = daemon.send(request("HEAD", &format!("/invoke/f/head/{round}"), empty())).await;
        match head.map(|reply| (reply.status, reply.text())) {
            Ok((200, text)) if text.is_empty() => {}
            other => wrong.push(format!("round {round}, HEAD: {other:?}")),
        }
        let expected = format!("answer to /get/{round}");
        let next = daemon.send(request("GET", &format!("/invoke/f/get/{round}"), empty())).await;
        match next.map(|reply| (reply.status, reply.text())) {
            Ok((200, text)) if text == expected => {}
            other => wrong.push(format!("round {round}, GET: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), 2 * ROUNDS, wrong.join("\n"));
    only_one_instance(&daemon).await;
}

/// Returns a response head and a forbidden body, in both framings.
fn with_body(status: &str) -> [[String; 2]; 2] {
    let lengths = ["Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"];
    let bodies = ["hello", "5\r\nhello\r\n0\r\n\r\n"];
    [0, 1].map(|n| [format!("HTTP/1.1 {status}\r\n{}", lengths[n]), bodies[n].to_owned()])
}

/// Checks forbidden bodies: in the same write as the head, in the next write, and 5 ms later. By then the connection may
/// serve another request.
async fn check_forbidden_bodies(method: &str, line: &str) {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let status = line[..3].parse().unwrap();
    for pieces in with_body(line) {
        let separate = [pieces[0].as_str(), pieces[1].as_str()];
        let joined = pieces.concat();
        let apart = |ms| verbatim("f", &separate, ms, "keep");
        for path in [verbatim("f", &[joined.as_str()], 0, "keep"), apart(0), apart(5)] {
            next_clients_are_served(&daemon, method, &path, status, ROUNDS / 6).await;
        }
    }
    only_one_instance(&daemon).await;
}

#[tokio::test]
async fn body_after_head_does_not_reach_next_client() {
    check_forbidden_bodies("HEAD", "200 OK").await;
}

#[tokio::test]
async fn body_after_204_does_not_reach_next_client() {
    check_forbidden_bodies("GET", "204 No Content").await;
}

#[tokio::test]
async fn body_after_304_does_not_reach_next_client() {
    check_forbidden_bodies("GET", "304 Not Modified").await;
}

#[tokio::test]
async fn bytes_after_complete_response_do_not_reach_next_client() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let (answer, more) =
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad");
    let path = verbatim("f", &[&format!("{answer}{more}")], 0, "keep");
    next_clients_are_served(&daemon, "GET", &path, 200, ROUNDS).await;
    only_one_instance(&daemon).await;
}

/// The kernel acknowledges data that waits for about so long. A POST that a busy function does not read in that time is not
/// provably unread. Later POSTs avoid kept connections of this instance, so that this can happen once.
const ACKNOWLEDGED_AFTER: Duration = ms(40);

fn is_unprovable(method: &str, reply: &Reply) -> bool {
    (method, reply.status) == ("POST", 502) && reply.took >= ACKNOWLEDGED_AFTER
}

/// Sends requests back to back to a function that closes its connection some milliseconds after each response.
async fn check_closing_function(method: &str, milliseconds: u64) {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let path = verbatim("f", &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], milliseconds, "close");
    let mut connection = daemon.connect().await;
    let (mut wrong, mut unprovable) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let body = if method == "POST" { body_of(format!("body {round}")) } else { empty() };
        match connection.send(request(method, &path, body)).await {
            Ok(reply) if (reply.status, reply.text().as_str()) == (200, "ok") => {}
            Ok(reply) if is_unprovable(method, &reply) && unprovable == 0 => unprovable += 1,
            Ok(reply) => wrong.push(format!("round {round}: {} {} after {:?}", reply.status, reply.text(), reply.took)),
            Err(error) => {
                wrong.push(format!("round {round}: {error:?}"));
                connection = daemon.connect().await;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {ROUNDS} wrong:\n{}", wrong.len(), wrong.join("\n"));
    one_instance_failed(&daemon, unprovable).await;
}

#[tokio::test]
async fn gets_survive_connection_closed_at_once() {
    check_closing_function("GET", 0).await;
}

#[tokio::test]
async fn gets_survive_connection_closed_after_1_ms() {
    check_closing_function("GET", 1).await;
}

#[tokio::test]
async fn gets_survive_connection_closed_after_5_ms() {
    check_closing_function("GET", 5).await;
}

#[tokio::test]
async fn posts_survive_connection_closed_at_once() {
    check_closing_function("POST", 0).await;
}

#[tokio::test]
async fn posts_survive_connection_closed_after_1_ms() {
    check_closing_function("POST", 1).await;
}

#[tokio::test]
async fn posts_survive_connection_closed_after_5_ms() {
    check_closing_function("POST", 5).await;
}

#[tokio::test]
async fn post_read_on_kept_connection_fails_without_ending_instance() {
    // The function reads the second request of a connection and closes the connection.
    let daemon = Daemon::with(Function::new("f").flag("--forgetful").set("max-instances", 1)).await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let reply = daemon.post("/invoke/f/received", "four").await;
        match reply.status {
            200 => assert_eq!(reply.text(), "4"),
            _ => drop(reply.problem(502, "instance_failed")),
        }
        statuses.push(reply.status);
    }
    assert!(statuses.contains(&200), "{statuses:?}");
    assert_eq!(number(&daemon.function("f").await, "instances_started"), 1, "{statuses:?}");
}

#[tokio::test]
async fn reset_of_idle_connection_does_not_end_instance() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    for milliseconds in [1, 5] {
        let path = verbatim("f", &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], milliseconds, "reset");
        for _ in 0..ROUNDS / 2 {
            assert_eq!(daemon.get(&path).await.ok().text(), "ok");
        }
    }
    only_one_instance(&daemon).await;
}

/// Sends requests of sequential clients to a single-threaded HTTP/1.1 server. Clients close their connections or keep them.
async fn check_single_threaded_server(keep: bool) {
    let Some(interpreter) = public_program("python3") else { return };
    let home = Home::new();
    let methods = "def do_GET(self):\n    self.answer(b'answer to ' + self.path.encode())\n";
    let keys = "max-instances = 1\nconcurrent-requests = 1\n";
    let function = python(&interpreter, &home, "f", "HTTPServer", methods, keys);
    let daemon = Setup::at(&home).function(function).start().await;
    daemon.get("/invoke/f/first").await.ok();
    let (mut times, mut kept) = (Vec::new(), Vec::new());
    for n in 0..30 {
        let mut connection = daemon.connect().await;
        let reply = connection.send(request("GET", &format!("/invoke/f/{n}"), empty())).await.unwrap().ok();
        assert_eq!(reply.text(), format!("answer to /{n}"));
        times.push(reply.took);
        assert!(reply.took < AT_ONCE, "client {n} waited: {times:?}");
        if keep {
            kept.push(connection);
        }
    }
    let slow = times.iter().filter(|time| **time > ms(500)).count();
    // Tolerates a busy machine: the idle connection of another worker would cost seconds.
    assert!(slow <= 3, "{slow} of {} took longer than 500 ms: {times:?}", times.len());
    only_one_instance(&daemon).await;
}

#[tokio::test]
async fn single_threaded_server_answers_sequential_clients_at_once() {
    check_single_threaded_server(false).await;
}

#[tokio::test]
async fn single_threaded_server_answers_idle_clients_at_once() {
    check_single_threaded_server(true).await;
}

/// Returns the number of established connections to a port of 127.0.0.1.
fn connections_to(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("the table of connections");
    let remote = format!("0100007F:{port:04X}");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields.get(2) == Some(&remote.as_str()) && fields.get(3) == Some(&"01")).count()
}

#[tokio::test]
async fn instance_has_no_more_connections_than_slots() {
    const SLOTS: usize = 3;
    let function = Function::new("f").set("concurrent-requests", SLOTS).set("max-instances", 1).set("queue", 1000);
    let daemon = Daemon::with(function).await;
    daemon.get("/invoke/f/pid").await.ok();
    let address = daemon.instances("f").await[0]["address"].clone();
    let port: u16 = address.as_str().and_then(|address| address.rsplit(':').next()?.parse().ok()).expect("a port");
    for _ in 0..5 {
        join_all((0..40).map(|_| daemon.get("/invoke/f/sleep?ms=5")))
            .await
            .into_iter()
            .for_each(|reply| drop(reply.ok()));
        let most = daemon.get("/invoke/f/in-flight-max").await.ok().text();
        assert!(most.parse::<usize>().unwrap() <= SLOTS, "{most} requests at once");
        let what = "no more connections than slots";
        eventually(SOON, what, async || connections_to(port), |count| *count <= SLOTS).await;
    }
    let function = daemon.function("f").await;
    assert_eq!(function["instances"].as_array().map(Vec::len), Some(1), "{function}");
    assert_ne!(function["instances"][0]["pid"], Value::Null);
}
