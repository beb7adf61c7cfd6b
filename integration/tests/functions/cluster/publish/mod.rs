//! Published functions: they are served by all nodes, whole or not at all, whatever is lost meanwhile.

mod denied;
mod disk;
mod example;
mod many;
mod transfer;
mod upgrade;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use integration::{
    Daemon, Function, Home, Reply, SOON, Setup,
    brokers::{Broker, own_address},
    cli, eventually, ms,
    nodes::Nodes,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use super::{cluster, knows, node, peer_listener, server, settings};

/// What a version takes at most: to all nodes, and back. It is four times what the design says, for slow and busy machines.
const EVERYWHERE: u64 = 20_000;
const BACK: u64 = 8_000;

/// Writes a version of a function, with a file of 1 MiB. Returns its directory.
fn version(home: &Home, function: Function, number: u32) -> PathBuf {
    let function = function.env("VERSION", &number.to_string());
    written(home, &function, number)
}

fn written(home: &Home, function: &Function, number: u32) -> PathBuf {
    let root = home.path("published");
    function.write(&root, home);
    let directory = root.join(function.name());
    fs::create_dir_all(directory.join("data")).unwrap();
    let content: Vec<u8> = (0..1_u32 << 18).flat_map(|word| (word.wrapping_mul(number)).to_le_bytes()).collect();
    fs::write(directory.join("data/content"), content).unwrap();
    directory
}

async fn published(daemon: &Daemon, function: &str) -> Value {
    cluster(daemon).await["published"]["functions"][function].clone()
}

/// Waits until nodes serve the version of that number, each by itself.
async fn serve(nodes: &[&Daemon], function: &str, number: u32) {
    for daemon in nodes {
        let asked = async || daemon.get(&format!("/invoke/{function}/env?name=VERSION")).await;
        let serves = |reply: &Reply| reply.status == 200 && reply.text() == number.to_string();
        eventually(SOON, format!("version {number} of {function}"), asked, serves).await;
    }
}

async fn publish(daemon: &Daemon, directory: &Path, more: &[&str]) -> cli::Ran {
    let directory = directory.display().to_string();
    daemon.cli(&[&["publish", &directory], more].concat()).await
}

/// Starts two nodes that know each other.
async fn two() -> Option<(Arc<Home>, Broker, Daemon, Daemon)> {
    let (home, server) = server().await?;
    let (a, b) = (node(&server, "a", []).await, node(&server, "b", []).await);
    knows(&a, 1, 0).await;
    knows(&b, 1, 0).await;
    follows(&[&a, &b]).await;
    Some((home, server, a, b))
}

/// Waits until nodes follow the catalogue.
async fn follows(nodes: &[&Daemon]) {
    for daemon in nodes {
        let trouble = async || cluster(daemon).await["published"]["trouble"].clone();
        eventually(SOON, "the catalogue is followed", trouble, Value::is_null).await;
    }
}

#[tokio::test]
async fn published_function_is_served_by_all_nodes_and_goes_back() {
    let Some((_home, _server, a, b)) = two().await else { return };
    let first = version(&a.home, Function::new("f"), 1);
    let begun = Instant::now();
    let ran = publish(&a, &first, &["--copies", "2"]).await;
    assert!(ran.status == Some(0) && ran.out.contains("on a, b"), "{ran:?}");
    serve(&[&a, &b], "f", 1).await;
    assert!(begun.elapsed() < ms(EVERYWHERE), "{:?}", begun.elapsed());
    assert_eq!(published(&b, "f").await["state"], "current");

    let ran = publish(&b, &version(&a.home, Function::new("f"), 2), &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &b], "f", 2).await;
    let begun = Instant::now();
    let ran = a.cli(&["rollback", "f"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serve(&[&a, &b], "f", 1).await;
    assert!(begun.elapsed() < ms(BACK), "{:?}", begun.elapsed());

    let listed = async || b.cli(&["versions", "f"]).await.out;
    let is_served = |out: &String| out.lines().any(|line| line.contains(" wanted ") && line.contains("b, a"));
    let out = eventually(SOON, "both nodes serve it", listed, is_served).await;
    assert!(out.lines().any(|line| line.contains(" before ")), "{out}");
    assert!(b.cli(&["describe", "f"]).await.out.lines().any(|line| line.starts_with("published ")));
    let page = b.get("/ui/nodes").await.ok().text();
    let (_, section) = page.split_once("Published functions").expect("the section");
    assert!(section.contains("/ui/functions/f") && section.contains("current"), "{section}");
    let metrics = b.metrics().await;
    assert_eq!(metrics.value("unifaas_published_functions{state=\"current\"}"), Some(1.0));
    assert!(metrics.value("unifaas_blob_bytes_total{direction=\"fetched\"}") >= Some(f64::from(1 << 20)));

    let ran = b.cli(&["unpublish", "f"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for daemon in [&a, &b] {
        eventually(SOON, "f is gone", async || daemon.get("/invoke/f/").await.status, |status| *status == 404).await;
        let files = async || fs::read_dir(daemon.home.path("state/functions/f")).map_or(0, |files| files.count());
        eventually(SOON, "its files are removed", files, |files| *files == 0).await;
    }
}

#[tokio::test]
async fn trial_of_a_version_is_served_by_its_share_of_the_nodes() {
    let Some((_home, _server, a, b)) = two().await else { return };
    // Two nodes have the same place for a function now and then.
    for name in ["f", "g", "h"] {
        let ran = publish(&a, &version(&a.home, Function::new(name), 1), &["--copies", "2"]).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        let mut places = Vec::new();
        for daemon in [&a, &b] {
            places.push(published(daemon, name).await["place"].as_u64().unwrap());
        }
        if places[0] == places[1] {
            continue;
        }
        let share = (places[0].min(places[1]) + 1).to_string();
        let (tries, stays) = if places[0] < places[1] { (&a, &b) } else { (&b, &a) };
        serve(&[&a, &b], name, 1).await;
        let next = version(&a.home, Function::new(name), 2);
        let ran = publish(&b, &next, &["--copies", "2", "--percent", &share]).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        serve(&[tries], name, 2).await;
        // Neither node has the other one serve its requests.
        for _ in 0..20 {
            serve(&[tries], name, 2).await;
            serve(&[stays], name, 1).await;
        }
        let digits = published(&a, name).await["trial"]["version"].as_str().unwrap()[..12].to_owned();
        let ran = a.cli(&["rollout", name, &digits]).await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        serve(&[&a, &b], name, 2).await;
        return;
    }
    panic!("three functions have the same place on both nodes");
}

#[tokio::test]
async fn version_that_does_not_start_goes_back_by_itself() {
    let Some((_home, _server, a, b)) = two().await else { return };
    publish(&a, &version(&a.home, Function::new("f"), 1), &[]).await;
    serve(&[&a, &b], "f", 1).await;
    let bad = "min-instances = 1\n[process]\ncommand = [\"/bin/false\"]\n";
    let ran = publish(&b, &written(&a.home, &Function::verbatim("f", bad), 2), &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for daemon in [&a, &b] {
        let state = async || published(daemon, "f").await;
        let state = eventually(4 * SOON, "it has failed", state, |it| it["state"] == "failed").await;
        let (_, failed) = state["failed"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(failed["why"], "its instances keep failing to start");
    }
    serve(&[&a, &b], "f", 1).await;
    let listed = async || a.cli(&["versions", "f"]).await.out;
    let is_shown = |out: &String| out.lines().any(|line| line.contains(" wanted ") && line.contains("a, b"));
    eventually(SOON, "other nodes are shown", listed, is_shown).await;
    // Another publication is another attempt.
    publish(&b, &version(&a.home, Function::new("f"), 3), &[]).await;
    serve(&[&a, &b], "f", 3).await;
    assert_eq!(published(&a, "f").await["failed"], serde_json::json!({}));
}

#[tokio::test]
async fn function_of_the_registry_is_served_instead() {
    let Some((_home, _server, a, b)) = two().await else { return };
    let registry = b.home.path("registry");
    Function::new("f").env("VERSION", "9").write(&registry, &b.home);
    serve(&[&b], "f", 9).await;
    let ran = publish(&a, &version(&a.home, Function::new("f"), 1), &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let shadowed = async || published(&b, "f").await["state"].clone();
    eventually(SOON, "it is shadowed", shadowed, |state| *state == "shadowed").await;
    serve(&[&b], "f", 9).await;
    assert!(b.cli(&["describe", "f"]).await.out.contains("the function of the registry is served instead"));
    assert!(b.cli(&["versions"]).await.err.contains("this node serves instead"));
    fs::remove_dir_all(registry.join("f")).unwrap();
    serve(&[&a, &b], "f", 1).await;
}

#[tokio::test]
async fn publishers_at_the_same_time_see_each_other() {
    let Some((_home, _server, a, b)) = two().await else { return };
    let versions = [1, 2].map(|number| {
        let home = if number == 1 { &a.home } else { &b.home };
        version(home, Function::new("f"), number)
    });
    let (mut published_once, mut refused) = (0, 0);
    for _ in 0..4 {
        let (first, second) = tokio::join!(publish(&a, &versions[0], &[]), publish(&b, &versions[1], &[]));
        for ran in [first, second] {
            match ran.status {
                Some(0) => published_once += 1,
                _ => {
                    assert!(ran.err.contains("publish_conflict") && ran.err.contains("repeat it"), "{ran:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(published_once >= 4 && published_once + refused == 8, "{published_once} and {refused}");
    let wanted = published(&a, "f").await["wanted"].clone();
    let same = async || published(&b, "f").await["wanted"].clone();
    eventually(SOON, "the nodes agree", same, |it| *it == wanted).await;
}

#[tokio::test]
async fn damaged_blob_is_refused_and_comes_from_elsewhere() {
    let Some((_home, server, a, b)) = two().await else { return };
    let ran = publish(&a, &version(&a.home, Function::new("f"), 1), &["--copies", "2"]).await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let id = published(&a, "f").await["wanted"].as_str().unwrap().to_owned();
    let file = |daemon: &Daemon| daemon.home.path(&format!("state/functions/f/{id}/data/content"));
    let good = fs::read(file(&a)).unwrap();
    for daemon in [&a, &b] {
        fs::write(file(daemon), vec![7; good.len()]).unwrap();
    }
    let c = node(&server, "c", []).await;
    let problem = async || published(&c, "f").await["problem"].as_str().unwrap_or_default().to_owned();
    eventually(SOON, "it is refused", problem, |problem| problem.contains("content is not that of blob")).await;
    assert!(!file(&c).exists());
    assert!(cluster(&c).await["published"]["damaged_blobs"].as_u64() >= Some(1));
    fs::write(file(&b), &good).unwrap();
    eventually(SOON, "it comes from b", async || fs::read(file(&c)).unwrap_or_default(), |it| *it == good).await;
}

#[tokio::test]
async fn upload_that_breaks_off_leaves_the_version_before() {
    let Some((_home, server, a, b)) = two().await else { return };
    publish(&a, &version(&a.home, Function::new("f"), 1), &["--copies", "2"]).await;
    serve(&[&a, &b], "f", 1).await;
    let staging = a.home.path("state/functions/.staging");
    let parts = async || fs::read_dir(&staging).map_or(0, |parts| parts.count());
    let half = "POST /debug/functions/f/publish?manifest=1000 HTTP/1.1\r\nhost: localhost\r\nx-unifaas: 1\r\n\
                content-length: 100000\r\n\r\n{";
    for is_killed in [false, true] {
        let mut stream = TcpStream::connect(a.listen).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        eventually(SOON, "an upload", parts, |parts| *parts == 1).await;
        if is_killed {
            break;
        }
        drop(stream);
        eventually(SOON, "nothing is left", parts, |parts| *parts == 0).await;
    }
    let home = a.home.clone();
    a.killed().await;
    serve(&[&b], "f", 1).await;
    // Without the server: what it has is enough.
    let mut server = server;
    server.end(Signal::SIGKILL);
    let a = settings(&server, "a", Setup::at(&home)).start().await;
    serve(&[&a], "f", 1).await;
    server.start().await;
    eventually(SOON, "nothing is left", parts, |parts| *parts == 0).await;
    follows(&[&a]).await;
    assert_eq!(published(&a, "f").await["state"], "current");
    // Its instances have the program of the other one's home.
    drop(b);
}

#[tokio::test]
async fn publishing_says_why_it_cannot() {
    let Some((home, server, a, _b)) = two().await else { return };
    let good = version(&a.home, Function::new("f"), 1);
    let refused = |ran: cli::Ran, words: &str| {
        assert!(ran.status != Some(0) && ran.err.contains(words), "{words}: {ran:?}");
    };
    refused(publish(&a, &good, &["--copies", "3", "--wait", "1s"]).await, "2 of 3 nodes have it");
    let bad = written(&a.home, &Function::verbatim("g", "keepalive = \"long\""), 1);
    refused(publish(&a, &bad, &[]).await, "keepalive");
    std::os::unix::fs::symlink("/etc/passwd", good.join("data/passwd")).unwrap();
    refused(publish(&a, &good, &[]).await, "which is not known to be within the directory");
    fs::remove_file(good.join("data/passwd")).unwrap();
    fs::File::create(good.join("data/large")).unwrap().set_len((1 << 30) + 1).unwrap();
    refused(publish(&a, &good, &[]).await, "1073741824");
    fs::remove_file(good.join("data/large")).unwrap();
    refused(a.cli(&["rollout", "f", "0000"]).await, "no_such_version");
    refused(a.cli(&["rollback", "f"]).await, "no_version_before");
    refused(a.cli(&["rollback", "h"]).await, "not_published");
    let alone = Daemon::with(Function::new("other")).await;
    refused(publish(&alone, &good, &[]).await, "without --cluster");
    drop(server);
    let lost = async || cluster(&a).await["published"]["trouble"].clone();
    eventually(SOON, "the catalogue is not followed", lost, Value::is_string).await;
    refused(publish(&a, &good, &[]).await, "catalogue_unavailable");
    serve(&[&a], "f", 1).await;
    let Some(without) = Broker::nats_at(&home, own_address(4222), "").await else { return };
    let c = node(&without, "c", []).await;
    let off = async || publish(&c, &good, &[]).await.err;
    eventually(SOON, "JetStream is off", off, |err| err.contains("JetStream is off")).await;
}

#[tokio::test]
async fn node_that_was_cut_off_serves_what_was_published_meanwhile() {
    let Some(nodes) = Nodes::start([]).await else { return };
    let serves = async |node: &str, number: u32| {
        let asked = async || nodes.get(node, "/invoke/f/env?name=VERSION");
        let is_so = |reply: &Reply| reply.status == 200 && reply.text() == number.to_string();
        eventually(4 * SOON, format!("version {number} on {node}"), asked, is_so).await;
    };
    let publish = async |number, copies: &str| {
        let directory = version(nodes.home(), Function::new("f"), number).display().to_string();
        nodes.cli("a", &["publish", &directory, "--copies", copies]).await
    };
    let ran = publish(1, "3").await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    nodes.set_link("c", "down");
    let ran = publish(2, "2").await;
    assert_eq!(ran.status, Some(0), "{ran:?}");
    serves("b", 2).await;
    serves("c", 1).await;
    let lost = async || nodes.get("c", "/debug/cluster").json()["published"]["trouble"].clone();
    eventually(4 * SOON, "the node knows that it is cut off", lost, Value::is_string).await;
    serves("c", 1).await;
    nodes.set_link("c", "up");
    let healed = Instant::now();
    serves("c", 2).await;
    println!("served {:?} after the cut", healed.elapsed());
    assert!(healed.elapsed() < ms(EVERYWHERE), "{:?}", healed.elapsed());

    // The server is killed while something is published: it is published or refused, and as a whole.
    let (ran, ()) = tokio::join!(publish(3, "3"), nodes.kill_server());
    let served = async || ["a", "b", "c"].map(|node| nodes.get(node, "/invoke/f/env?name=VERSION").text());
    let is_one = |[a, b, c]: &[String; 3]| (a == "3" || a == "2" && ran.status != Some(0)) && a == b && b == c;
    eventually(4 * SOON, "all nodes serve one version", served, is_one).await;
    let again = async || publish(4, "3").await;
    eventually(4 * SOON, "it can be published again", again, |ran| ran.status == Some(0)).await;
    for node in ["a", "b", "c"] {
        serves(node, 4).await;
    }
}
