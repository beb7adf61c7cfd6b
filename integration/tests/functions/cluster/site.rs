//! Asynchronous invocations that the nodes of a site share: what a node has accepted, any of them shows and runs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use integration::{
    Connection, Daemon, Function, Home, Receiver, Reply, SOON, Setup, UPGRADE_LIMIT, body_of,
    brokers::{Broker, NatsClient, own_address, public_file},
    empty, eventually, ms,
    nodes::{FRONT, Nodes},
    request,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{knows, node, server, settings};

/// A message of a killed node is delivered again after 30 s.
const TAKEN_OVER: Duration = Duration::from_secs(35);

/// Returns a function whose invocations are shared.
pub fn shared() -> Function {
    Function::new("f").set("concurrent-requests", 8).asynchronous("durability", "\"site\"").asynchronous("backoff", 0.1)
}

/// Returns the path of a request that takes so long, and adds the id of its invocation to a file.
pub fn recorded(file: &Path, ms: u64) -> String {
    format!("/f/record?ms={ms}&file={}", file.display())
}

/// Starts a server and two nodes with the function.
async fn two() -> Option<(PathBuf, Arc<Home>, Broker, [Daemon; 2])> {
    let (home, server) = server().await?;
    let [a, b] = [node(&server, "a", [shared()]).await, node(&server, "b", [shared()]).await];
    knows(&b, 1, 1).await;
    let file = public_file(home.path("runs"));
    Some((file, home, server, [a, b]))
}

/// Returns the id of an invocation, which has to be stored there.
async fn accepted(daemon: &Daemon, path: &str, body: &str, stored: &str) -> String {
    let reply = daemon.enqueue(path, body, &[]).await;
    assert_eq!((reply.status, reply.header("x-unifaas-stored").as_deref()), (202, Some(stored)), "{}", reply.text());
    reply.header("x-unifaas-invocation").expect("an id")
}

async fn inbox(daemon: &Daemon) -> Value {
    daemon.get("/debug").await.ok().json()["daemon"]["inbox"].clone()
}

#[tokio::test]
async fn invocation_is_shown_and_forgotten_by_each_node_of_its_site() {
    let Some((file, _home, _server, [a, b])) = two().await else { return };
    let id = accepted(&a, "/f/echo", "work", "site").await;
    let waited = request("GET", &format!("/invocations/{id}"), empty());
    let (mut parts, body) = waited.into_parts();
    parts.headers.insert("prefer", "wait=30".parse().unwrap());
    let shown = b.send(hyper::Request::from_parts(parts, body)).await.unwrap().ok().json();
    assert_eq!((&shown["state"], &shown["stored"], &shown["attempts"]), (&"done".into(), &"site".into(), &1.into()));
    for daemon in [&a, &b] {
        assert_eq!(daemon.invocation(&id).await["state"], "done");
        assert_eq!(daemon.get(&format!("/invocations/{id}/response")).await.ok().text(), "work");
    }
    let removed = b.send(request("DELETE", &format!("/invocations/{id}"), empty())).await.unwrap();
    assert_eq!(removed.status, 204);
    a.get(&format!("/invocations/{id}")).await.problem(404, "no_such_invocation");

    // What is cancelled at one node runs on none.
    let delayed = a.enqueue(&recorded(&file, 0), "", &[("x-unifaas-delay", "2")]).await;
    let id = delayed.header("x-unifaas-invocation").unwrap();
    assert_eq!(b.invocation(&id).await["state"], "queued");
    assert_eq!(b.send(request("DELETE", &format!("/invocations/{id}"), empty())).await.unwrap().status, 204);
    let later = a.enqueue(&recorded(&file, 0), "", &[("x-unifaas-delay", "3")]).await;
    let later = later.header("x-unifaas-invocation").unwrap();
    b.ended_invocation(&later).await;
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), later);
    let counted = inbox(&a).await;
    assert_eq!((&counted["stored_site"], &counted["handed_over"]), (&3.into(), &3.into()), "{counted}");
    assert_eq!(a.metrics().await.value("unifaas_async_stored_total{at=\"site\"}"), Some(3.0));
}

#[tokio::test]
async fn failed_attempts_are_repeated_and_end_as_dead_letter_of_the_site() {
    let Some((_file, _home, _server, [a, b])) = two().await else { return };
    let rejected = accepted(&a, "/f/status/404", "", "site").await;
    let failed = accepted(&b, "/f/status/500", "", "site").await;
    let ended = b.ended_invocation(&rejected).await;
    assert_eq!((&ended["state"], &ended["reason"]), (&"dead".into(), &"rejected".into()), "{ended}");
    let ended = a.ended_invocation(&failed).await;
    assert_eq!((&ended["reason"], &ended["attempts"]), (&"attempts_exhausted".into(), &3.into()), "{ended}");
    // The node that gave one up keeps it, and can run it again.
    let letters = async || {
        let mut letters = Vec::new();
        for daemon in [&a, &b] {
            letters.push(daemon.cli(&["dead", "list"]).await.out);
        }
        letters
    };
    let is_kept = |letters: &Vec<String>| [&rejected, &failed].iter().all(|id| letters.concat().contains(id.as_str()));
    let letters = eventually(SOON, "both are kept", letters, is_kept).await;
    let keeper = if letters[0].contains(&failed) { &a } else { &b };
    keeper.cli(&["dead", "redrive", &failed]).await;
    let again = async || keeper.invocation(&failed).await;
    eventually(SOON, "it dies again", again, |it| it["state"] == "dead" && it["stored"] == "node").await;
}

#[tokio::test]
async fn what_runs_during_an_upgrade_runs_once() {
    let Some((home, server)) = server().await else { return };
    let mut node = node(&server, "a", [shared()]).await;
    let file = public_file(home.path("runs"));
    let id = accepted(&node, &recorded(&file, 3000), "", "site").await;
    let in_flight = async || node.function("f").await["instances"][0]["in_flight"].clone();
    eventually(SOON, "it runs", in_flight, |in_flight| *in_flight == 1).await;
    let successor = node.upgrade().await;
    node.ended_within(UPGRADE_LIMIT).await;
    // The new daemon may be about to open the database.
    let asked = async || node.get(&format!("/invocations/{id}")).await;
    eventually(SOON, "the inbox is there", asked, |reply| reply.status == 200).await;
    let ended = node.ended_invocation(&id).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&"done".into(), &1.into()), "{ended}");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), id);
    drop(successor);
}

#[tokio::test]
async fn idempotency_key_holds_on_all_nodes() {
    let Some((file, _home, _server, [a, b])) = two().await else { return };
    let key = [("idempotency-key", "order-7")];
    let first = a.enqueue(&recorded(&file, 0), "x", &key).await;
    let again = b.enqueue(&recorded(&file, 0), "x", &key).await;
    let id = first.header("x-unifaas-invocation");
    assert_eq!((again.status, again.header("x-unifaas-invocation")), (202, id.clone()));
    assert_eq!(again.header("x-unifaas-duplicate").as_deref(), Some("1"));
    b.enqueue(&recorded(&file, 0), "y", &key).await.problem(422, "idempotency_key_reused");
    a.ended_invocation(&id.unwrap()).await;
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn without_the_server_invocations_stay_on_their_node_and_are_handed_over_later() {
    let Some((file, _home, mut server, [a, b])) = two().await else { return };
    server.end(Signal::SIGTERM);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        ids.push(accepted(&a, &recorded(&file, 0), "", "node").await);
        assert!(began.elapsed() < ms(5_000), "{:?}", began.elapsed());
    }
    let waiting = a.invocation(&ids[0]).await;
    assert_eq!((&waiting["state"], &waiting["stored"]), (&"queued".into(), &"node".into()));
    let asked = b.get(&format!("/invocations/{}", ids[0])).await;
    asked.problem(503, "inbox_unavailable");
    server.start().await;
    for id in &ids {
        let state = async || a.invocation(id).await;
        eventually(SOON, "it is handed over and ends", state, |it| it["state"] == "done" && it["stored"] == "site")
            .await;
        assert_eq!(b.ended_invocation(id).await["state"], "done");
    }
    assert_eq!(inbox(&a).await["handed_over"], 5);
    let runs = fs::read_to_string(&file).unwrap();
    assert_eq!(runs.lines().count(), 5, "{runs}");
}

#[tokio::test]
async fn work_of_a_killed_node_is_done_by_another() {
    let Some((file, _home, _server, [a, b])) = two().await else { return };
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(accepted(&a, &recorded(&file, 300), "", "site").await);
    }
    a.killed().await;
    let killed = Instant::now();
    for id in &ids {
        assert_eq!(b.ended_invocation(id).await["state"], "done");
    }
    assert!(killed.elapsed() < TAKEN_OVER, "{:?}", killed.elapsed());
}

#[tokio::test]
async fn full_queue_and_large_requests_leave_work_on_the_node() {
    let home = Home::new();
    let store = home.path("nats/store");
    let settings = format!("jetstream {{ store_dir: {store:?}, max_file_store: 16M }}");
    let Some(server) = Broker::nats_at(&home, own_address(4222), &settings).await else { return };
    let a = node(&server, "a", [shared().asynchronous("max-body", 4)]).await;
    eventually(SOON, "the node has joined", async || super::cluster(&a).await, |it| it["link"]["state"] == "connected")
        .await;
    // The server takes 1 MiB.
    let large = accepted(&a, "/f/echo", &"x".repeat(2 << 20), "node").await;
    assert_eq!(a.ended_invocation(&large).await["state"], "done");

    let body = "x".repeat(900 << 10);
    let mut places = BTreeMap::<String, usize>::new();
    let mut last = String::new();
    for _ in 0..16 {
        let reply = a.enqueue("/f/echo", &body, &[("x-unifaas-delay", "3600")]).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        *places.entry(reply.header("x-unifaas-stored").unwrap()).or_default() += 1;
        last = reply.header("x-unifaas-invocation").unwrap();
    }
    assert!(places["node"] > 0 && places["site"] > 0, "{places:?}");
    let shown = a.invocation(&last).await;
    assert_eq!((&shown["state"], &shown["stored"]), (&"queued".into(), &"node".into()));
    let why = inbox(&a).await["site_problem"].clone();
    assert!(why.as_str().is_some_and(|why| !why.is_empty()), "{why}");
}

#[tokio::test]
async fn schedule_of_the_cluster_fires_once_on_three_nodes_and_not_without_the_server() {
    let Some((home, mut server)) = server().await else { return };
    let file = public_file(home.path("runs"));
    let path = format!("/record?ms=0&headers=ce-id,x-unifaas-invocation&file={}", file.display());
    let cron = format!("[[cron]]\nat = \"* * * * * *\"\npath = \"{path}\"\nscope = \"cluster\"\nmissed = \"skip\"");
    let scheduled = || Function::new("f").set("concurrent-requests", 8).table(&cron);
    let a = node(&server, "a", [scheduled()]).await;
    let _others = [node(&server, "b", [scheduled()]).await, node(&server, "c", [scheduled()]).await];
    knows(&a, 2, 2).await;
    let events = async || {
        let text = fs::read_to_string(&file).unwrap();
        text.lines().map(|line| line.split_once(' ').expect("an event").0.to_owned()).collect::<Vec<_>>()
    };
    let all = eventually(2 * SOON, "events", events, |events| events.len() >= 8).await;
    let mut distinct = all.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), all.len(), "each instant has run once: {all:?}");

    server.end(Signal::SIGKILL);
    let refused = async || a.get("/debug").await.ok().json()["daemon"]["triggers"]["cron"][0]["refusal"].clone();
    let why = eventually(SOON, "it does not fire", refused, Value::is_string).await;
    assert!(why.as_str().is_some_and(|why| why.contains("no connection to the site's server")), "{why}");
}

#[tokio::test]
async fn node_that_is_cut_off_keeps_what_it_accepts_until_it_is_back() {
    let Some(nodes) = Nodes::start(["a", "c"].map(|node| (node, shared()))).await else { return };
    nodes.enter("c");
    let accepted = async || {
        let mut connection = Connection::open(FRONT).await.expect("the node accepts connections");
        let reply =
            connection.send(request("POST", "/async/f/echo", body_of("work".to_owned()))).await.expect("an answer");
        assert_eq!(reply.status, 202, "{}", reply.text());
        ["x-unifaas-stored", "x-unifaas-invocation"].map(|name| reply.header(name).expect("a header"))
    };
    eventually(SOON, "the site stores it", accepted, |[stored, _]| stored == "site").await;
    nodes.set_link("c", "down");
    let [stored, id] = accepted().await;
    assert_eq!(stored, "node");
    assert_ne!(nodes.get("a", &format!("/invocations/{id}")).status, 200);
    nodes.set_link("c", "up");
    let shown = async || nodes.get("a", &format!("/invocations/{id}"));
    let is_done = |reply: &Reply| reply.status == 200 && reply.json()["state"] == "done";
    eventually(2 * SOON, "the others see its end", shown, is_done).await;
}

#[tokio::test]
async fn server_without_jetstream_does_not_matter_to_functions_that_share_nothing() {
    let home = Home::new();
    let Some(server) = Broker::nats_at(&home, own_address(4222), "").await else { return };
    let a = node(&server, "a", [Function::new("f")]).await;
    eventually(SOON, "the node has joined", async || super::cluster(&a).await, |it| it["link"]["state"] == "connected")
        .await;
    let id = accepted(&a, "/f/status/404", "", "node").await;
    assert_eq!(a.ended_invocation(&id).await["state"], "dead");
    let removed = a.send(request("DELETE", &format!("/invocations/{id}"), empty())).await.unwrap();
    assert_eq!(removed.status, 204, "{}", removed.text());
}

/// Starts a server, a receiver of results, and two nodes that may deliver to it.
async fn delivering() -> Option<(Receiver, Arc<Home>, Broker, [Daemon; 2])> {
    let (home, server) = server().await?;
    delivering_by(home, server).await
}

async fn delivering_by(home: Arc<Home>, server: Broker) -> Option<(Receiver, Arc<Home>, Broker, [Daemon; 2])> {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let receiver = Receiver::start(&home, SECRET).await?;
    let key = home.path("key");
    fs::write(&key, SECRET).unwrap();
    let node = async |name| {
        let setup = settings(&server, name, Setup::default()).function(shared());
        setup.option("--deliver-to", receiver.url("/")).option("--deliver-key", &key).start().await
    };
    let [a, b] = [node("a").await, node("b").await];
    knows(&b, 1, 1).await;
    Some((receiver, home, server, [a, b]))
}

/// Has a node accept work whose result is delivered, and returns its id.
async fn delivered(daemon: &Daemon, path: &str, url: &str) -> String {
    let reply = daemon.enqueue(path, "work", &[("x-callback-url", url)]).await;
    assert_eq!((reply.status, reply.header("x-unifaas-stored").as_deref()), (202, Some("site")), "{}", reply.text());
    reply.header("x-unifaas-invocation").expect("an id")
}

#[tokio::test]
async fn results_of_the_site_are_delivered_once_for_each_attempt() {
    let Some((receiver, _home, _server, [a, b])) = delivering().await else { return };
    let done = delivered(&a, "/f/echo", &receiver.url("/done")).await;
    let refused = delivered(&a, "/f/echo", &receiver.url("/refuse/2")).await;
    let dead = delivered(&b, "/f/status/404", &receiver.url("/dead")).await;
    for (id, path, attempts) in [(&done, "/done", 1), (&refused, "/refuse/2", 3)] {
        for daemon in [&a, &b] {
            let shown = daemon.delivery_is(id, "delivered").await;
            assert_eq!((&shown["state"], &shown["delivery_attempts"]), (&json!("done"), &json!(attempts)), "{shown}");
        }
        let got = receiver.got(path);
        assert_eq!(got.len(), attempts, "{got:?}");
        for one in &got {
            assert_eq!((&one["is_signed"], &one["body"]), (&json!(true), &json!("work")), "{one}");
            assert_eq!(one["headers"]["x-unifaas-invocation"], json!(id));
            assert_eq!(one["headers"]["webhook-id"], got[0]["headers"]["webhook-id"], "a repeat is recognised");
        }
    }
    let got = async || receiver.got("/dead");
    let got = eventually(SOON, "the result of a dead letter", got, |got| !got.is_empty()).await;
    let headers = &got[0]["headers"];
    assert_eq!((&headers["x-unifaas-error"], &headers["x-unifaas-status"]), (&json!("rejected"), &json!("404")));
    assert_eq!((got.len(), &headers["x-unifaas-invocation"]), (1, &json!(dead)));
    // Also the node that keeps it, and each node forgets it.
    let shown = [a.delivery_is(&dead, "delivered").await, b.delivery_is(&dead, "delivered").await];
    assert_eq!((&shown[0], &shown[0]["stored"]), (&shown[1], &json!("site")));
    let letters = a.cli(&["dead", "list"]).await.out;
    let keeper = if letters.contains(&dead) { &a } else { &b };
    let removed = keeper.send(request("DELETE", &format!("/invocations/{dead}"), empty())).await.unwrap();
    assert_eq!(removed.status, 204);
    for daemon in [&a, &b] {
        daemon.get(&format!("/invocations/{dead}")).await.problem(404, "no_such_invocation");
    }
}

#[tokio::test]
async fn results_that_wait_for_their_receiver_are_counted_by_each_node_and_keep_no_request() {
    let Some((receiver, _home, server, [a, b])) = delivering().await else { return };
    let (mut ids, body) = (Vec::new(), "x".repeat(100 << 10));
    for _ in 0..6 {
        let url = receiver.url("/refuse/100000");
        // A server that is slow has it a little later.
        let reply = a.enqueue("/f/record?file=/dev/null", &body, &[("x-callback-url", &url)]).await;
        ids.push(reply.header("x-unifaas-invocation").expect("an id"));
    }
    let undelivered =
        async || [&inbox(&a).await["site_undelivered"], &inbox(&b).await["site_undelivered"]].map(Value::clone);
    eventually(SOON, "six results", undelivered, |counted| *counted == [json!(6), json!(6)]).await;
    let stream = async || stream_info(&server).await["state"].clone();
    let is_small = |state: &Value| state["messages"] == 6 && state["bytes"].as_u64() < Some(100 << 10);
    eventually(SOON, "no request waits", stream, is_small).await;
    assert_eq!(a.metrics().await.value("unifaas_async_site_undelivered"), Some(6.0));
    assert!(a.get("/ui/").await.ok().text().contains("6 results of the site to deliver"));
    for id in &ids {
        let removed = b.send(request("DELETE", &format!("/invocations/{id}"), empty())).await.unwrap();
        assert_eq!(removed.status, 204);
    }
    eventually(2 * SOON, "no result", undelivered, |counted| *counted == [json!(0), json!(0)]).await;
}

/// Asks the server of the site.
async fn asked(server: &Broker, subject: &str, body: &str) -> Value {
    let mut client = NatsClient::connect(server.address).await.expect("a connection");
    let answer = client.request(&format!("$JS.API.{subject}"), "", body).await.expect("an answer");
    serde_json::from_str(&answer.body).expect("JSON")
}

async fn stream_info(server: &Broker) -> Value {
    asked(server, "STREAM.INFO.UF_INBOX", "").await
}

#[tokio::test]
async fn consumer_of_an_earlier_version_gives_way_while_nothing_uses_it() {
    let Some((home, server)) = server().await else { return };
    let config = json!({ "name": "UF_INBOX", "subjects": ["uf.default.inbox.*"], "retention": "workqueue" });
    let made = asked(&server, "STREAM.CREATE.UF_INBOX", &config.to_string()).await;
    assert!(made["error"].is_null(), "{made}");
    let config = json!({ "durable_name": "f", "filter_subject": "uf.default.inbox.f", "ack_policy": "explicit" });
    let config = json!({ "stream_name": "UF_INBOX", "config": config });
    let made = asked(&server, "CONSUMER.DURABLE.CREATE.UF_INBOX.f", &config.to_string()).await;
    assert!(made["error"].is_null(), "{made}");
    let a = node(&server, "a", [shared()]).await;
    let file = public_file(home.path("runs"));
    let stored = async || {
        let reply = a.enqueue(&recorded(&file, 0), "", &[]).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        ["x-unifaas-stored", "x-unifaas-invocation"].map(|name| reply.header(name).expect("a header"))
    };
    let [_, id] = eventually(SOON, "the site stores it", stored, |[stored, _]| stored == "site").await;
    assert_eq!(a.ended_invocation(&id).await["state"], "done");
    let known = asked(&server, "CONSUMER.NAMES.UF_INBOX", "").await["consumers"].to_string();
    assert!(known.contains("default=f") && !known.contains("\"f\""), "{known}");
}

#[tokio::test]
async fn dead_letter_whose_receiver_is_busy_is_kept_and_counted_once() {
    let Some((receiver, _home, _server, [a, b])) = delivering().await else { return };
    dead_letters_are_kept_and_counted_once(&receiver, [&a, &b], "0").await;
}

#[tokio::test]
async fn dead_letter_is_kept_and_counted_once_while_the_stream_takes_no_result() {
    let Some((home, server)) = server().await else { return };
    let config = json!({
        "name": "UF_INBOX", "subjects": ["uf.default.inbox.*"], "retention": "workqueue", "max_msgs": LETTERS, "discard": "new",
    });
    let made = asked(&server, "STREAM.CREATE.UF_INBOX", &config.to_string()).await;
    assert!(made["error"].is_null(), "{made}");
    let Some((receiver, _home, _server, [a, b])) = delivering_by(home, server).await else { return };
    // All are there when the first one ends.
    dead_letters_are_kept_and_counted_once(&receiver, [&a, &b], "5").await;
}

/// More than two nodes send at once.
const LETTERS: usize = 12;

async fn dead_letters_are_kept_and_counted_once(receiver: &Receiver, [a, b]: [&Daemon; 2], delay: &str) {
    let mut ids = Vec::new();
    for _ in 0..LETTERS {
        let headers = [("x-callback-url", &*receiver.url("/slow")), ("x-unifaas-delay", delay)];
        ids.push(a.enqueue("/f/status/404", "work", &headers).await.header("x-unifaas-invocation").expect("an id"));
    }
    let got = async || receiver.got("/slow");
    let is_got = |id: &String, got: &[Value]| got.iter().any(|one| one["headers"]["x-unifaas-invocation"] == json!(id));
    eventually(2 * SOON, "all results", got, |got| ids.iter().all(|id| is_got(id, got))).await;
    let (mut letters, mut died) = (String::new(), 0);
    for daemon in [a, b] {
        letters += &daemon.cli(&["dead", "list"]).await.out;
        died += inbox(daemon).await["died"].as_u64().unwrap();
    }
    for id in &ids {
        assert_eq!(letters.matches(id.as_str()).count(), 1, "{letters}");
    }
    assert_eq!(died, LETTERS as u64);
}

#[tokio::test]
async fn result_is_delivered_by_another_node_when_one_is_killed() {
    let Some((receiver, _home, _server, [a, b])) = delivering().await else { return };
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(delivered(&a, "/f/echo", &receiver.url(&format!("/refuse/3/{number}"))).await);
    }
    for id in &ids {
        let attempts = async || b.invocation(id).await["delivery_attempts"].as_u64();
        eventually(SOON, "an attempt to deliver", attempts, |attempts| *attempts >= Some(1)).await;
    }
    a.killed().await;
    for (number, id) in ids.iter().enumerate() {
        b.delivery_is(id, "delivered").await;
        let got = receiver.got(&format!("/refuse/3/{number}"));
        assert!(got.len() >= 4, "{got:?}");
        assert!(got.iter().all(|one| one["headers"]["webhook-id"] == got[0]["headers"]["webhook-id"]), "{got:?}");
    }
}
