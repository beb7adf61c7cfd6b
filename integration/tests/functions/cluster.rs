//! Nodes that know each other through a NATS server: what they forward, and what happens when one or the server is lost.

mod cuts;
mod figures;
mod publish;
mod site;
mod site_kills;
mod sites;

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, process::Command, sync::Arc};

use hyper::body::Bytes;
use integration::{
    Connection, Daemon, Function, Home, Load, Outcome, SOON, Setup, UPGRADE_LIMIT, Workload, brokers::Broker, empty,
    eventually, ms, refusal, request, streamed,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Starts a node.
async fn node(server: &Broker, name: &str, functions: impl IntoIterator<Item = Function>) -> Daemon {
    secured_node(server, name, "tls", functions).await
}

async fn secured_node(
    server: &Broker,
    name: &str,
    security: &str,
    functions: impl IntoIterator<Item = Function>,
) -> Daemon {
    let setup = functions.into_iter().fold(settings(server, name, Setup::default()), Setup::function);
    setup.option("--peer-security", security).start().await
}

fn settings(server: &Broker, name: &str, setup: Setup) -> Setup {
    let setup = setup.option("--cluster", server.url("nats")).option("--peer-listen", "127.0.0.1:0");
    setup.option("--node-name", name)
}

async fn cluster(daemon: &Daemon) -> Value {
    let mut pages = Connection::open(daemon.listen).await.expect("the pages");
    pages.send(request("GET", "/debug/cluster", empty())).await.expect("an answer").ok().json()
}

/// Waits until a node knows so many fresh nodes, with so many functions together.
async fn knows(daemon: &Daemon, nodes: usize, functions: u64) {
    let seen = async || cluster(daemon).await;
    let is_so = |seen: &Value| {
        let peers = seen["peers"].as_array().cloned().unwrap_or_default();
        let offered: u64 = peers.iter().filter_map(|peer| peer["functions"].as_u64()).sum();
        let fresh = peers.iter().filter(|peer| peer["health"] == "fresh").count();
        seen["is_frozen"] == false && fresh == nodes && offered == functions
    };
    eventually(SOON, format!("{nodes} other nodes"), seen, is_so).await;
}

async fn server() -> Option<(Arc<Home>, Broker)> {
    let home = Home::new();
    let broker = Broker::nats(&home, "").await?;
    Some((home, broker))
}

#[tokio::test]
async fn function_of_another_node_is_served_in_one_hop() {
    forwards("tls").await;
}

#[tokio::test]
async fn function_of_another_node_is_served_over_plain_http_on_a_safe_network() {
    forwards("none").await;
}

async fn forwards(security: &str) {
    let Some((_home, server)) = server().await else { return };
    let a = secured_node(&server, "a", security, [Function::new("f")]).await;
    let b = secured_node(&server, "b", security, []).await;
    knows(&b, 1, 1).await;
    let pid = a.get("/invoke/f/pid").await.ok().pid();
    let reply = b.get("/invoke/f/pid").await.ok();
    assert_eq!((reply.pid(), reply.header("x-unifaas-node").as_deref()), (pid, Some("a")));
    assert!(reply.header("server-timing").is_some());

    // As the function would see it without the other node.
    let named = request("GET", "/invoke/f/headers", empty());
    let headers = b.send(named).await.unwrap().ok().text().to_lowercase();
    assert!(headers.contains("x-forwarded-for: 127.0.0.1\r\n") && !headers.contains("x-unifaas-hop"), "{headers}");

    // Small, large and of unknown length: the last two are withheld until the node wants them.
    for size in [3, 1 << 20] {
        let body = "x".repeat(size);
        assert_eq!(b.post("/invoke/f/echo", &body).await.ok().text(), body);
    }
    let pieces = futures::stream::iter((0..100).map(|_| Bytes::from_static(&[b'y'; 4096])));
    let reply = b.send(request("POST", "/invoke/f/echo", streamed(pieces))).await.unwrap().ok();
    assert_eq!(reply.text().len(), 100 * 4096);

    let missing = b.get("/invoke/g/").await;
    missing.problem(404, "no_such_function");
    assert_eq!(missing.header("x-unifaas-untouched").as_deref(), Some("1"));
    assert_eq!(missing.header("x-unifaas-node").as_deref(), Some("b"));
    let counts = &cluster(&b).await["functions"]["f"];
    assert_eq!((&counts["forwarded"], &counts["forwarded_ok"]), (&5.into(), &5.into()), "{counts}");
    assert_eq!(cluster(&a).await["functions"]["f"]["served_for_peers"], 5);
    let metrics = b.metrics().await;
    assert_eq!(metrics.sum("unifaas_forwarded_total{"), 5.0);
    assert_eq!(metrics.value("unifaas_nodes{health=\"fresh\"}"), Some(1.0));
    assert_eq!(metrics.sum("unifaas_node_info{node=\"b\",site=\"default\""), 1.0);
    assert_eq!(a.metrics().await.sum("unifaas_served_for_peers_total{"), 5.0);
}

#[tokio::test]
async fn nodes_are_shown_by_commands_and_the_dashboard() {
    let Some((_home, server)) = server().await else { return };
    let [a, b] = [node(&server, "a", [Function::new("f")]).await, node(&server, "b", []).await];
    knows(&b, 1, 1).await;
    b.get("/invoke/f/pid").await.ok();
    let listed = async || b.cli(&["ps", "--cluster"]).await.out;
    eventually(SOON, "the load of f", listed, |out| out.lines().any(|line| line.starts_with("f "))).await;
    let page = b.get("/ui/nodes").await.ok().text();
    for text in ["href=\"/ui/nodes\" aria-current=\"page\"", ">b (this node)<", ">a<", "1 fresh", "connected"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let (_, placements) = page.split_once("Last placements").expect("placements");
    assert!(placements.contains("/ui/functions/f") && placements.contains("<td>a</td>"), "{placements}");
    for command in ["ps", "top"] {
        let shown = b.cli(&[command, "--cluster"]).await;
        assert_eq!(shown.status, Some(0), "{shown:?}");
        let line = |start: &str| shown.out.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        assert!(line("b of site default, NATS server ").contains("(2."), "{shown:?}");
        assert!(line("b (this node) ").contains(" serving ") && line("a ").contains(" serving "), "{shown:?}");
        assert!(line("f ").contains(" a ") && line("f ").contains(" serving"), "{shown:?}");
    }
    let json = b.cli(&["ps", "--cluster", "--json"]).await.out;
    assert!(json.contains("\"peers\":[{"), "{json}");

    a.signal(Signal::SIGSTOP);
    let is_suspect = |out: &String| out.lines().any(|line| line.starts_with("a ") && line.contains(" suspect "));
    eventually(SOON, "a suspect node", listed, is_suspect).await;
    assert!(b.get("/ui/nodes").await.ok().text().contains("it was not heard for"));
    a.signal(Signal::SIGCONT);

    let alone = Daemon::with(Function::new("f")).await;
    assert_eq!(alone.get("/ui/nodes").await.status, 404);
    assert!(!alone.get("/ui/").await.ok().text().contains("/ui/nodes"));
    let refused = alone.cli(&["ps", "--cluster"]).await;
    assert!(refused.status == Some(4) && refused.err.contains("runs without --cluster"), "{refused:?}");
}

#[tokio::test]
async fn request_without_a_free_slot_goes_to_a_node_that_has_one() {
    let Some((_home, server)) = server().await else { return };
    let small = || Function::new("f").set("min-instances", 1).set("max-instances", 1);
    let (a, b) = (node(&server, "a", [small()]).await, node(&server, "b", [small()]).await);
    // Both have an idle instance, and know how long requests take.
    for (daemon, name) in [(&a, "a"), (&b, "b")] {
        daemon.until("f", "idle", 1).await;
        let reply = daemon.get("/invoke/f/sleep?ms=200").await.ok();
        assert_eq!(reply.header("x-unifaas-node").as_deref(), Some(name));
    }
    let free = async || cluster(&b).await["peers"][0]["loads"]["f"]["free"].clone();
    eventually(SOON, "the free slot of the other node", free, |free| *free == 1).await;
    let busy = b.start(request("GET", "/invoke/f/stream?n=1000&ms=50", empty())).await;
    let reply = b.get("/invoke/f/pid").await.ok();
    assert_eq!(reply.header("x-unifaas-node").as_deref(), Some("a"));
    drop(busy);
}

#[tokio::test]
async fn killed_node_costs_later_requests_nothing() {
    let Some((_home, server)) = server().await else { return };
    let (a, b) = (node(&server, "a", [Function::new("f")]).await, node(&server, "b", []).await);
    let c = node(&server, "c", [Function::new("f")]).await;
    knows(&b, 2, 2).await;
    for _ in 0..10 {
        b.get("/invoke/f/pid").await.ok();
    }
    a.killed().await;
    for _ in 0..50 {
        assert_eq!(b.get("/invoke/f/pid").await.ok().header("x-unifaas-node").as_deref(), Some("c"));
    }
    drop(c);
    // No node is left that has it.
    let refused = async || b.get("/invoke/f/pid").await.status;
    eventually(SOON, "a refusal", refused, |status| matches!(status, 404 | 503)).await;
}

#[tokio::test]
async fn nodes_serve_each_other_without_the_server_and_join_again() {
    let Some((_home, mut server)) = server().await else { return };
    let (a, b) = (node(&server, "a", [Function::new("f")]).await, node(&server, "b", []).await);
    knows(&b, 1, 1).await;
    for _ in 0..2 {
        server.end(Signal::SIGKILL);
        eventually(SOON, "a frozen directory", async || cluster(&b).await["is_frozen"].clone(), |it| *it == true).await;
        for _ in 0..20 {
            b.get("/invoke/f/pid").await.ok();
        }
        server.start().await;
        knows(&b, 1, 1).await;
        knows(&a, 1, 0).await;
    }
}

#[tokio::test]
async fn draining_node_gets_no_more_requests() {
    let Some((_home, server)) = server().await else { return };
    let (a, b) = (node(&server, "a", [Function::new("f")]).await, node(&server, "b", [Function::new("f")]).await);
    let c = node(&server, "c", []).await;
    knows(&c, 2, 2).await;
    let stream = a.start(request("GET", "/invoke/f/stream?n=100&ms=50", empty())).await;
    a.signal(Signal::SIGTERM);
    let is_draining = async || {
        let peers = cluster(&c).await["peers"].clone();
        peers.as_array().is_some_and(|peers| peers.iter().any(|it| it["name"] == "a" && it["is_draining"] == true))
    };
    eventually(SOON, "a heartbeat of the draining node", is_draining, |it| *it).await;
    for _ in 0..20 {
        assert_eq!(c.get("/invoke/f/pid").await.ok().header("x-unifaas-node").as_deref(), Some("b"));
    }
    drop((stream, b));
}

#[tokio::test]
async fn copy_of_a_state_directory_does_not_join() {
    let Some((_home, server)) = server().await else { return };
    let a = node(&server, "a", []).await;
    let copy = Setup::default();
    let state = copy.home().path("state");
    fs::create_dir_all(&state).unwrap();
    let copied = Command::new("cp").arg(a.home.path("state/identity")).arg(&state).status().unwrap();
    assert!(copied.success());
    let b = settings(&server, "b", copy).start().await;
    let link = async || cluster(&b).await["link"].clone();
    let refused = eventually(SOON, "a refusal", link, |link| link["state"] == "refused").await;
    assert!(refused["why"].as_str().is_some_and(|why| why.contains("is the same node")), "{refused}");
    drop(a);
    // The other one has gone.
    eventually(ms(60_000), "it joins", async || cluster(&b).await["link"].clone(), |it| it["state"] == "connected")
        .await;
}

/// Returns the address of a node's peer listener.
async fn peer_listener(daemon: &Daemon) -> SocketAddr {
    daemon.debug().await["daemon"]["settings"]["peer_listen"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn peer_listener_answers_nothing_without_tls() {
    let Some((_home, server)) = server().await else { return };
    let a = node(&server, "a", [Function::new("f")]).await;
    let mut stream = TcpStream::connect(peer_listener(&a).await).await.unwrap();
    stream.write_all(b"GET /invoke/f/pid HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert of TLS, at most.
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    assert!(answer.len() < 16 && !answer.starts_with(b"HTTP"), "{answer:?}");
    let refused = async || cluster(&a).await["refused_peers"].clone();
    eventually(SOON, "the refusal is counted", refused, |it| it["without_tls"] == 1).await;
}

#[tokio::test]
async fn node_whose_key_is_not_known_is_refused() {
    let home = Home::new();
    // The reader hears others, and is not heard.
    let users = "authorization { users = [\n{ user: node, password: x }\n\
        { user: reader, password: x, permissions: { publish: { deny: \"uf.*.node.>\" } } } ] }";
    let Some(server) = Broker::nats(&home, users).await else { return };
    let joining = |user: &str, name| {
        let url = format!("nats://{user}:x@{}", server.address);
        settings(&server, name, Setup::default()).without("--cluster").option("--cluster", url)
    };
    let a = joining("node", "a").function(Function::new("f")).start().await;
    let b = joining("node", "b").start().await;
    let reader = joining("reader", "reader").start().await;
    knows(&b, 1, 1).await;
    b.get("/invoke/f/pid").await.ok();
    let listed = async || cluster(&reader).await["peers"].clone();
    let knows_f = |peers: &Value| peers.as_array().is_some_and(|it| it.iter().any(|peer| peer["functions"] == 1));
    eventually(SOON, "the reader knows the function", listed, knows_f).await;
    for _ in 0..2 {
        reader.get("/invoke/f/pid").await.problem(503, "host_saturated");
    }
    let refused = async || cluster(&a).await["refused_peers"].clone();
    let refused = eventually(SOON, "refusals", refused, |it| it["unknown_keys"].as_u64() > Some(0)).await;
    assert_eq!(refused["last"]["why"], "its key is not that of a known node", "{refused}");
    assert_eq!(cluster(&a).await["functions"]["f"]["served_for_peers"], 1);
}

#[tokio::test]
async fn new_key_of_a_node_is_noticed_and_replaces_the_one_before() {
    let Some((_home, server)) = server().await else { return };
    let (mut a, b) = (node(&server, "a", [Function::new("f")]).await, node(&server, "b", []).await);
    knows(&b, 1, 1).await;
    b.get("/invoke/f/pid").await.ok();
    let key = async || cluster(&b).await["peers"][0]["key"].clone();
    let before = key().await;
    a.end().await;
    let file = a.home.path("state/cluster-key");
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    fs::remove_file(&file).unwrap();
    let again = settings(&server, "a", Setup::at(&a.home)).start().await;
    let changed = eventually(SOON, "another key", key, |key| key.is_string() && *key != before).await;
    let line = b.logged_line("node has another key: the one before counts no more").await;
    assert_eq!(
        (&line["before"], line["key"].as_str().map(|key| key.contains(changed.as_str().unwrap()))),
        (&before, Some(true)),
        "{line}"
    );
    knows(&b, 1, 1).await;
    b.get("/invoke/f/pid").await.ok();
    drop(again);
}

#[tokio::test]
async fn nodes_of_which_one_has_no_tls_do_not_ask_each_other() {
    let Some((_home, server)) = server().await else { return };
    let a = secured_node(&server, "a", "none", [Function::new("f")]).await;
    let b = node(&server, "b", []).await;
    knows(&b, 1, 0).await;
    b.get("/invoke/f/").await.problem(404, "no_such_function");
    let why = cluster(&b).await["peers"][0]["why"].clone();
    assert_eq!(why, "it has --peer-security none, unlike this node");
    drop(a);
}

#[tokio::test]
async fn key_that_other_users_may_read_is_refused_at_the_start() {
    let setup = Setup::default();
    let file = setup.home().path("state/cluster-key");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let setup = setup.function(Function::new("f")).option("--cluster", "nats://127.0.0.1:1");
    let setup = setup.option("--peer-listen", "127.0.0.1:0");
    let why = refusal(setup.command()).await;
    assert!(why.contains("cluster-key (mode 644)"), "{why}");
}

#[tokio::test]
async fn upgraded_node_serves_the_requests_of_others_all_along() {
    let Some((_home, server)) = server().await else { return };
    let (mut a, b) = (node(&server, "a", [Function::new("f")]).await, node(&server, "b", []).await);
    knows(&b, 1, 1).await;
    let id = async || cluster(&b).await["peers"][0]["node"].clone();
    let before = id().await;
    // The slow ones may not be repeated, and are in flight when the new daemon takes over.
    let quick = Workload { method: "GET", path: "/invoke/f/pid", clients: 4, pause: ms(10) };
    let slow = Workload { method: "POST", path: "/invoke/f/sleep?ms=700", clients: 2, pause: ms(10) };
    let load = Load::on(b.listen, &[quick, slow]);
    let successor = a.upgrade().await;
    let joined = async || b.log().lines().filter(|line| line.contains("node has joined")).count();
    eventually(SOON, "the new daemon is heard", joined, |joined| *joined == 2).await;
    a.ended_within(UPGRADE_LIMIT).await;
    let failed: Vec<_> =
        load.stop().await.into_iter().filter(|answer| answer.outcome != Outcome::Function { status: 200 }).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(id().await, before);
    b.get("/invoke/f/pid").await.ok();
    drop(successor);
}
